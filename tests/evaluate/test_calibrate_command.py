"""`tap_ext calibrate` writes what `tap_ext evaluate --calibration` places full steps by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import tap_ext
from tap_ext.calibrate import Calibration
from tap_ext.cli import main
from tap_ext.demo import bundled
from tap_ext.evaluate.methods import METHODS
from tests.evaluate.conftest import STEPS, Run, lines

SEEDS = [3, 4, 9]
OPTIONS = [f"--steps={STEPS}", "--seeds=3-4,9"]


@pytest.fixture(scope="module")
def saved(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("found") / "found.json"
    assert main(["calibrate", *OPTIONS, f"--out={out}"]) == 0
    return out


def test_the_file_is_that_of_the_same_pictures(saved: Path) -> None:
    pipe = bundled.load_pipeline()

    def generate() -> torch.Tensor:
        return bundled.generate(pipe, bundled.CLASSES[:3], STEPS, SEEDS)

    wanted = tap_ext.calibrate(pipe, generate)
    found = Calibration.load(saved)
    np.testing.assert_allclose(found.gram, wanted.gram, rtol=1e-5)
    assert found.num_steps == STEPS


def test_evaluate_places_full_steps_by_it(saved: Path, tmp_path: Path, run: Run) -> None:
    methods = "--methods=calibrated,calibrated-hidden"
    try:
        rows = run(
            tmp_path, methods, "--full-steps=4", "--seeds=1", f"--calibration={saved}",
            "--against=calibrated",
        )  # fmt: skip
    finally:
        for name in ("calibrated", "calibrated-hidden"):
            METHODS.pop(name)
    wanted = list(Calibration.load(saved).schedule(4).steps)
    made = [line["branches"] for line in lines(tmp_path)[1:]]
    assert made == [{"0": wanted}] * 2
    assert rows[1]["psnr"] != rows[2]["psnr"]


def test_it_does_not_replace_a_file_unasked(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy.json"
    shutil.copy(saved, copy)
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", *OPTIONS, f"--out={copy}"])
    assert caught.value.code == 2
    assert "exists; --overwrite replaces it" in capsys.readouterr().err
    assert main(["calibrate", f"--steps={STEPS}", "--seeds=5", f"--out={copy}", "--overwrite"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{copy}: bundled, 1 pictures of {STEPS} steps"
    (eight,) = (line for line in shown if line.startswith("  8 full: "))
    assert [int(s) for s in eight.partition(": ")[2].split(", ")] == list(
        Calibration.load(copy).schedule(8).steps
    )
    assert copy.read_text() != saved.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["calibrate", "--model=no/folder"], "no/folder"),
        (["calibrate", "--steps=1"], "--steps"),
        (["calibrate", "--prompts=no/file"], "argument --prompts: No such file"),
        (["evaluate", "--calibration=no/file"], "argument --calibration: "),
    ],
)
def test_bad_arguments(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        main([*arguments, f"--out={out}"])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
    assert not out.exists()


def test_a_calibration_of_another_length_or_kind(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--methods=calibrated", "--full-steps=4", f"--out={tmp_path / 'out'}"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"kind": "other"}))
    for path, steps, said in (
        (saved, 8, f"is for runs of {STEPS} steps, not of 8"),
        (other, STEPS, "must be a file that Calibration.save wrote"),
    ):
        with pytest.raises(SystemExit):
            main([*arguments, f"--steps={steps}", f"--calibration={path}"])
        assert said in capsys.readouterr().err
        for name in ("calibrated", "calibrated-hidden"):
            METHODS.pop(name, None)

"""A table's numbers, recomputed from the stored lines and from the pictures."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from tap_ext.demo import bundled
from tap_ext.evaluate.methods import METHODS
from tests.evaluate.conftest import STEPS, Run, lines

SEEDS = 12


def test_cells_follow_from_the_stored_lines(run: Run, tmp_path: Path) -> None:
    rows = run(tmp_path, "--methods=default,steps", "--full-steps=4,6", f"--seeds={SEEDS}")
    assert [(row["method"], row["full_steps"]) for row in rows] == [
        ("untouched", STEPS),
        ("default", 4),
        ("steps", 4),
        ("default", 6),
        ("steps", 6),
    ]
    stored = lines(tmp_path)
    assert len(stored) == 5 * SEEDS
    for row in rows[1:]:
        own, base = (
            {
                line["seed"]: line
                for line in stored
                if line["method"] == method and line["full_steps"] == row["full_steps"]
            }
            for method in (row["method"], "default")
        )
        for metric in ("psnr", "ssim"):
            column = np.array([own[seed][metric] for seed in range(SEEDS)])
            assert row[metric] == pytest.approx(column.mean())
            assert row[f"{metric}_se"] == pytest.approx(column.std(ddof=1) / math.sqrt(SEEDS))
            # A tenth of 12 is begun by 2.
            assert row[f"{metric}_worst"] == pytest.approx(np.sort(column)[:2].mean())
            if row["method"] == "default":
                assert row[f"{metric}_diff"] is None
                continue
            difference = column - [base[seed][metric] for seed in range(SEEDS)]
            error = difference.std(ddof=1) / math.sqrt(SEEDS)
            assert row[f"{metric}_diff"] == pytest.approx(difference.mean())
            assert row[f"{metric}_diff_se"] == pytest.approx(error)
        assert row["seconds"] == pytest.approx(np.mean([x["seconds"] for x in own.values()]))
    assert rows[1]["branches"] == {"0": 4.0}
    assert rows[2]["flops_ratio"] == pytest.approx(STEPS / 4)
    assert 1 < rows[1]["flops_ratio"] < STEPS / 4

    with (tmp_path / "table.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert [float(cell["psnr"]) for cell in cells[1:]] == [row["psnr"] for row in rows[1:]]
    assert cells[0]["psnr"] == ""
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == rows
    text = (tmp_path / "table.md").read_text().splitlines()
    (cell,) = (line for line in text if line.startswith("| steps ") and "| 4 " in line)
    shown = [part.strip() for part in cell.split("|")]
    assert shown[3] == f"{rows[2]['psnr']:.2f} ± {rows[2]['psnr_se']:.2f}"
    assert shown[4] == f"{rows[2]['psnr_diff']:+.2f} ± {rows[2]['psnr_diff_se']:.2f}"


def test_a_stored_line_is_that_of_the_pictures(run: Run, tmp_path: Path) -> None:
    run(tmp_path, "--methods=steps", "--full-steps=4", "--seeds=3", "--first-seed=5")
    pipe = bundled.load_pipeline()
    found = [line for line in lines(tmp_path) if line["method"] == "steps"]
    assert [line["seed"] for line in found] == [5, 6, 7]
    assert [line["prompt"] for line in found] == list(bundled.CLASSES[:3])
    for line in found:
        fewer, reference = (
            bundled.generate(pipe, [line["prompt"]], steps, line["seed"])[0].double().numpy()
            for steps in (4, STEPS)
        )
        wanted = peak_signal_noise_ratio(reference, fewer, data_range=1)
        assert line["psnr"] == pytest.approx(wanted, abs=1e-3)
        assert line["settings"]["dtype"] == "float32"


def test_every_method_keeps_to_its_budget(run: Run, tmp_path: Path) -> None:
    exact = ",".join(name for name in METHODS if name not in ("speca", "teacache"))
    rows = run(tmp_path, f"--methods={exact}", "--full-steps=4", "--seeds=2")[1:]
    assert {row["full_steps_made"] for row in rows} == {4.0}
    assert len({row["psnr"] for row in rows}) > len(rows) - 4, "methods differ"
    for line in lines(tmp_path):
        if line["branches"] is not None:
            assert [len(steps) for steps in line["branches"].values()] == [4]


def test_thresholds_are_tuned_on_other_samples(run: Run, tmp_path: Path) -> None:
    rows = run(tmp_path, "--methods=teacache", "--full-steps=6", "--seeds=2")
    tuned = [line for line in lines(tmp_path) if "threshold" in line]
    assert len(tuned) == 1
    assert abs(np.mean(tuned[0]["full"]) - 6) <= 1
    assert f"threshold={tuned[0]['threshold']}" in lines(tmp_path)[-1]["settings"]["config"]
    assert rows[1]["full_steps_made"] == rows[1]["branches"]["0"]
    assert run(tmp_path, "--methods=teacache", "--full-steps=6", "--seeds=2") == rows


def test_identical_pictures_have_no_psnr(run: Run, tmp_path: Path) -> None:
    row = run(tmp_path, "--methods=steps", f"--full-steps={STEPS}", "--seeds=2")[1]
    assert row["psnr"] is None
    assert row["ssim"] == pytest.approx(1)

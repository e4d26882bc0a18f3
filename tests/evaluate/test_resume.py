"""Whatever breaks a run off, what was finished stays, and the same command goes on."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tap_ext.cli import main
from tap_ext.evaluate import blocks
from tap_ext.evaluate import run as running
from tap_ext.evaluate.store import Store
from tests.evaluate.conftest import COMMON, Run, lines, values

GRID = ("--methods=even,steps", "--full-steps=4,6", "--seeds=4")
PICTURES = 5 * 4


def command(out: Path, *arguments: str) -> int:
    return main(["evaluate", *COMMON, *GRID, f"--out={out}", "--json", *arguments])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What an undisturbed run stores."""
    out = tmp_path_factory.mktemp("whole")
    assert command(out) == 0
    return values(lines(out))


def test_a_killed_run_continues(
    tmp_path: Path, bundle: Path, run: Run, whole: dict[str, dict[str, Any]]
) -> None:
    script = (
        "import sys; from pathlib import Path; from tap_ext.demo import bundled\n"
        "bundled.MODEL = Path(sys.argv[1])\n"
        "from tap_ext.cli import main; sys.exit(main(sys.argv[2:]))"
    )
    wanted = [*COMMON, *GRID, f"--out={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(bundle), "evaluate", *wanted],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    path = tmp_path / "results.jsonl"
    try:
        while not path.exists() or path.read_bytes().count(b"\n") < 4:
            assert process.poll() is None, "it ended too early"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = path.read_text()
    assert 4 <= before.count("\n") < PICTURES
    rows = run(tmp_path, *GRID)
    assert path.read_text().startswith(before[: before.rfind("\n") + 1]), "nothing is made twice"
    assert values(lines(tmp_path)) == whole
    assert [row["samples"] for row in rows] == [4] * 5


def test_nothing_is_made_twice(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run(tmp_path, *GRID)
    monkeypatch.setattr(running, "_Runner", None)  # which makes pictures
    assert run(tmp_path, *GRID) == rows
    assert run(tmp_path, "--methods=steps", "--full-steps=6", "--seeds=2")[1]["samples"] == 2


def test_another_metric_is_added(tmp_path: Path, run: Run) -> None:
    first = run(tmp_path, "--methods=steps", "--full-steps=4", "--seeds=2", "--metrics=ssim")
    run(tmp_path, "--methods=steps", "--full-steps=4", "--seeds=2", "--metrics=psnr")
    both = run(tmp_path, "--methods=steps", "--full-steps=4", "--seeds=2", "--metrics=psnr,ssim")
    assert both[1]["ssim"] == first[1]["ssim"]
    assert len(lines(tmp_path)) == 2 + 2 + 2


def test_other_settings_are_other_pictures(tmp_path: Path, run: Run) -> None:
    run(tmp_path, "--methods=steps", "--full-steps=4", "--seeds=2")
    run(tmp_path, "--methods=steps", "--full-steps=4", "--seeds=2", "--dtype=bfloat16")
    assert len({line["key"] for line in lines(tmp_path)}) == len(lines(tmp_path)) == 8


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), None])
def test_a_full_disk_or_ctrl_c(
    tmp_path: Path,
    run: Run,
    capsys: pytest.CaptureFixture[str],
    whole: dict[str, dict[str, Any]],
    failure: OSError | None,
) -> None:
    calls = 0
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls == 4:  # half of it is written, then no more
            return real(descriptor, data[: len(data) // 2])
        if calls == 5:
            raise failure or KeyboardInterrupt
        return real(descriptor, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        assert command(tmp_path) == (1 if failure else 130)
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.splitlines()[-1]
    assert ("No space left" if failure else "interrupted") in last
    assert "6 finished pictures are kept" in last
    kept = lines(tmp_path)
    assert len(kept) == 6, "three batches of two, and no half line"
    run(tmp_path, *GRID)
    assert lines(tmp_path)[:6] == kept
    assert values(lines(tmp_path)) == whole


def test_a_method_that_a_model_cannot_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "MODULES", {"OtherBlock": (("attn",), ())})
    arguments = ["--methods=steps,taylorseer-blocks", "--full-steps=4", "--seeds=2"]
    assert main(["evaluate", *COMMON, *arguments, f"--out={tmp_path}"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "taylorseer-blocks knows the blocks OtherBlock, none is in FluxTransformer2D" in last
    assert "4 finished pictures are kept" in last
    assert [line["method"] for line in lines(tmp_path)] == ["untouched"] * 2 + ["steps"] * 2


def test_a_torn_line_is_made_again(
    tmp_path: Path, run: Run, whole: dict[str, dict[str, Any]]
) -> None:
    run(tmp_path, *GRID)
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run(tmp_path, *GRID)
    assert values(lines(tmp_path)) == whole


def test_a_strange_line_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.jsonl").write_text('{"key": "a"}\nnonsense\n')
    assert command(tmp_path) == 1
    assert "line 2, is no result" in capsys.readouterr().err
    assert (tmp_path / "results.jsonl").read_text().endswith("nonsense\n")


def test_two_runs_do_not_share_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "results.jsonl").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert command(tmp_path) == 1
    assert "another run is writing" in capsys.readouterr().err


def test_pictures_are_kept_with_their_settings(tmp_path: Path, run: Run) -> None:
    arguments = ("--methods=steps", "--full-steps=4", "--seeds=2")
    run(tmp_path, *arguments)
    run(tmp_path, *arguments, "--pictures")
    found = sorted((tmp_path / "pictures").rglob("*.png"))
    assert len(found) == 4, "of two methods, though their numbers were stored"
    stored = {line["key"]: line for line in lines(tmp_path)}
    for path in found:
        beside = json.loads(path.with_suffix(".json").read_text())
        assert {**beside, "seconds": 0} == {**stored[beside["key"]], "seconds": 0}
    written = found[0].read_bytes()
    found[0].unlink()
    run(tmp_path, *arguments, "--pictures")
    assert found[0].read_bytes() == written
    assert not list(tmp_path.rglob("*.part"))


def test_a_store_keeps_the_last_of_a_key(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.append([{"key": "a", "n": 1}, {"key": "b", "n": "\u2028ü"}])
        store.append([{"key": "a", "n": 2}])
    with Store.open(tmp_path) as store:
        assert store.lines == {"a": {"key": "a", "n": 2}, "b": {"key": "b", "n": "\u2028ü"}}

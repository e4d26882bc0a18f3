"""What the benchmarks are made of; the figures themselves are no test's business."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tap_ext
from bench import gpu, report
from bench.denoiser import MODELS, Denoiser
from bench.test_loops import FULL, ON_CPU, STEPS, WINDOW, fewer_steps, loop, untouched, work
from tests.versions import DIFFUSERS_VERSION

RESULTS = {
    "datetime": "2026-01-02T03:04:05",
    "machine_info": {"cpu": {"brand_raw": "A Chip"}, "python_version": "3.11"},
    "commit_info": {"id": "0123456789abcdef"},
    "benchmarks": [
        {
            "group": "tiny cpu",
            "name": "test_step[cpu-tiny-skip replayed]",
            "extra_info": {"ms": 1.23456, "waits": 0, "uncaptured": {"why": 2}},
        },
        {"group": "tiny cpu", "name": "test_step[cpu-tiny-full]", "extra_info": {"ms": 40000.0}},
    ],
}


def test_the_report_is_a_table_per_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "steps.json"
    path.write_text(json.dumps(RESULTS))
    assert report.main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "2026-01-02, A Chip, Python 3.11, commit 0123456789" in text
    assert "### tiny cpu" in text and "|  | ms | waits |" in text
    assert "| skip replayed | 1.235 | 0 |" in text and "| full | 4e+04 |  |" in text
    assert report.main([]) == 2


PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
print(child.pid, flush=True)
child.wait()
"""


def test_every_part_of_the_gpu_run_is_accounted_for(tmp_path: Path) -> None:
    python = [sys.executable, "-c"]
    run = gpu._run
    assert run([*python, "print('well')"], 60, tmp_path / "a part") == "passed"
    assert (tmp_path / "a_part.log").read_text() == "well\n"
    assert run([*python, "raise SystemExit(3)"], 60, tmp_path / "b") == "exit status 3"
    assert run([*python, PARENT], 5.1, tmp_path / "c") == "not done after 5 s"
    with pytest.raises(ProcessLookupError):  # as a tool's that was started with pytest inside
        os.kill(int((tmp_path / "c.log").read_text().split()[0]), 0)
    assert run(["no-such-tool"], 60, tmp_path / "d") == "no-such-tool is not there"
    assert run([*python, ""], 1, tmp_path / "e") == "no time was left"


def test_the_gpu_run_names_files_that_exist(tmp_path: Path) -> None:
    root = Path(gpu.__file__).parents[1]
    for command, seconds in gpu.parts(tmp_path, "flux.1-dev").values():
        assert seconds > 0
        named = [word for word in command if word.endswith(".py") or word in ("tests", "tests/ops")]
        assert named and all((root / name).exists() for name in named)
    assert set(gpu.machine()) >= {"device", "driver", "torch", "commit"}


def test_the_loop_has_the_full_steps_that_its_ceiling_counts() -> None:
    denoiser = Denoiser("tiny", "cpu")
    tap_ext.accelerate(denoiser.model, window=WINDOW)
    with torch.inference_mode(), tap_ext.run():
        latents = list(denoiser.steps(STEPS))
    assert len(latents) == STEPS and latents[-1].isfinite().all()
    (stats,) = tap_ext.stats(denoiser.model).models
    assert (stats.full, stats.skip) == (FULL, STEPS - FULL)


PEERS = [method for method in ON_CPU if method not in (untouched, fewer_steps)]


@pytest.mark.parametrize("method", PEERS, ids=lambda method: method.__name__)
def test_every_accelerator_of_the_benchmark_saves_work(method: Callable[[Denoiser], None]) -> None:
    denoiser, steps = Denoiser("tiny", "cpu"), 6
    whole = work(denoiser, "cpu", steps)
    try:
        method(denoiser)
    except ImportError as error:  # of an older diffusers
        pytest.skip(str(error))
    _, each = loop(denoiser, "cpu", steps)
    assert len(each) == steps
    assert 3 / steps < work(denoiser, "cpu", steps) / whole < 0.95


REAL = [name for name in MODELS if name != "tiny"]
if DIFFUSERS_VERSION < (0, 37):  # it counts the tokens of prompts by a list of its own
    REAL.remove("qwen-image")


@pytest.mark.parametrize("name", REAL)
def test_real_models_are_called_as_they_take_it(name: str) -> None:
    """On the meta device: shapes and arguments, no values."""
    denoiser = Denoiser(name, "meta")
    sigma = torch.empty(1, device="meta", dtype=torch.bfloat16)
    for branch in range(denoiser.branches):
        assert denoiser.call(denoiser.latents, sigma, branch).shape == denoiser.latents.shape

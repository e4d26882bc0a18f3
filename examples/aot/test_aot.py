"""``make test-aot``: compiles the skip step and the program, and runs one in the other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tap_ext import ops

FOLDER = Path(__file__).parent


def _run(*command: str | Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aot")
    _run(sys.executable, FOLDER / "export.py", folder)
    return folder


def test_the_package_runs_in_python(package: Path) -> None:
    sample = torch.load(package / "sample.pt")
    compiled = torch._inductor.aoti_load_package(str(package / "skip_step.pt2"))
    planes = len(sample["0.gaps"]) + 1
    stacks = [torch.zeros(planes, *sample[f"0.{name}"].shape) for name in ("probe", "output")]
    for step in range(3):
        ops.stack_update_(stacks[0], sample[f"{step}.probe"], sample[f"{step}.gaps"])
        hidden = sample[f"{step}.hidden"]
        ops.stack_update_(stacks[1], sample[f"{step}.output"], sample[f"{step}.gaps"], hidden)
    velocity, index = compiled(sample["3.x"], sample["3.time"], *stacks, sample["3.table"])
    torch.testing.assert_close(velocity, sample["3.velocity"], rtol=1e-5, atol=1e-5)
    assert int(index.min()) >= 0 and int(index.max()) < len(sample["3.table"])
    one = [stack[:, :1].contiguous() for stack in stacks]
    alone, _ = compiled(sample["3.x"][:1], sample["3.time"][:1], *one, sample["3.table"])
    torch.testing.assert_close(alone, velocity[:1], rtol=1e-5, atol=1e-5)


def test_the_package_runs_without_python(package: Path) -> None:
    library = ops.library_status()
    if not library.compiled:
        pytest.skip(f"no compiled library of ops: {library.reason}")
    build = package / "build"
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    _run("cmake", "-S", FOLDER, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", prefix)
    _run("cmake", "--build", build)
    said = _run(build / "run_skip_step", library.path, package)
    assert said.endswith("5 skip steps agree\n")
    program = str(build / "run_skip_step")
    missing = subprocess.run([program, library.path, build], capture_output=True, text=True)
    assert missing.returncode == 1 and "there is no sample.pt" in missing.stderr

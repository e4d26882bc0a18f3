"""``make gpu OUT=dir``: build, test, sanitize and measure on a machine with a CUDA device.

Each part has a time of its own, and leaves its results in OUT whatever becomes of the others:
``summary.json`` says how each went, with the device, its driver, torch and the commit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

KERNELS = ("skip_step", "modulated_skip_step", "select", "stack_update", "predict")

GRACE = 15
"""Seconds to write down what there is."""

SANITIZED = [f"tests/ops/test_{name}.py" for name in KERNELS]
"""The kernels alone: under a sanitizer everything is some hundred times slower."""


def parts(out: Path, model: str) -> dict[str, tuple[list[str], int]]:
    """Commands and the seconds each may take, in order of worth."""
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    pytest += ["--continue-on-collection-errors"]  # of tests that need what is not there
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--target-processes", "all"]
    quick = ["-k", "cuda and not reference", "-x", *SANITIZED]
    once = ["-k", "cuda and not sanitizer"]  # those are run below

    def checked(tool: str) -> tuple[list[str], int]:
        return [*sanitizer, "--tool", tool, *pytest, *quick], 45

    return {
        "cuda tests": ([*pytest, *once, *on_devices(), f"--junitxml={out}/cuda.xml"], 120),
        "op tests": ([*pytest, "-k", "cuda", "tests/ops", f"--junitxml={out}/ops.xml"], 60),
        "ops": ([*pytest, "bench/test_ops.py", "-k", "cuda", "--shape=all", _json(out, "ops")], 60),
        "steps": (
            [*pytest, "bench/test_steps.py", "-k", "cuda", f"--model={model}", _json(out, "steps")],
            60,
        ),
        "memcheck": checked("memcheck"),
        "racecheck": checked("racecheck"),
        "loops": (
            [*pytest, "bench/test_loops.py", "-k", "cuda", f"--model={model}", _json(out, "loops")],
            400,
        ),
        "initcheck": checked("initcheck"),
        "synccheck": checked("synccheck"),
        "machine code": ([*pytest, "tests/test_cuda_code.py"], 90),
    }


def on_devices() -> list[str]:
    """Files of tests that run on a device, the ops' apart: to read all takes most of a minute."""
    others = (p for p in sorted(Path("tests").rglob("test_*.py")) if p.parent.name != "ops")
    return [str(path) for path in others if re.search("mark.cuda|device: str", path.read_text())]


def _json(out: Path, name: str) -> str:
    return f"--benchmark-json={out / name}.json"


def machine() -> dict[str, str]:
    """What was measured on."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    return {
        "device": device,
        "driver": _output(query),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "commit": _output(["git", "rev-parse", "HEAD"]),
    }


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> int:
    """Run every part that fits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="directory for the results")
    parser.add_argument("--model", default="flux.1-dev", help="of bench/denoiser.py; %(default)s")
    parser.add_argument("--only", action="append", help="a part; repeatable; default all")
    parser.add_argument("--seconds", type=float, default=570, help="for all of it; %(default)s")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + arguments.seconds
    results: dict[str, object] = {}
    for name, (command, limit) in parts(arguments.out, arguments.model).items():
        if arguments.only and name not in arguments.only:
            continue
        results[name] = _run(command, min(limit, end - time.monotonic()), arguments.out / name)
        summary = {"machine": machine(), "parts": results}
        (arguments.out / "summary.json").write_text(json.dumps(summary, indent=2))
        print(name, results[name], flush=True)
    return 0 if all(result == "passed" for result in results.values()) else 1


def _run(command: list[str], seconds: float, log: Path) -> str:
    if shutil.which(command[0]) is None:
        return f"{command[0]} is not there"
    if seconds < 5:
        return "no time was left"
    with (
        log.with_name(log.name.replace(" ", "_") + ".log").open("w") as file,
        subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True) as process,
    ):
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            _stop(process)
            return f"not done after {seconds:.0f} s"
        except KeyboardInterrupt:  # which did not reach it
            _stop(process)
            raise
    return "passed" if process.returncode == 0 else f"exit status {process.returncode}"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """As from the keyboard, what it started too: then pytest writes down what it has."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main())

"""``python -m bench.soak``: the figures, as JSON and as a table."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch

import tap_ext
from bench.soak import table

FIGURES = ("aborts", "interleaved", "determinism")


def main() -> int:
    """Run the figures asked for; 0 where all are as they should be."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--only", default=",".join(FIGURES), help="figures, by comma")
    parser.add_argument("--scale", type=float, default=1.0, help="a share of the full number")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="a .json; the table goes beside it as .md")
    given = parser.parse_args()
    names = given.only.split(",")
    if unknown := set(names) - set(FIGURES):
        parser.error(f"--only must be among {FIGURES}, got {sorted(unknown)}")
    torch.set_num_threads(1)
    if given.device != "cpu":
        torch.backends.cudnn.deterministic = True
    result = {
        "command": " ".join(["python -m bench.soak", *sys.argv[1:]]),
        **_machine(given.device),
    }
    figures = {}
    for name in names:
        started = time.monotonic()

        def say(line: str, name: str = name, started: float = started) -> None:
            print(f"[{name} {time.monotonic() - started:5.0f} s] {line}", flush=True)

        figures[name] = importlib.import_module(f"bench.soak.{name}").run(
            given.device, given.scale, say
        )
        figures[name]["minutes"] = round((time.monotonic() - started) / 60, 1)
        say("passed" if figures[name]["passed"] else "FAILED")
        gc.collect()
    result["figures"] = figures
    print(table.markdown(result))
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
        given.out.with_suffix(".md").write_text(table.markdown(result))
    return 0 if all(figure["passed"] for figure in figures.values()) else 1


def _machine(device: str) -> dict[str, str]:
    name = torch.cuda.get_device_name() if device != "cpu" else platform.machine()
    return {
        "device": f"{device} ({name})",
        "tap_ext": tap_ext.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())

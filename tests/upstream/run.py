"""Run diffusers' own tests with its models accelerated; ``make test-upstream`` and a test call it.

    python tests/upstream/run.py [--diffusers CHECKOUT] [--only CLASS ...] [pytest arguments]

Exit status 1 where a test fails that passes without tap_ext, or where a class had no skip step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from targets import ALWAYS, FOLDER, TARGETS  # noqa: E402

OTHERWISE = "not quantization and not training and not single_file"
"""Marks of tests that say nothing of what wraps a forward, or that need weights from elsewhere."""

ORIGIN = "https://github.com/huggingface/diffusers"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--diffusers", type=Path, help="a checkout; default: cloned from GitHub")
    parser.add_argument("--only", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    options, rest = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        checkout = options.diffusers or clone(Path(scratch))
        found = run(checkout, options.only, rest)
    print(verdict(found))
    return 0 if right(found) else 1


def clone(into: Path) -> Path:
    """diffusers' tests at the installed version; its wheel does not hold them."""
    tag = f"v{version('diffusers')}"
    try:
        subprocess.run(
            ["git", "clone", "--quiet", "--depth", "1", "--branch", tag, ORIGIN, into / "checkout"],
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(
            f"{ORIGIN} at {tag} cannot be cloned ({error}); give a checkout of it: "
            "make test-upstream DIFFUSERS=path"
        ) from None
    return into / "checkout"


def run(checkout: Path, names: Sequence[str], arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Results of the tests with tap_ext; those that fail are run again without it.

    Returns:
        ``classes``: calls by class and kind; ``outcomes``: tests by outcome; ``failed``: those that
        fail with tap_ext alone; ``upstream``: those that fail without it too.
    """
    if not (checkout / FOLDER).is_dir():
        raise SystemExit(f"DIFFUSERS must be a checkout of diffusers with tests/, got {checkout}")
    files = [f"{FOLDER}/{TARGETS[name]}" for name in names] + list(ALWAYS)
    found = _pytest(checkout, names, [*files, *arguments])
    again = [test for test in found["failed"] if "::" in test and "test_tap_ext" not in test]
    control = _pytest(checkout, names, again, TAP_EXT_CONTROL="1")["failed"] if again else []
    found["failed"] = [test for test in found["failed"] if test not in control]
    return found | {"upstream": control}


def _pytest(
    checkout: Path, names: Sequence[str], arguments: Sequence[str], **extra: str
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            "TAP_EXT_CLASSES": ",".join(names),
            "TAP_EXT_REPORT": str(report),
            "HF_HUB_OFFLINE": "1",
            **extra,
        }
        plugins = ["-p", "tap_ext_upstream", "-p", "no:cacheprovider"]
        plugins += ["-m", OTHERWISE]
        command = [sys.executable, "-m", "pytest", "-q", "--rootdir", str(checkout), *plugins]
        ended = subprocess.run([*command, *arguments], cwd=checkout, env=environment)
        if not report.exists():
            raise SystemExit(f"pytest did not run diffusers' tests: exit status {ended.returncode}")
        return dict(json.loads(report.read_text()))


def idle(found: dict[str, Any]) -> list[str]:
    """Classes without a skip step: the tests have said nothing of them."""
    return [name for name, calls in found["classes"].items() if not calls.get("skip steps")]


def right(found: dict[str, Any]) -> bool:
    return not found["failed"] and not idle(found) and bool(found["outcomes"]["passed"])


def verdict(found: dict[str, Any]) -> str:
    outcomes = ", ".join(f"{count} {name}" for name, count in found["outcomes"].items())
    lines = [f"{len(found['classes'])} classes: {outcomes}"]
    lines += [f"fails without tap_ext too: {test}" for test in found["upstream"]]
    lines += [f"fails with tap_ext: {test}" for test in found["failed"]]
    lines += [f"no skip step in {name}" for name in idle(found)]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

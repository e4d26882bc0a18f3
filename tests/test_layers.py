"""The house stands as docs/design.md says: imports go down, words keep their meaning."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tap_ext

PACKAGE = Path(tap_ext.__file__).parent

LAYERS = (
    ("adapters", "app", "demo", "evaluate", "cli", "__main__"),
    ("accelerate", "calibrate", "choose", "flops", "plots"),
    ("integrations",),
    ("engine",),
    ("steps",),
    ("hindsight",),
    ("views", "runtime"),
    ("report",),
    ("backbones",),
    ("given",),
    ("state", "batch", "history", "graphs"),
    ("config",),
    ("peers",),
    ("buffers", "blend", "placement"),
    ("plan", "predictors", "ops", "modulation", "correction", "compilation", "held", "native"),
    (
        "reference",
        "_library",
        "_checks",
        "_arguments",
        "uploads",
        "files",
        "locks",
        "samples",
        "_version",
    ),
)
"""Top to bottom; a module may import its own layer and those below."""

RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Parts of the package that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "tap_ext":
            names = [f"tap_ext.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith("tap_ext.")}
    return {name for name in found if name in RANK}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    here = _part(path)
    assert here in RANK, f"{here} has no place in docs/design.md"
    assert {name for name in _imports(path) if RANK[name] < RANK[here]} == set()


def test_diffusers_is_known_in_few_places() -> None:
    allowed = {"integrations", "demo", "evaluate", "cli"}
    for path in MODULES:
        tree = ast.parse(path.read_text())
        roots = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        if _part(path) not in allowed:
            assert not roots & {"diffusers", "transformers", "accelerate"}, path


def test_predictors_and_plan_know_no_tensor() -> None:
    for path in (*(PACKAGE / "predictors").glob("*.py"), PACKAGE / "plan.py"):
        assert "torch" not in path.read_text().replace("torch_", ""), path


def test_importing_the_package_is_quick_and_light(tmp_path: Path) -> None:
    """Beyond torch and numpy themselves; processor time, the least of three.

    With the bytecode kept, as an installed package's is: a shell that forbids writing it would
    have this measure the compiler.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    script = (
        "import sys, time, torch, numpy; start = time.process_time(); "
        "import tap_ext; print(time.process_time() - start); "
        "print([m for m in ('diffusers', 'transformers', 'torch._dynamo', 'matplotlib') "
        "if m in sys.modules])"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout.split("\n")
        for _ in range(3)
    ]
    assert all(run[1] == "[]" for run in runs)
    assert min(float(run[0]) for run in runs) < 0.3


def test_the_state_api_needs_no_diffusers() -> None:
    script = (
        "import sys; sys.modules['diffusers'] = None\n"
        "import torch, tap_ext\n"
        "state = tap_ext.State(config=tap_ext.Config(window=2))\n"
        "x = torch.ones(1, 2, 4)\n"
        "for _ in range(6):\n"
        "    full = state.begin() is tap_ext.Step.FULL\n"
        "    state.record(x, x, x) if full else state.predict(x, x)\n"
        "print(state.log.skip_steps)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[3, 5]"

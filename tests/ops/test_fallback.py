"""A package without its library, or with one that does not load, in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tap_ext
from tap_ext import ops

PACKAGE = Path(tap_ext.__file__).parent

SCRIPT = """
import sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from tap_ext import ops
    import torch
    stack = torch.full((2, 1, 3, 4), float("nan"))
    for value in (1.0, 4.0):
        gap = torch.tensor([float("inf") if value == 1.0 else 2.0])
        ops.stack_update_(stack, torch.full((1, 3, 4), value), gap)
    out, index = torch.empty(1, 3, 4), torch.empty(1, 3, dtype=torch.int32)
    rows = torch.tensor([[1.0, 2.0], [1.0, 1.0], [1.0, 0.0]])
    ops.skip_step_(out, index, stack, torch.full((1, 3, 4), 5.5), stack, None, rows, "l2")
    hidden, shift = torch.ones(1, 3, 4), torch.full((1, 4), 5.5)  # no variance: the probe is 5.5
    fused = torch.empty_like(out)
    given = stack, hidden, shift, shift, stack, rows
    ops.modulated_skip_step_(fused, index.fill_(0), *given, metric="l2", add=False)
    assert torch.equal(fused, out)
    status = ops.library_status()
print(out.unique().tolist(), index.unique().tolist())
print(status.compiled, status.cuda, status.reason)
print([m for m in ("diffusers", "transformers", "numpy.f2py") if m in sys.modules])
for warning in caught:
    if "tap_ext" in str(warning.message):
        print(f"{warning.category.__name__}: {warning.message}")
"""


def run(folder: Path) -> list[str]:
    """Lines printed by a script that uses a copy of the package in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def unbuilt(tmp_path: Path) -> Path:
    """A folder with a copy of the package that holds no library."""
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "tap_ext", ignore=ignore)
    return tmp_path


def test_without_a_library_the_ops_are_plain_torch(unbuilt: Path) -> None:
    result, status, heavy, *warned = run(unbuilt)
    assert result == "[5.5] [1]"  # 4 + 1.5 * 1
    assert status == "False False libtap_ext_ops.so was not built"
    assert heavy == "[]"  # the ops import torch alone
    assert len(warned) == 1
    assert warned[0].startswith("UserWarning: tap_ext: libtap_ext_ops.so was not built;")
    assert "pip install" in warned[0]


def test_a_library_that_does_not_load_is_reported(unbuilt: Path) -> None:
    (unbuilt / "tap_ext" / "libtap_ext_ops.so").write_bytes(b"of another platform")
    result, status, _, *warned = run(unbuilt)
    assert result == "[5.5] [1]"
    assert status.startswith("False False libtap_ext_ops.so does not load (")
    assert len(warned) == 1 and "does not load" in warned[0]


def test_status_of_this_process() -> None:
    status = ops.library_status()
    assert status.path == PACKAGE / "libtap_ext_ops.so"
    assert status.compiled == (status.reason == "")
    assert status.compiled == status.path.exists()

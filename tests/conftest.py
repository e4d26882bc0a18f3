"""Settings that every test shares; set before torch or a model library is imported."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic algorithms ask for it

import pytest
import torch
from hypothesis import settings

from tap_ext import runtime

# More threads than free cores cost these small tests a factor of hundreds.
torch.set_num_threads(1)

# One example may compile or import something first, so no deadline; the same examples every time.
settings.register_profile("tap_ext", deadline=None, derandomize=True, max_examples=50)
# ``make fuzz``: many examples, others every time.
examples = int(os.environ.get("TAP_EXT_EXAMPLES", "5000"))
settings.register_profile("fuzz", deadline=None, max_examples=examples)
# Of a mutant that these notice, nothing else need be run.
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=8)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tap_ext"))


@pytest.fixture(autouse=True)
def _no_run_is_left_behind() -> Iterator[None]:
    """A run that never ended would make of every later call in its context a step of its own."""
    yield
    torch.set_grad_enabled(True)  # an interrupt may come in the middle of leaving no_grad()
    left = runtime._run.get()
    runtime._run.set(None)
    assert left is None or not left.exact


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a CUDA device")
    config.addinivalue_line("markers", "slow: takes many seconds; deselect with -m 'not slow'")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test that takes a ``device`` on each there is."""
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", DEVICES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    reason = "torch sees no CUDA device"
    if not torch.backends.cuda.is_built():
        reason = f"torch {torch.__version__} is built without CUDA"
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))

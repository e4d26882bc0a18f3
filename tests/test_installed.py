"""What is installed is whole: one version, the libraries, the models; and it does its work.

``make test-wheel`` runs this against a wheel, with TAP_EXT_INSTALLED the environment it is in.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from pathlib import Path

import pytest
import torch

import tap_ext

PACKAGE = Path(tap_ext.__file__).parent
ENVIRONMENT = os.environ.get("TAP_EXT_INSTALLED", "")


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("tap_ext") == tap_ext.__version__
    core = pytest.importorskip("tap_ext._core", reason="tap_ext._core was not built")
    assert core.build_info()["version"] == tap_ext.__version__


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "_core.pyi",
        "demo/model/diffusion_pytorch_model.safetensors",
        "demo/digits_model/diffusion_pytorch_model.safetensors",
    ],
)
def test_data_are_beside_the_code(name: str) -> None:
    assert (PACKAGE / name).is_file()


def test_the_bundled_model_is_accelerated_and_restored() -> None:
    bundled = pytest.importorskip("tap_ext.demo.bundled", reason="diffusers is not installed")
    pipe = bundled.load_pipeline()
    untouched = bundled.generate(pipe, ["sea"], steps=16)
    tap_ext.accelerate(pipe, full_steps=8)
    accelerated = bundled.generate(pipe, ["sea"], steps=16)
    counts = tap_ext.stats(pipe)
    assert (counts.full, counts.skip) == (8, 8)
    noise = (accelerated - untouched).square().mean()
    assert 0 < noise < 10**-3.0  # at least 30 dB
    tap_ext.restore(pipe)
    assert torch.equal(bundled.generate(pipe, ["sea"], steps=16), untouched)


@pytest.mark.skipif(not ENVIRONMENT, reason="only make test-wheel says where it was installed")
def test_it_is_the_wheel_that_is_tested() -> None:
    importlib.import_module("tap_ext._core")
    files = {n: str(m.__file__) for n, m in sys.modules.items() if n.split(".")[0] == "tap_ext"}
    assert {n: f for n, f in files.items() if not f.startswith(f"{ENVIRONMENT}/")} == {}
    assert tap_ext.ops.library_status().compiled

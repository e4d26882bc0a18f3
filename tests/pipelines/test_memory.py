"""What saves memory on weights: offloading that needs a GPU, quantised linears."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tap_ext
from tests.pipelines.builders import (
    FULL,
    SKIP,
    WINDOWED,
    build,
    error,
    generate,
    make_vae,
    steps,
)
from tests.versions import DIFFUSERS_VERSION, OLDEST

CLOSE = 0.05
"""As in builders: relative error of an accelerated picture, in norm."""


def _quantised() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    pipe = build()
    quantize_(pipe.transformer, Int8WeightOnlyConfig())
    return pipe


@pytest.mark.skipif(
    DIFFUSERS_VERSION <= OLDEST, reason="no torchao goes with both this diffusers and peft"
)
def test_quantised_linears() -> None:
    pipe = _quantised()
    truth = generate(pipe)
    tap_ext.accelerate(pipe, window=1)
    assert torch.equal(generate(pipe), truth)
    tap_ext.accelerate(pipe, **WINDOWED)
    assert 0 < error(generate(pipe), truth) <= CLOSE
    assert steps(pipe) == [(FULL, SKIP)]
    tap_ext.restore(pipe)
    assert torch.equal(generate(pipe), truth)


def _sequential(pipe: Any) -> None:
    pipe.enable_sequential_cpu_offload()


def _streamed(pipe: Any) -> None:
    pipe.vae.to("cuda")
    pipe.transformer.enable_group_offload(
        torch.device("cuda"), torch.device("cpu"), offload_type="leaf_level", use_stream=True
    )


@pytest.mark.cuda
@pytest.mark.parametrize("offload", [_sequential, _streamed])
def test_offloading_to_the_host(offload: Any) -> None:
    plain, fast = build(vae=make_vae()), build(vae=make_vae())
    offload(plain)
    truth = generate(plain)
    tap_ext.accelerate(fast, **WINDOWED)
    offload(fast)
    assert 0 < error(generate(fast), truth) <= CLOSE
    assert steps(fast) == [(FULL, SKIP)]
    tap_ext.restore(fast)
    assert torch.equal(generate(fast), truth)

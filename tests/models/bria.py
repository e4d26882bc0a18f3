"""Bria 3.2 and FIBO 1 and 2."""

from __future__ import annotations

import torch
from torch import Generator, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class
from tests.models.flux import IMAGE, TEXT, positions, unit_time

_COMMON = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": [4, 4, 8],
}
BUNDLES = 3


def _bria() -> nn.Module:
    model: nn.Module = diffusers_class("BriaTransformer2DModel")(**_COMMON)
    return model


def _fibo() -> nn.Module:
    model: nn.Module = diffusers_class("BriaFiboTransformer2DModel")(**_COMMON, text_encoder_dim=12)
    return model


def _fibo2() -> nn.Module:
    """Two of its three main blocks read the text themselves."""
    model: nn.Module = diffusers_class("BriaFibo2Transformer2DModel")(
        in_channels=4,
        dim=32,
        n_layers=3,
        n_refiner_layers=2,
        n_heads=2,
        cap_feat_dim=12,
        injection_layer_ids=(0, 2),
        perceiver_num_layers=1,
        min_num_gist_tokens=2,
        max_num_gist_tokens=6,
        gist_step=2,
        gist_min_text_len=2,
        gist_max_text_len=8,
        axes_dims=(4, 6, 6),
        axes_lens=(16, 8, 8),
    )
    return model


def _inputs(generator: Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, IMAGE, 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 24, generator=generator),
        "img_ids": positions(),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def _controlled(generator: Generator, batch: int) -> Arguments:
    return _inputs(generator, batch) | {
        "controlnet_block_samples": [torch.randn(batch, IMAGE, 32, generator=generator)],
    }


def _fibo_inputs(generator: Generator, batch: int) -> Arguments:
    layers = [torch.randn(batch, TEXT, 12, generator=generator) for _ in range(5)]
    return _inputs(generator, batch) | {"text_encoder_layers": layers}


def _fibo2_inputs(generator: Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, BUNDLES, TEXT, 12, generator=generator),
    }


def _edit(generator: Generator, batch: int) -> Arguments:
    """Two images to edit, each of its own size."""
    sizes = ((4, 6), (6, 4))
    images = [torch.randn(batch, 4, *size, generator=generator) for size in sizes]
    return _fibo2_inputs(generator, batch) | {"context_latents": images}


def _padded(generator: Generator, batch: int) -> Arguments:
    """Prompts of unequal length get unequally many gist tokens, which then stand last."""
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[0, 2:] = False
    return _edit(generator, batch) | {"encoder_attention_mask": mask}


MODELS = available(
    Tiny("BriaTransformer2DModel", _bria, _inputs),
    Tiny("BriaTransformer2DModel+controlnet", _bria, _controlled),
    Tiny("BriaFiboTransformer2DModel", _fibo, _fibo_inputs),
    Tiny("BriaFibo2Transformer2DModel", _fibo2, _fibo2_inputs, unit_time),
    Tiny("BriaFibo2Transformer2DModel+edit", _fibo2, _edit, unit_time),
    Tiny("BriaFibo2Transformer2DModel+padded", _fibo2, _padded, unit_time, batches=(2,)),
)

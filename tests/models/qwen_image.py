"""Qwen-Image, its edit and layered variants, and Qwen-Image 2.1."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Generator, Tensor, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class
from tests.models.flux import unit_time
from tests.versions import DIFFUSERS_VERSION

TEXT = 5
GRID = (1, 3, 5)
REFERENCE = (1, 3, 4)
TARGET = (1, 4, 6)
CONDITION = (1, 2, 4)
HEADS, HEAD_DIM = 2, 16


def _qwen(**config: object) -> nn.Module:
    model: nn.Module = diffusers_class("QwenImageTransformer2DModel")(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=24,
        axes_dims_rope=(4, 6, 6),
        **config,
    )
    return model


def _edit() -> nn.Module:
    """Qwen-Image-Edit 2511: reference tokens are modulated as if at time 0."""
    return _qwen(zero_cond_t=True)


def _layered() -> nn.Module:
    return _qwen(use_additional_t_cond=True, use_layer3d_rope=True)


def _qwen_call(generator: Generator, batch: int, *shapes: tuple[int, int, int]) -> Arguments:
    tokens = sum(height * width for _, height, width in shapes)
    # Before diffusers 0.37 the model was told how long the prompts are.
    lengths = {"txt_seq_lens": [TEXT] * batch} if DIFFUSERS_VERSION < (0, 37) else {}
    return lengths | {
        "hidden_states": torch.randn(batch, tokens, 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 24, generator=generator),
        "img_shapes": [list(shapes)] * batch,
    }


def _inputs(generator: Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.long)
    mask[0, -1] = 0
    return _qwen_call(generator, batch, GRID) | {"encoder_hidden_states_mask": mask}


def _controlled(generator: Generator, batch: int) -> Arguments:
    residuals = [torch.randn(batch, 15, 32, generator=generator) for _ in range(2)]
    return _inputs(generator, batch) | {"controlnet_block_samples": residuals}


def _edit_inputs(generator: Generator, batch: int) -> Arguments:
    return _qwen_call(generator, batch, GRID, REFERENCE)


def _layered_inputs(generator: Generator, batch: int) -> Arguments:
    return _qwen_call(generator, batch, GRID, GRID, REFERENCE) | {
        "additional_t_cond": torch.zeros(batch, dtype=torch.long)
    }


def _qwen21(causal: bool = True) -> nn.Module:
    model: nn.Module = diffusers_class("QwenImage21Transformer2DModel")(
        in_channels=16,
        out_channels=16,
        num_layers=3,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        context_in_dim=24,
        axes_dims_rope=(4, 6, 6),
        causal_condition=causal,
    )
    return model


def _qwen21_inputs(generator: Generator, batch: int) -> Arguments:
    """Text, an image that conditions it, more text, then the image to be made.

    Each slot of an image in the text stands for four latent tokens.
    """
    slots = [size[1] * size[2] // 4 for size in (CONDITION, TARGET)]
    layout = [False] * 3 + [True] * slots[0] + [False] * 2 + [True] * slots[1]
    text = len(layout) - slots[1]
    valid = torch.ones(batch, text, dtype=torch.bool)
    valid[0, text - 1] = False
    return {
        "hidden_states": torch.randn(batch, 4 * sum(slots), 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, text, 24, generator=generator),
        "img_shapes": [[CONDITION, TARGET]] * batch,
        "img_mask": torch.tensor([layout] * batch),
        "encoder_hidden_states_mask": valid,
    }


def _extract(generator: Generator, batch: int) -> Arguments:
    return _qwen21_inputs(generator, batch) | {
        "kv_cache": _empty_cache(),
        "kv_cache_mode": "extract",
    }


def _cached(generator: Generator, batch: int) -> Arguments:
    """What an extracting call left; in bfloat16, which suits a model of any dtype."""
    prefix = 5 + CONDITION[1] * CONDITION[2]

    def cached() -> Tensor:
        return torch.randn(batch, prefix, HEADS, HEAD_DIM, generator=generator).bfloat16()

    cache = _empty_cache()
    for layer in cache.layer_caches:
        layer.store(cached(), cached())
    return _qwen21_inputs(generator, batch) | {"kv_cache": cache, "kv_cache_mode": "cached"}


def _empty_cache() -> Any:
    module = import_module("diffusers.models.transformers.transformer_qwenimage21")
    return module.QwenImage21KVCache(3)


MODELS = available(
    Tiny("QwenImageTransformer2DModel", _qwen, _inputs, unit_time),
    Tiny("QwenImageTransformer2DModel+controlnet", _qwen, _controlled, unit_time),
    Tiny("QwenImageTransformer2DModel+edit", _edit, _edit_inputs, unit_time, since=(0, 37)),
    Tiny(
        "QwenImageTransformer2DModel+layered",
        _layered,
        _layered_inputs,
        unit_time,
        since=(0, 37),
    ),
    Tiny("QwenImage21Transformer2DModel", _qwen21, _qwen21_inputs, unit_time),
    Tiny(
        "QwenImage21Transformer2DModel+acausal", lambda: _qwen21(False), _qwen21_inputs, unit_time
    ),
    Tiny("QwenImage21Transformer2DModel+extract", _qwen21, _extract, unit_time),
    Tiny("QwenImage21Transformer2DModel+cached", _qwen21, _cached, unit_time),
)

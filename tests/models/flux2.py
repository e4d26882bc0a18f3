"""FLUX.2, with and without its cache of reference images, and FLUX.3."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Generator, Tensor, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class
from tests.models.flux import IMAGE, TEXT, positions, unit_time

REFERENCE = 7
HEADS, HEAD_DIM = 2, 16


def _text_ids() -> Tensor:
    ids = torch.zeros(TEXT, 4)
    ids[:, 3] = torch.arange(TEXT)
    return ids


def _reference_ids() -> Tensor:
    ids = torch.zeros(REFERENCE, 4)
    ids[:, 0] = 10
    ids[:, 2] = torch.arange(REFERENCE)
    return ids


def _flux2(**changes: Any) -> nn.Module:
    model: nn.Module = diffusers_class("Flux2Transformer2DModel")(
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=24,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        **changes,
    )
    return model


def _klein() -> nn.Module:
    """Caches keys and values of reference images, as FLUX.2 [klein] KV does."""
    model = _flux2(guidance_embeds=False)
    module = import_module("diffusers.models.transformers.transformer_flux2")
    for block in model.transformer_blocks:
        block.attn.set_processor(module.Flux2KVAttnProcessor())
    for block in model.single_transformer_blocks:
        block.attn.set_processor(module.Flux2KVParallelSelfAttnProcessor())
    return model


def _inputs(generator: Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, IMAGE, 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 24, generator=generator),
        "img_ids": positions(4),
        "txt_ids": _text_ids(),
    }


def _flux2_inputs(generator: Generator, batch: int) -> Arguments:
    return _inputs(generator, batch) | {"guidance": torch.full((batch,), 4.0)}


def _extract(generator: Generator, batch: int) -> Arguments:
    arguments = _inputs(generator, batch)
    reference = torch.randn(batch, REFERENCE, 16, generator=generator)
    return arguments | {
        "hidden_states": torch.cat([reference, arguments["hidden_states"]], dim=1),
        "img_ids": torch.cat([_reference_ids(), arguments["img_ids"]]),
        "kv_cache_mode": "extract",
        "num_ref_tokens": REFERENCE,
    }


def _cached(generator: Generator, batch: int) -> Arguments:
    return _inputs(generator, batch) | {
        "kv_cache": _cache(generator, batch),
        "kv_cache_mode": "cached",
    }


def _cache(generator: Generator, batch: int) -> Any:
    """What an extracting call would have left; in bfloat16, which suits a model of any dtype."""

    def cached() -> Tensor:
        values = torch.randn(batch, REFERENCE, HEADS, HEAD_DIM, generator=generator)
        return values.bfloat16()

    module = import_module("diffusers.models.transformers.transformer_flux2")
    cache = module.Flux2KVCache(2, 3)
    cache.num_ref_tokens = REFERENCE
    for layer in (*cache.double_block_caches, *cache.single_block_caches):
        layer.store(cached(), cached())
    return cache


def _flux3(flow_map: bool = False) -> nn.Module:
    model: nn.Module = diffusers_class("Flux3Transformer2DModel")(
        in_channels=16,
        cond_in_channels=12,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=HEAD_DIM,
        num_attention_heads=HEADS,
        joint_attention_dim=24,
        timestep_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        flow_map=flow_map,
    )
    return model


def _referenced(generator: Generator, batch: int) -> Arguments:
    return _inputs(generator, batch) | {
        "image_cond_hidden_states": torch.randn(batch, REFERENCE, 12, generator=generator),
        "image_cond_ids": _reference_ids(),
    }


def _jump_time(sigma: float, batch: int) -> Arguments:
    """A flow map is told where the step leads, too."""
    return unit_time(sigma, batch) | {"target_timestep": torch.full((batch,), max(sigma - 0.1, 0))}


MODELS = available(
    Tiny("Flux2Transformer2DModel", _flux2, _flux2_inputs, unit_time),
    Tiny("Flux2Transformer2DModel+extract", _klein, _extract, unit_time, since=(0, 38)),
    Tiny("Flux2Transformer2DModel+cached", _klein, _cached, unit_time, since=(0, 38)),
    Tiny("Flux3Transformer2DModel", _flux3, _inputs, unit_time),
    Tiny("Flux3Transformer2DModel+reference", _flux3, _referenced, unit_time),
    Tiny("Flux3Transformer2DModel+flow_map", lambda: _flux3(True), _referenced, _jump_time),
)

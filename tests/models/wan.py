"""Tiny Wan models: text, image, VACE, Animate, Animate 2, and ChronoEdit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask

from tests.models.base import Arguments, Tiny, available, diffusers_class

SIZES: Arguments = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 3,
    "rope_max_seq_len": 32,
}


def _make(name: str, **changes: Any) -> Callable[[], nn.Module]:
    return lambda: diffusers_class(name)(**SIZES | changes)


def _inputs(channels: int = 4, frames: int = 3, image: bool = False) -> Callable[..., Arguments]:
    def inputs(generator: torch.Generator, batch: int) -> Arguments:
        made: Arguments = {
            "hidden_states": torch.randn(batch, channels, frames, 6, 10, generator=generator),
            "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
        }
        if image:
            tokens = torch.randn(batch, 5, 16, generator=generator)
            made["encoder_hidden_states_image"] = tokens
        return made

    return inputs


def steps(sigma: float, batch: int) -> Arguments:
    """UniPC's integer timesteps, falling from 1000."""
    return {"timestep": torch.full((batch,), round(1000 * sigma))}


def _steps_of_tokens(sigma: float, batch: int) -> Arguments:
    """One timestep per token: the first frame is given and has none."""
    timestep = torch.full((batch, 45), 1000 * sigma)
    timestep[:, :15] = 0
    return {"timestep": timestep}


def _vace_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return _inputs()(generator, batch) | {
        "control_hidden_states": torch.randn(batch, 6, 3, 6, 10, generator=generator),
        "control_hidden_states_scale": torch.tensor([1.0, 0.5]),
    }


def _animate_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return _inputs(channels=12, image=True)(generator, batch) | {
        "pose_hidden_states": torch.randn(batch, 4, 2, 6, 10, generator=generator),
        "face_pixel_values": torch.randn(batch, 3, 5, 16, 16, generator=generator),
        "motion_encode_batch_size": 4,
    }


ANIMATE: Arguments = {
    "in_channels": 12,
    "latent_channels": 4,
    "image_dim": 16,
    "added_kv_proj_dim": 48,
    "motion_encoder_channel_sizes": {"4": 8, "8": 8, "16": 8},
    "motion_encoder_size": 16,
    "motion_style_dim": 8,
    "motion_dim": 4,
    "motion_encoder_dim": 16,
    "face_encoder_hidden_dim": 16,
    "face_encoder_num_heads": 2,
    "inject_face_latents_blocks": 1,
}


def _animate2() -> nn.Module:
    return diffusers_class("WanAnimate2Transformer3DModel")(
        text_len=8,
        in_dim=10,
        dim=48,
        ffn_dim=64,
        freq_dim=32,
        text_dim=16,
        out_dim=4,
        num_heads=2,
        num_layers=3,
    )


def _animate2_cached() -> nn.Module:
    model = _animate2()

    # What the model would compile at its first call: every frame sees all that is made and the
    # reference's frame of the same number.
    def sees(b: Any, h: Any, query: Any, key: Any) -> Any:
        made = key < 45
        reference = (key >= 128) & (key < 158) & (query // 15 == (key - 128) // 15 + 1)
        return (query < 45) & (made | reference)

    mask = create_block_mask(sees, B=None, H=None, Q_LEN=128, KV_LEN=256, device="cpu")
    model.block_masks = {(2, 15): mask}
    return model


def _animate2_inputs(generator: torch.Generator, batch: int) -> Arguments:
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    def each(*shape: int) -> list[torch.Tensor]:
        return [torch.randn(*shape, generator=generator) for _ in range(batch)]

    return {
        "hidden_states": each(4, 3, 6, 10),
        "condition_latents": each(6, 3, 6, 10),
        "encoder_hidden_states": each(7, 16),
        "encoder_hidden_states_image": torch.randn(batch, 5, 1280, generator=generator),
        "kv_cache": WanAnimate2KVCache(3),
        "kv_cache_mode": "extract",
        "seq_len": 45,
        "offset_grid_sizes": torch.tensor([[3, 3, 5]] * batch),
    }


def _animate2_cached_inputs(generator: torch.Generator, batch: int) -> Arguments:
    arguments = _animate2_inputs(generator, batch)
    del arguments["offset_grid_sizes"]
    for layer in range(3):
        keys, values = torch.randn(2, batch, 30, 2, 24, generator=generator)
        arguments["kv_cache"].get(layer).store(keys, values)
    return arguments | {
        "kv_cache_mode": "cached",
        "reference_grid_sizes": torch.tensor([[2, 3, 5]] * batch),
        "origin_len": 5,
        "origin_area": [48, 80],
    }


MODELS = available(
    Tiny("WanTransformer3DModel", _make("WanTransformer3DModel"), _inputs(), steps),
    Tiny(
        "WanTransformer3DModel+i2v",
        _make("WanTransformer3DModel", in_channels=10, image_dim=16, added_kv_proj_dim=48),
        _inputs(channels=10, image=True),
        steps,
    ),
    Tiny(
        "WanTransformer3DModel+tokens",
        _make("WanTransformer3DModel"),
        _inputs(),
        _steps_of_tokens,
    ),
    Tiny(
        "WanVACETransformer3DModel",
        _make("WanVACETransformer3DModel", vace_layers=[0, 2], vace_in_channels=6),
        _vace_inputs,
        steps,
    ),
    Tiny(
        "WanAnimateTransformer3DModel",
        _make("WanAnimateTransformer3DModel", **ANIMATE),
        _animate_inputs,
        steps,
    ),
    Tiny("WanAnimate2Transformer3DModel", _animate2, _animate2_inputs, steps),
    Tiny("WanAnimate2Transformer3DModel+cached", _animate2_cached, _animate2_cached_inputs, steps),
    Tiny(
        "ChronoEditTransformer3DModel",
        _make("ChronoEditTransformer3DModel", in_channels=10, image_dim=16, added_kv_proj_dim=48),
        _inputs(channels=10, image=True),
        steps,
    ),
    Tiny(
        "ChronoEditTransformer3DModel+two",
        _make("ChronoEditTransformer3DModel", in_channels=10, image_dim=16, added_kv_proj_dim=48),
        _inputs(channels=10, frames=2, image=True),
        steps,
    ),
)

"""Sana, Sana-Sprint, Sana-Video and SANA-WM."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 7
DIM = 32


def _text(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.long)
    mask[0, -2:] = 0
    return {
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "encoder_attention_mask": mask,
    }


def _sana(**changes: Any) -> nn.Module:
    config: dict[str, Any] = {
        "sample_size": 8,
        "patch_size": 1,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "cross_attention_head_dim": 16,
        "num_cross_attention_heads": 2,
        "cross_attention_dim": DIM,
        "caption_channels": 20,
    }
    return diffusers_class("SanaTransformer2DModel")(**config | changes)


def _sana_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {"hidden_states": torch.randn(batch, 4, 3, 5, generator=generator)} | _text(
        generator, batch
    )


def _controlled(generator: torch.Generator, batch: int) -> Arguments:
    residuals = tuple(torch.randn(batch, 15, DIM, generator=generator) for _ in range(2))
    return _sana_inputs(generator, batch) | {"controlnet_block_samples": residuals}


def _sprint() -> nn.Module:
    return _sana(guidance_embeds=True, qk_norm="rms_norm_across_heads")


def _sprint_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return _sana_inputs(generator, batch) | {"guidance": torch.full((batch,), 0.45)}


def _sprint_time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), sigma)}


def _video() -> nn.Module:
    return diffusers_class("SanaVideoTransformer3DModel")(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        cross_attention_head_dim=16,
        num_cross_attention_heads=2,
        cross_attention_dim=DIM,
        caption_channels=20,
        rope_max_seq_len=32,
    )


def _video_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {"hidden_states": torch.randn(batch, 4, 3, 4, 6, generator=generator)} | _text(
        generator, batch
    )


def _image_to_video_time(sigma: float, batch: int) -> Arguments:
    """One timestep per token; the first frame is given."""
    timestep = torch.full((batch, 1, 3, 2, 3), 1000 * sigma)
    timestep[:, :, 0] = 0
    return {"timestep": timestep}


def _world() -> nn.Module:
    return diffusers_class("SanaWMTransformer3DModel")(
        in_channels=4,
        num_layers=3,
        hidden_size=DIM,
        num_attention_heads=2,
        softmax_every_n=2,
        linear_head_dim=16,
        chunk_plucker_channels=6,
        chunk_plucker_post_attn_blocks=3,
        caption_channels=20,
    )


def _world_inputs(generator: torch.Generator, batch: int) -> Arguments:
    text = _text(generator, batch)
    rays = torch.eye(4) + 0.1 * torch.randn(batch, 72, 4, 4, generator=generator)
    return {
        "hidden_states": torch.randn(batch, 4, 3, 4, 6, generator=generator),
        "encoder_hidden_states": text["encoder_hidden_states"][:, None],
        "mask": text["encoder_attention_mask"],
        "camera_conditions": torch.randn(batch, 3, 20, generator=generator),
        "chunk_plucker": torch.randn(batch, 6, 3, 4, 6, generator=generator),
        # Given, because on the CPU it makes these of a camera in full precision only.
        "cam_pos_embeds": {
            "absmap": torch.randn(batch, 3, 3, 4, 6, generator=generator),
            "P": rays,
            "P_inv": rays.inverse(),
        },
    }


def _world_time(sigma: float, batch: int) -> Arguments:
    """One timestep per frame; the first frame is given."""
    return {"timestep": 1000 * sigma * torch.tensor([0.0, 1.0, 1.0]).repeat(batch, 1, 1)}


MODELS = available(
    Tiny("SanaTransformer2DModel", _sana, _sana_inputs),
    Tiny("SanaTransformer2DModel+controlnet", _sana, _controlled),
    Tiny("SanaTransformer2DModel+sprint", _sprint, _sprint_inputs, _sprint_time),
    Tiny("SanaVideoTransformer3DModel", _video, _video_inputs),
    Tiny("SanaVideoTransformer3DModel+i2v", _video, _video_inputs, _image_to_video_time),
    Tiny("SanaWMTransformer3DModel", _world, _world_inputs, _world_time),
)

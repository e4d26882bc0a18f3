"""Tiny Cosmos models: 1 and 2 from text, 2 from a video, 2.5 with a ControlNet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "CosmosTransformer3DModel"


def _make(**changes: Any) -> Callable[[], nn.Module]:
    # The padding mask, one more channel, would need torchvision.
    sizes: Arguments = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 3,
        "mlp_ratio": 2,
        "text_embed_dim": 12,
        "adaln_lora_dim": 4,
        "max_size": (4, 16, 16),
        "concat_padding_mask": False,
    }
    return lambda: diffusers_class(NAME)(**sizes | changes)


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, 3, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 12, generator=generator),
        "fps": 30,
    }


def _video(generator: torch.Generator, batch: int) -> Arguments:
    condition = torch.zeros(batch, 1, 3, 6, 10)
    condition[:, :, 0] = 1
    return _inputs(generator, batch) | {"condition_mask": condition}


def _transfer(generator: torch.Generator, batch: int) -> Arguments:
    text = torch.randn(batch, 7, 10, generator=generator)
    image = torch.randn(batch, 5, 14, generator=generator)
    return _video(generator, batch) | {
        "encoder_hidden_states": (text, image),
        "block_controlnet_hidden_states": [torch.randn(batch, 45, 32, generator=generator)] * 2,
    }


def _ratio(sigma: float, batch: int) -> Arguments:
    """Cosmos 2 from text: noise over noise and picture, falling to 0."""
    return {"timestep": torch.full((batch,), sigma)}


def _ratio_of_frames(sigma: float, batch: int) -> Arguments:
    """The first frame is given and keeps a little noise."""
    timestep = torch.full((batch, 1, 3, 1, 1), sigma)
    timestep[:, :, 0] = 0.0001
    return {"timestep": timestep}


MODELS = available(
    Tiny(NAME, _make(), _inputs, _ratio),
    Tiny(f"{NAME}+video", _make(in_channels=5), _video, _ratio_of_frames),
    Tiny(
        f"{NAME}+transfer",
        _make(
            in_channels=5,
            extra_pos_embed_type=None,
            use_crossattn_projection=True,
            crossattn_proj_in_channels=10,
            encoder_hidden_states_channels=12,
            controlnet_block_every_n=2,
            img_context_dim_in=14,
            img_context_num_tokens=5,
            img_context_dim_out=32,
        ),
        _transfer,
        _ratio_of_frames,
        since=(0, 37),
    ),
)

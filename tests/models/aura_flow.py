"""AuraFlow."""

from __future__ import annotations

import torch
from torch import Generator, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class
from tests.models.flux import unit_time


def _aura() -> nn.Module:
    model: nn.Module = diffusers_class("AuraFlowTransformer2DModel")(
        sample_size=8,
        in_channels=4,
        num_mmdit_layers=2,
        num_single_dit_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        caption_projection_dim=32,
        pos_embed_max_size=64,
    )
    return model


def _inputs(generator: Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, 6, 10, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 5, 24, generator=generator),
    }


MODELS = available(Tiny("AuraFlowTransformer2DModel", _aura, _inputs, unit_time))

"""Nucleus-Image, a mixture of experts."""

from __future__ import annotations

import torch
from torch import Generator, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class
from tests.models.flux import unit_time

TEXT = 5


def _nucleus() -> nn.Module:
    """A dense block, then two with experts."""
    model: nn.Module = diffusers_class("NucleusMoEImageTransformer2DModel")(
        in_channels=16,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        joint_attention_dim=24,
        axes_dims_rope=(4, 6, 6),
        mlp_ratio=6.0,
        dense_moe_strategy="leave_first_block_dense",
        num_experts=4,
        moe_intermediate_dim=16,
        capacity_factors=2.0,
    )
    # The class leaves the experts' weights as the memory was.
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def _inputs(generator: Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 15, 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 24, generator=generator),
        "img_shapes": [(1, 3, 5)] * batch,
    }


def _masked(generator: Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[0, -1] = False
    return _inputs(generator, batch) | {"encoder_hidden_states_mask": mask}


MODELS = available(
    Tiny("NucleusMoEImageTransformer2DModel", _nucleus, _inputs, unit_time),
    Tiny("NucleusMoEImageTransformer2DModel+mask", _nucleus, _masked, unit_time),
)

"""FLUX.1 and the models built like it: Ovis-Image, LongCat-Image."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 5
GRID = (3, 5)
IMAGE = GRID[0] * GRID[1]


def positions(axes: int = 3) -> Tensor:
    """Row and column of every image token, in axes 1 and 2."""
    ids = torch.zeros(*GRID, axes)
    ids[..., 1] += torch.arange(GRID[0])[:, None]
    ids[..., 2] += torch.arange(GRID[1])
    return ids.flatten(0, 1)


def unit_time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), sigma)}


def _model(name: str, **config: object) -> nn.Module:
    model: nn.Module = diffusers_class(name)(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        axes_dims_rope=(4, 4, 8),
        **config,
    )
    return model


def _flux() -> nn.Module:
    return _model("FluxTransformer2DModel", pooled_projection_dim=20, guidance_embeds=True)


def _ovis() -> nn.Module:
    return _model("OvisImageTransformer2DModel", out_channels=16)


def _longcat() -> nn.Module:
    return _model("LongCatImageTransformer2DModel", pooled_projection_dim=20)


def _inputs(generator: Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, IMAGE, 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 24, generator=generator),
        "img_ids": positions(),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def _flux_inputs(generator: Generator, batch: int) -> Arguments:
    return _inputs(generator, batch) | {
        "pooled_projections": torch.randn(batch, 20, generator=generator),
        "guidance": torch.full((batch,), 3.5),
    }


def _controlled(generator: Generator, batch: int) -> Arguments:
    def residuals(count: int) -> list[Tensor]:
        return [torch.randn(batch, IMAGE, 32, generator=generator) for _ in range(count)]

    return _flux_inputs(generator, batch) | {
        "controlnet_block_samples": residuals(2),
        "controlnet_single_block_samples": residuals(1),
    }


MODELS = available(
    Tiny("FluxTransformer2DModel", _flux, _flux_inputs, unit_time),
    Tiny("FluxTransformer2DModel+controlnet", _flux, _controlled, unit_time),
    Tiny("OvisImageTransformer2DModel", _ovis, _inputs, unit_time),
    Tiny("LongCatImageTransformer2DModel", _longcat, _inputs, unit_time),
)

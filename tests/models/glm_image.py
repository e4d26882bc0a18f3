"""Tiny GLM-Image models: from text, and with a reference image in the K/V cache."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

NAME = "GlmImageTransformer2DModel"


def _make() -> nn.Module:
    return diffusers_class(NAME)(
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        text_embed_dim=12,
        time_embed_dim=16,
        condition_dim=4,
        prior_vq_quantizer_codebook_size=32,
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 4, 10, 14, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, 12, generator=generator),
        "prior_token_id": torch.randint(0, 32, (batch, 35), generator=generator),
        "prior_token_drop": torch.zeros(batch, 35, dtype=torch.bool),
        "target_size": torch.tensor([[80.0, 112.0]] * batch),
        "crop_coords": torch.zeros(batch, 2),
    }


def _without_prior(generator: torch.Generator, batch: int) -> Arguments:
    dropped = {"prior_token_drop": torch.ones(batch, 35, dtype=torch.bool)}
    return _inputs(generator, batch) | dropped


def _edit(generator: torch.Generator, batch: int) -> Arguments:
    from diffusers.models.transformers.transformer_glm_image import (
        GlmImageKVCache,
        GlmImageLayerKVCache,
    )

    class Layer(GlmImageLayerKVCache):
        """Keeps fp32 and gives what the model computes in."""

        def get(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            self.k_caches = [key.to(k.dtype) for key in self.k_caches]
            self.v_caches = [value.to(v.dtype) for value in self.v_caches]
            return super().get(k, v)

    caches = GlmImageKVCache(num_layers=3)
    caches.caches = [Layer() for _ in range(3)]
    for layer in caches.caches:
        keys, values = torch.randn(2, 1, 15, 2, 16, generator=generator)
        layer.store(keys, values)
    caches.set_mode("read")
    return _inputs(generator, batch) | {"kv_caches": caches}


def _steps(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), 1000 * sigma - 1)}


MODELS = available(
    Tiny(NAME, _make, _inputs, _steps),
    Tiny(f"{NAME}+dropped", _make, _without_prior, _steps),
    Tiny(f"{NAME}+edit", _make, _edit, _steps),
)

"""OmniGen: one stream of prompt, given images, the time and the new image."""

from __future__ import annotations

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 9
TOKENS = TEXT + 1 + 15


def _omnigen() -> nn.Module:
    return diffusers_class("OmniGenTransformer2DModel")(
        in_channels=4,
        patch_size=2,
        hidden_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=48,
        num_layers=3,
        pad_token_id=0,
        vocab_size=50,
        rope_scaling={"short_factor": [1.0] * 8, "long_factor": [1.5] * 8},
        pos_embed_max_size=8,
        time_step_dim=16,
    )


def _inputs(generator: torch.Generator, batch: int) -> Arguments:
    mask = torch.ones(TOKENS, TOKENS)
    mask[:TEXT, TEXT:] = 0
    return {
        "hidden_states": torch.randn(batch, 4, 6, 10, generator=generator),
        "input_ids": torch.randint(1, 50, (batch, TEXT), generator=generator),
        "input_img_latents": [],
        "input_image_sizes": {},
        "attention_mask": mask.repeat(batch, 1, 1),
        "position_ids": torch.arange(TOKENS).repeat(batch, 1),
    }


def _edit_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return _inputs(generator, batch) | {
        "input_img_latents": [torch.randn(1, 4, 4, 4, generator=generator) for _ in range(batch)],
        "input_image_sizes": {sample: [[2, 6]] for sample in range(batch)},
    }


def _time(sigma: float, batch: int) -> Arguments:
    return {"timestep": torch.full((batch,), 1 - sigma)}


MODELS = available(
    Tiny("OmniGenTransformer2DModel", _omnigen, _inputs, _time),
    Tiny("OmniGenTransformer2DModel+image", _omnigen, _edit_inputs, _time),
)

"""Kandinsky 5 (image, video), 6 (video with sound) and the super-resolution model of 6."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tests.models.base import Arguments, Tiny, available, diffusers_class
from tests.versions import DIFFUSERS_VERSION

TEXT = 7
GRID = (3, 2, 3)
AUDIO = 5
IN_FLOAT32 = ["time_embeddings", "modulation", "visual_modulation", "text_modulation"]


def _five(**changes: Any) -> nn.Module:
    config: dict[str, Any] = {
        "in_visual_dim": 4,
        "out_visual_dim": 4,
        "in_text_dim": 20,
        "in_text_dim2": 12,
        "time_dim": 16,
        "model_dim": 32,
        "ff_dim": 48,
        "num_text_blocks": 2,
        "num_visual_blocks": 3,
        "axes_dims": (4, 6, 6),
    }
    model = diffusers_class("Kandinsky5Transformer3DModel")(**config | changes)
    if DIFFUSERS_VERSION < (0, 37):  # there autocast keeps them so, but on CUDA only
        model._keep_in_fp32_modules = IN_FLOAT32
    return model


def _five_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {
        "hidden_states": torch.randn(batch, 3, 4, 6, 4, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "pooled_projections": torch.randn(batch, 12, generator=generator),
        "visual_rope_pos": [torch.arange(size) for size in GRID],
        "text_rope_pos": torch.arange(TEXT),
    }


def _with_image() -> nn.Module:
    return _five(visual_cond=True)


def _with_image_inputs(generator: torch.Generator, batch: int) -> Arguments:
    """Latents, the given ones, and a mask of them."""
    arguments = _five_inputs(generator, batch)
    latents = torch.randn(batch, 3, 4, 6, 9, generator=generator)
    latents[..., 8:] = 0
    latents[:, 0, ..., 8] = 1
    return arguments | {"hidden_states": latents}


def _sparse() -> nn.Module:
    """As the models of long videos: tokens go through the blocks in squares of 8 by 8."""
    model = _five(num_text_blocks=1, num_visual_blocks=2)
    for block in model.visual_transformer_blocks:  # set_attention_backend sets every model's
        block.self_attention.processor._attention_backend = "flex"
    return model


def _sparse_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return _five_inputs(generator, batch) | {
        "hidden_states": torch.randn(batch, 1, 16, 32, 4, generator=generator),
        "visual_rope_pos": [torch.arange(size) for size in (1, 8, 16)],
        "sparse_params": {"to_fractal": True, "P": 0.9, "sta_mask": torch.eye(2).bool()},
    }


def _six(**changes: Any) -> nn.Module:
    config: dict[str, Any] = {
        "in_visual_dim": 4,
        "out_visual_dim": 4,
        "in_text_dim": 20,
        "in_text_dim2": 12,
        "time_dim": 16,
        "model_dim": 32,
        "ff_dim": 48,
        "num_text_blocks": 2,
        "num_visual_blocks": 2,
        "axes_dims": (4, 6, 6),
        "in_audio_dim": 6,
        "out_audio_dim": 6,
        "model_dim_a": 48,
        "time_dim_a": 24,
        "ff_dim_a": 56,
        "ca_rope": True,
        "cross_gates": True,
        "fix_modulation": True,
    }
    return diffusers_class("Kandinsky6Transformer3DModel")(**config | changes)


def _six_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return _silent_inputs(generator, batch) | {
        "audio_hidden_states": torch.randn(batch, AUDIO, 6, generator=generator)
    }


def _silent_inputs(generator: torch.Generator, batch: int) -> Arguments:
    latents = torch.randn(batch, 3, 4, 6, 9, generator=generator)
    latents[..., 4:] = 0
    return {
        "hidden_states": latents,
        "encoder_hidden_states": torch.randn(batch, TEXT, 20, generator=generator),
        "pooled_projections": torch.randn(batch, 12, generator=generator),
    }


def _plain_six() -> nn.Module:
    return _six(
        time_dim_a=16,
        ca_rope=False,
        cross_gates=False,
        fix_modulation=False,
        visual_token_type_num_embeddings=2,
    )


def _plain_six_inputs(generator: torch.Generator, batch: int) -> Arguments:
    kinds = torch.zeros(batch, 3, dtype=torch.long)
    kinds[:, -1] = 1
    return _six_inputs(generator, batch) | {
        "visual_token_type_ids": kinds,
        "visual_rope_pos": (torch.tensor([0, 1, 0]), torch.arange(2), torch.arange(3)),
    }


def _larger() -> nn.Module:
    return diffusers_class("Kandinsky6SRTransformer3DModel")(
        in_visual_dim=4,
        out_visual_dim=4,
        time_dim=16,
        model_dim=32,
        ff_dim=48,
        num_visual_blocks=2,
        axes_dims=(4, 6, 6),
    )


def _larger_inputs(generator: torch.Generator, batch: int) -> Arguments:
    return {"hidden_states": torch.randn(batch, 1, 8, 16, 9, generator=generator)}


BOTH = ("hidden_states", "audio_hidden_states")

MODELS = available(
    Tiny("Kandinsky5Transformer3DModel", _five, _five_inputs),
    Tiny("Kandinsky5Transformer3DModel+i2v", _with_image, _with_image_inputs),
    Tiny("Kandinsky5Transformer3DModel+sparse", _sparse, _sparse_inputs, batches=(1,)),
    Tiny("Kandinsky6Transformer3DModel", _six, _six_inputs, latents=BOTH),
    Tiny("Kandinsky6Transformer3DModel+plain", _plain_six, _plain_six_inputs, latents=BOTH),
    Tiny("Kandinsky6Transformer3DModel+silent", _six, _silent_inputs),
    Tiny("Kandinsky6SRTransformer3DModel", _larger, _larger_inputs, batches=(1,)),
)

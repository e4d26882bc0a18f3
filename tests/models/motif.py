"""Motif-Video."""

from __future__ import annotations

import torch
from torch import Generator, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 5


def _motif(decoders: int = 0, *, cross: bool = False, image: int | None = None) -> nn.Module:
    model: nn.Module = diffusers_class("MotifVideoTransformer3DModel")(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=3,
        num_decoder_layers=decoders,
        text_embed_dim=24,
        image_embed_dim=image,
        rope_axes_dim=(4, 6, 6),
        enable_text_cross_attention_dual=cross,
        enable_text_cross_attention_single=cross,
    )
    return model


def _decoding() -> nn.Module:
    """The last blocks start from the latents again and read what the others made of them."""
    return _motif(1, cross=True, image=12)


def _inputs(generator: Generator, batch: int) -> Arguments:
    mask = torch.ones(batch, TEXT, dtype=torch.long)
    mask[0, -1] = 0
    return {
        "hidden_states": torch.randn(batch, 9, 3, 4, 6, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 24, generator=generator),
        "encoder_attention_mask": mask,
    }


def _image_inputs(generator: Generator, batch: int) -> Arguments:
    image = torch.randn(batch, 4, 12, generator=generator)
    return _inputs(generator, batch) | {"image_embeds": image}


MODELS = available(
    Tiny("MotifVideoTransformer3DModel", _motif, _inputs),
    Tiny("MotifVideoTransformer3DModel+decoder", _decoding, _image_inputs),
)

"""JoyImage-Edit and JoyImage-Edit-Plus."""

from __future__ import annotations

import torch
from torch import Generator, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 5


def _joy(name: str, rope: str = "rope") -> nn.Module:
    model: nn.Module = diffusers_class(name)(
        in_channels=4,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=24,
        num_layers=3,
        rope_dim_list=[4, 6, 6],
        rope_type=rope,
    )
    return model


def _edit() -> nn.Module:
    return _joy("JoyImageEditTransformer3DModel", "mrope")


def _plus() -> nn.Module:
    return _joy("JoyImageEditPlusTransformer3DModel")


def _inputs(generator: Generator, batch: int, items: tuple[int, ...] = ()) -> Arguments:
    shape = (batch, *items, 4, 1, 6, 10)
    return {
        "hidden_states": torch.randn(shape, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 24, generator=generator),
    }


def _edit_inputs(generator: Generator, batch: int) -> Arguments:
    """The image to edit and the one to be made, in this order."""
    return _inputs(generator, batch, (2,))


def _plus_inputs(generator: Generator, batch: int) -> Arguments:
    """Patches of the image to be made and of those to edit; the first sample lacks some."""
    shapes = [[(1, 3, 5), (1, 2, 4), (1, 2, 3)]] * batch
    if batch > 1:
        shapes[0] = shapes[0][:2]
    mask = torch.ones(batch, TEXT)
    mask[0, -1] = 0
    return {
        "hidden_states": torch.randn(batch, 29, 4, 1, 2, 2, generator=generator),
        "encoder_hidden_states": torch.randn(batch, TEXT, 24, generator=generator),
        "encoder_hidden_states_mask": mask,
        "shape_list": shapes,
    }


MODELS = available(
    Tiny("JoyImageEditTransformer3DModel", _edit, _inputs),
    Tiny("JoyImageEditTransformer3DModel+edit", _edit, _edit_inputs),
    Tiny("JoyImageEditPlusTransformer3DModel", _plus, _plus_inputs),
)

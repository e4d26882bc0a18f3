"""Tokens laid out over their picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tap_ext.plots.orders import grid, orders
from tap_ext.plots.style import order_colours
from tap_ext.report import Choice

__all__ = ["as_array", "cells_of", "laid_out", "orders", "over", "overlay"]

Cells = tuple[int, int]


def as_array(picture: Any) -> NDArray[Any]:
    """A PIL image, an array or a tensor as (H, W, 3) in [0, 1].

    Raises:
        ValueError: it has another shape.
    """
    if isinstance(picture, Tensor):
        picture = picture.detach().float().cpu().movedim(-3, -1).numpy()
    shown = np.asarray(picture)
    if shown.dtype == np.uint8:
        shown = shown / 255
    if shown.ndim == 2:
        shown = shown[..., None]
    if shown.ndim != 3 or shown.shape[-1] not in (1, 3, 4):
        raise ValueError(f"picture must be one of (H, W, 3), got shape {tuple(shown.shape)}")
    colours = shown if shown.shape[-1] == 1 else shown[..., :3]
    wide: NDArray[Any] = np.broadcast_to(colours, (*colours.shape[:2], 3)).astype(float)
    return wide.clip(0, 1)


def cells_of(tokens: int, height: int | None, width: int | None) -> Cells | None:
    """Rows and columns of one frame's tokens; None: they fill no grid of this shape.

    Raises:
        ValueError: the shape was given, and they do not fill it.
    """
    tall, wide = (1, 1) if height is None or width is None else (height, width)
    found = grid(tokens, tall, wide)
    if found is not None and abs(np.log(found[0] / found[1] * wide / tall)) < 0.25:
        return found
    if height is not None:
        raise ValueError(f"height and width must be those of {tokens} tokens, got {height}x{width}")
    return None


def laid_out(values: Tensor, cells: Cells, frames: int = 1, row: int = -1) -> NDArray[Any]:
    """(B, N) values as (rows, columns) of one batch row, in the middle frame."""
    one = values[row].reshape(frames, *cells)[frames // 2]
    return np.asarray(one.cpu().numpy())


def over(colours: NDArray[Any], picture: NDArray[Any] | None, strength: float) -> NDArray[Any]:
    """A map of colours (rows, columns, 3), laid upon a picture (H, W, 3) where there is one."""
    if picture is None:
        return colours
    sides = [
        np.arange(length) * cells // length
        for length, cells in zip(picture.shape[:2], colours.shape[:2], strict=True)
    ]
    grey = picture.mean(-1, keepdims=True)
    laid: NDArray[Any] = (1 - strength) * grey + strength * colours[np.ix_(*sides)]
    return laid


def overlay(
    choice: Choice, picture: Any, *, planes: int | None = None, row: int = -1
) -> NDArray[Any] | None:
    """The order of each token in one skip step over its picture, (H, W, 3) in [0, 1].

    None where the tokens fill no grid of the picture's shape.
    """
    shown = as_array(picture)
    try:
        cells = cells_of(choice.index.shape[1], *shown.shape[:2])
    except ValueError:
        return None
    assert cells is not None
    count = planes or choice.rows.difference.shape[1]
    taken = laid_out(orders(choice), cells, row=row)
    return over(order_colours(count)[torch.from_numpy(taken).long().numpy()], shown, 0.6)

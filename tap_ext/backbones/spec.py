"""What the views must know of a model class, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["BackboneSpec", "Blocks"]

ProbeFormula = Callable[[Any, Tensor, Mapping[str, Any]], Tensor]
"""``probe(first_block, hidden, arguments) -> (..., N, D)``: the modulated input of the first
layer; ``arguments`` are the first block's, by name."""


@dataclass(frozen=True)
class Blocks:
    """One list of main blocks, in the order in which the model calls it.

    Attributes:
        path: the module list, relative to the model.
        returns: what a block returns, in order: ``h`` the hidden state, ``e`` the encoder's.
        hidden: the block's argument that carries the hidden state.
        encoder: the block's argument that carries the encoder's state, where it returns one.
    """

    path: str
    returns: str = "h"
    hidden: str = "hidden_states"
    encoder: str = "encoder_hidden_states"


@dataclass(frozen=True)
class BackboneSpec:
    """How a family of models is entered, probed and left.

    Attributes:
        name: class name in diffusers; subclasses match too.
        blocks: the lists of main blocks, in calling order.
        head: the module whose first argument is the hidden state after the last block.
        probe: eq. 5 of arXiv 2603.03792 for this family, or None for the generic one: the first
            tensor that reaches ``attention`` inside the first block.
        attention: path, within the first block, of its first attention.
        idle: modules whose output only the main blocks read (text embedders, position tables): on
            a skip step their output of the last full step stands in.
        hidden: the model's argument that carries the latents.
        timestep: the model's argument that carries the timestep.
        conditioning: the model's arguments that tell one branch from another.
        between: the model's arguments that make it add to the hidden state between its blocks.
    """

    name: str
    blocks: tuple[Blocks, ...]
    head: str
    probe: ProbeFormula | None = None
    attention: str = "attn"
    idle: tuple[str, ...] = ()
    hidden: str = "hidden_states"
    timestep: str = "timestep"
    conditioning: tuple[str, ...] = ("encoder_hidden_states",)
    between: tuple[str, ...] = ()

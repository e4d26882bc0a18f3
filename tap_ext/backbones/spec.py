"""What the views must know of a model class, as data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tap_ext.modulation import Modulation

__all__ = ["BackboneSpec", "Blocks", "Stream"]

ProbeFormula = Callable[[Any, Tensor, Mapping[str, Any]], Tensor]
"""``probe(first_block, hidden, arguments) -> (..., N, D)``: the modulated input of the first
layer; ``arguments`` are the first block's, by name."""

ModulationFormula = Callable[[Any, Tensor, Mapping[str, Any]], Modulation | None]
"""``modulation(first_block, hidden, arguments)``: what makes the probe of ``hidden``, where the
block's own norm is of the kind that needs no more; None: this call's is not."""

TOKENS = ("all", "first", "last", "inside")
GRAPHS = ("all", "skip", "none")


@dataclass(frozen=True)
class Blocks:
    """One list of blocks, in the order in which the model calls it.

    Attributes:
        path: the module list, relative to the model.
        returns: the block's own arguments whose new values it returns, in order.
    """

    path: str
    returns: tuple[str, ...] = ("hidden_states",)


@dataclass(frozen=True)
class Stream:
    """A hidden state that the blocks transform and a head reads; most models have one.

    Attributes:
        head: the module whose first argument is the hidden state after the last block;
            ``name.*`` stands for every child of ``name``. Empty where the model reorders tokens
            before it: then what the last block returns is taken and replaced.
        hidden: the blocks' argument that carries the hidden state.
        probe: eq. 5 of arXiv 2603.03792 for this family, or None for the generic one: the first
            tensor that reaches ``attention`` inside the first block.
        attention: path, within the first block, of its first attention.
        tokens: which of the tokens that enter the blocks the head is given: ``all``, the
            ``first``, the ``last``, or some ``inside``, found by looking.
        modulation: what the probe is made of, for families whose first norm is a LayerNorm without
            weights, scaled and shifted alike for all tokens: on a skip step it then is never
            written.
    """

    head: str
    hidden: str = "hidden_states"
    probe: ProbeFormula | None = None
    attention: str = "attn"
    tokens: str = "all"
    modulation: ModulationFormula | None = None

    def __post_init__(self) -> None:
        """Refuse an unknown word."""
        _one_of("tokens", self.tokens, TOKENS)


@dataclass(frozen=True)
class BackboneSpec:
    """How a family of models is entered, probed and left.

    Attributes:
        name: class name in diffusers; subclasses match too.
        blocks: the lists of main blocks, in calling order.
        streams: what they transform; a later one need not be there in every call.
        bypassed: lists of other blocks whose output only the main blocks read.
        idle: modules whose output only the main blocks read, or that is the same at every step
            (text embedders, position tables): on a skip step their output of the last full step
            stands in. A path that ends in ``?`` need not be there.
        latents: the model's argument that carries the latents, a tensor or a list of tensors.
        timestep: the model's argument that carries the timestep.
        rising: the timestep given to the model rises over a run; None: unknown.
        conditioning: the model's arguments that tell one branch from another.
        between: the model's arguments that make it add to the hidden state between its blocks.
        adds: the model always does.
        graphs: which steps a CUDA graph can hold: ``all``, ``skip`` or ``none``.
        hazards: what to know of this family, in a sentence.
    """

    name: str
    blocks: tuple[Blocks, ...]
    streams: tuple[Stream, ...]
    bypassed: tuple[Blocks, ...] = ()
    idle: tuple[str, ...] = ()
    latents: str = "hidden_states"
    timestep: str = "timestep"
    rising: bool | None = False
    conditioning: tuple[str, ...] = ("encoder_hidden_states",)
    between: tuple[str, ...] = ()
    adds: bool = False
    graphs: str = "all"
    hazards: str = ""

    def __post_init__(self) -> None:
        """Refuse an unknown word, and a spec of nothing."""
        _one_of("graphs", self.graphs, GRAPHS)
        if not self.blocks or not self.streams:
            raise ValueError(f"blocks and streams must not be empty, got {self}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data; formulas are given by their names."""
        data = dataclasses.asdict(self)
        for stream, entry in zip(data["streams"], self.streams, strict=True):
            stream["probe"] = getattr(entry.probe, "__name__", None)
            stream["modulation"] = getattr(entry.modulation, "__name__", None)
        return data


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")

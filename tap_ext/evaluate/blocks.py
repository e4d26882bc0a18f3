"""TaylorSeer as its own code does it: the outputs of the modules inside every block, forecast."""

from __future__ import annotations

import contextlib
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from tap_ext.backbones import find_spec
from tap_ext.predictors import TaylorSeer
from tap_ext.views import tensors

__all__ = ["MODULES", "BlockForecast"]

_ATTENTION_AND_MLPS = (("attn", "ff", "ff_context"), ())
_JOINED = (("proj_out",), ("attn", "proj_mlp"))

MODULES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "FluxTransformerBlock": _ATTENTION_AND_MLPS,
    "FluxSingleTransformerBlock": _JOINED,
    "HunyuanVideoTransformerBlock": _ATTENTION_AND_MLPS,
    "HunyuanVideoSingleTransformerBlock": _JOINED,
    "JointTransformerBlock": _ATTENTION_AND_MLPS,
    "QwenImageTransformerBlock": (("attn", "img_mlp", "txt_mlp"), ()),
    "BasicTransformerBlock": (("attn1", "attn2", "ff"), ()),
    "WanTransformerBlock": (("attn1", "attn2", "ffn"), ()),
}
"""By class of block: what is forecast, before its gate is applied, and what need not run then."""


@dataclass(frozen=True)
class BlockForecast:
    """Attention and feed-forward outputs of all blocks, each by ``TaylorSeer`` from its own past.

    arXiv 2503.06923. Everything between those modules (norms, modulations, gates, residual sums)
    runs at every step. Per order and module one tensor is held.

    Attributes:
        full_steps: the steps that run everything, the first of the run among them.
        order: highest difference.
        first_enhance: the guard of the start in that code; None: without it.
    """

    full_steps: tuple[int, ...]
    order: int = 2
    first_enhance: int | None = 3

    @contextlib.contextmanager
    def around(self, pipe: Any) -> Iterator[_Modules]:
        """Holds for the calls of a pipeline, or of a transformer, and leaves nothing behind.

        Raises:
            ValueError: its blocks are of a class that is not in ``MODULES``.
        """
        model = getattr(pipe, "transformer", pipe)
        seer = _Modules(self, TaylorSeer(self.order, self.first_enhance))
        with contextlib.ExitStack() as undo:
            handle = model.register_forward_pre_hook(_clock(model, seer), with_kwargs=True)
            undo.callback(handle.remove)
            for name, module, forecast in _modules(model):
                module.forward = seer.wrapped(name, module.forward, forecast)
                undo.callback(module.__dict__.pop, "forward")
            yield seer


def _modules(model: nn.Module) -> list[tuple[str, nn.Module, bool]]:
    """Name, module, and whether it is forecast rather than left out."""
    found = []
    for place, block in model.named_modules():
        forecast, idle = MODULES.get(type(block).__name__, ((), ()))
        for name in (*forecast, *idle):
            if (module := getattr(block, name, None)) is not None:
                found.append((f"{place}.{name}", module, name in forecast))
    if not found:
        known = ", ".join(MODULES)
        raise ValueError(
            f"taylorseer-blocks knows the blocks {known}, none is in {type(model).__name__}"
        )
    return found


def _clock(model: nn.Module, seer: _Modules) -> Callable[..., None]:
    spec = find_spec(model)
    name = "timestep" if spec is None else spec.timestep
    signature = inspect.signature(model.forward)

    def begin(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = signature.bind_partial(*args, **kwargs).arguments
        values = tensors(given.get(name))
        seer.begin(float(values[0].float().mean()) if values else float(given[name]))

    return begin


@dataclass
class _Modules:
    """The past outputs of every module, by branch."""

    rule: BlockForecast
    predictor: TaylorSeer
    step: int = -1
    branch: int = 0
    timesteps: list[float] = field(default_factory=list)
    past: dict[tuple[str, int], deque[tuple[int, Any]]] = field(default_factory=dict)

    def begin(self, timestep: float) -> None:
        """A call of the model; the same timestep again is another branch of the same step."""
        if self.timesteps[-1:] == [timestep]:
            self.branch += 1
            return
        if timestep in self.timesteps:  # it turned back: another run
            self.timesteps.clear()
            self.past.clear()
        self.timesteps.append(timestep)
        self.step, self.branch = len(self.timesteps) - 1, 0

    def wrapped(self, name: str, forward: Callable[..., Any], forecast: bool) -> Callable[..., Any]:
        """A module's forward, run at full steps only."""

        def call(*args: Any, **kwargs: Any) -> Any:
            known = self.past.setdefault(
                (name, self.branch), deque(maxlen=self.predictor.history if forecast else 1)
            )
            if self.step in self.rule.full_steps or not known:
                output = forward(*args, **kwargs)
                known.appendleft((self.step, output))
                return output
            return self._forecast(known) if forecast else known[0][1]

        return call

    def _forecast(self, known: deque[tuple[int, Any]]) -> Any:
        positions = np.array([step for step, _ in known], dtype=np.float64)
        weights = self.predictor.weights(positions, float(self.step)).tolist()
        newest = known[0][1]
        if isinstance(newest, Tensor):
            return _sum(weights, [output for _, output in known])
        parts = zip(*(output for _, output in known), strict=True)
        return type(newest)(_sum(weights, part) for part in parts)

    @property
    def nbytes(self) -> int:
        """Bytes of the outputs held."""
        held = [tensor for past in self.past.values() for _, out in past for tensor in tensors(out)]
        return sum(tensor.nbytes for tensor in held)


def _sum(weights: list[float], values: Any) -> Tensor:
    total: Tensor = sum(w * v.float() for w, v in zip(weights, values, strict=True) if w)
    return total.to(values[0].dtype)

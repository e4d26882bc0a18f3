"""Full and skip views of a model: the same modules, differently joined.

A view is a shallow copy of the modules along a few paths; every parameter, buffer and untouched
submodule is the model's own, and the model itself is never written to. What a view reads or puts
back during a call lives in a ``Call``, so one pair of views serves any number of threads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from tap_ext.backbones.spec import BackboneSpec, Blocks

__all__ = ["AdapterError", "Call", "Views", "graft", "run_view"]


class AdapterError(RuntimeError):
    """A model is not what its spec says."""


@dataclass
class Call:
    """One call of a view: what it reads out of the model, and what it puts back.

    Attributes:
        forecast: ``(hidden, probe) -> (..., N, D)``, what replaces the head's hidden input on a
            skip step; None on a full step.
        want_probe: compute the modulated probe (otherwise the hidden state serves as one).
        idle: output of each idle module, by path: written on a full step, read on a skip step.
        hidden: (..., N, D), the hidden state that entered the first block.
        probe: (..., N, Dp), its probe.
        output: (..., N, D), the hidden state that reached the head, before any replacement.
        visited: how many blocks were called.
    """

    forecast: Callable[[Tensor, Tensor], Tensor] | None = None
    want_probe: bool = True
    idle: dict[str, Any] = field(default_factory=dict)
    hidden: Tensor | None = None
    probe: Tensor | None = None
    output: Tensor | None = None
    visited: int = 0


_call: ContextVar[Call] = ContextVar("tap_ext_call")


def run_view(view: nn.Module, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a view's own forward, without the hooks of its root: those ran around the model's."""
    token = _call.set(call)
    try:
        return type(view).forward(view, *args, **kwargs)
    finally:
        _call.reset(token)


def graft(model: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    """A copy of ``model`` with other modules at some paths, sharing everything else.

    Args:
        model: left as it is.
        replacements: new module by dotted path.

    Raises:
        AdapterError: a path names no submodule.
    """
    below: dict[str, dict[str, nn.Module]] = {}
    children = dict(model._modules)
    for path, module in replacements.items():
        name, _, rest = path.partition(".")
        if children.get(name) is None:
            raise AdapterError(f"{type(model).__name__} has no submodule {name!r}")
        if rest:
            below.setdefault(name, {})[rest] = module
        else:
            children[name] = module
    for name, deeper in below.items():
        child = children[name]
        assert child is not None
        children[name] = graft(child, deeper)
    copy = object.__new__(type(model))
    copy.__dict__.update(model.__dict__)
    copy.__dict__.pop("forward", None)
    copy.__dict__["_modules"] = children
    return copy


class _Stand(nn.Module):
    """Stands in a view where ``real`` stands in the model; other attributes are the real one's.

    ``real`` is a submodule, so that what walks a view (LoRA scaling does) finds it.
    """

    def __init__(self, real: nn.Module) -> None:
        super().__init__()
        self.real = real

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("real"), name)


class _Block(_Stand):
    """A main block that reads its arguments by name, however they were passed."""

    def __init__(self, real: nn.Module, blocks: Blocks, probe: _Probe | None) -> None:
        super().__init__(real)
        self._probe = probe
        parameters = inspect.signature(type(real).forward).parameters
        self._names = tuple(parameters)[1:]
        wanted = {"h": blocks.hidden, "e": blocks.encoder}
        self._hidden = blocks.hidden
        self._returned = tuple(wanted[letter] for letter in blocks.returns)
        for name in {self._hidden, *self._returned}:
            if name not in self._names:
                raise AdapterError(
                    f"{type(real).__name__}.forward has no argument {name!r}, "
                    f"it has {', '.join(self._names)}"
                )

    def _enter(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
        call = _call.get()
        arguments = dict(zip(self._names, args, strict=False)) | kwargs
        if self._probe is not None:
            call.hidden = arguments[self._hidden]
            call.probe = self._probe(arguments) if call.want_probe else call.hidden
        call.visited += 1
        return call, arguments


class _WatchedBlock(_Block):
    """Full view: notes what enters the first block, then runs it."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self._enter(args, kwargs)
        return self.real(*args, **kwargs)


class _AbsentBlock(_Block):
    """Skip view: hands its inputs on in the block's own order of returning them."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        _, arguments = self._enter(args, kwargs)
        returned = tuple(arguments.get(name) for name in self._returned)
        return returned[0] if len(returned) == 1 else returned


class _Head(_Stand):
    """Notes the hidden state that reaches the head; on a skip step replaces it.

    Replaced, never added to: what a model adds between its blocks (ControlNet residuals) is already
    in the residual and must not count twice.
    """

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        call = _call.get()
        call.output = hidden
        if call.forecast is not None:
            assert call.hidden is not None and call.probe is not None
            hidden = call.forecast(call.hidden, call.probe)
        return self.real(hidden, *args, **kwargs)


class _Idle(_Stand):
    """A module whose output only the blocks read: computed on full steps, remembered for others."""

    def __init__(self, real: nn.Module, path: str) -> None:
        super().__init__(real)
        self._path = path

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = _call.get()
        if call.forecast is None:
            call.idle[self._path] = self.real(*args, **kwargs)
        return call.idle[self._path]


class _Intercepted(Exception):
    """Carries the probe out of a block that need not finish."""

    def __init__(self, probe: Tensor) -> None:
        self.probe = probe


class _Intercept(_Stand):
    """Takes the place of the first attention and hands its input out."""

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):
                raise _Intercepted(value)
        raise AdapterError(f"no tensor reached {type(self.real).__name__}")


class _Probe:
    """The modulated input of the first layer (eq. 5, arXiv 2603.03792)."""

    def __init__(self, block: nn.Module, blocks: Blocks, spec: BackboneSpec) -> None:
        self._block = block
        self._hidden = blocks.hidden
        self._formula = spec.probe
        self._spec = spec

    def __call__(self, arguments: Mapping[str, Any]) -> Tensor:
        try:
            if self._formula is not None:
                return self._formula(self._block, arguments[self._hidden], arguments)
            return self._intercept(arguments)
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            name = type(self._block).__name__
            raise AdapterError(f"the probe of {name} failed: {error}") from error

    def _intercept(self, arguments: Mapping[str, Any]) -> Tensor:
        """The first tensor that reaches the first block's attention: right for any family."""
        attention = self._block.get_submodule(self._spec.attention)
        block = graft(self._block, {self._spec.attention: _Intercept(attention)})
        try:
            type(block).forward(block, **arguments)
        except _Intercepted as caught:
            return caught.probe
        raise AdapterError(f"it never called {self._spec.attention!r}")


class Views:
    """The full and the skip view of one model.

    Attributes:
        full: runs everything and notes the first block's input and the head's.
        skip: runs what stands before and after the blocks, and puts a forecast between.
        blocks: how many main blocks there are.
    """

    def __init__(self, model: nn.Module, spec: BackboneSpec) -> None:
        """Build both views.

        Raises:
            AdapterError: ``model`` lacks a module or an argument that ``spec`` names.
        """
        lists = {entry.path: _module(model, entry.path) for entry in spec.blocks}
        self.blocks = sum(len(list(blocks.children())) for blocks in lists.values())
        first = spec.blocks[0]
        leader = next(iter(lists[first.path].children()), None)
        if leader is None:
            raise AdapterError(f"{type(model).__name__}.{first.path} is empty")
        probe = _Probe(leader, first, spec)
        head: dict[str, nn.Module] = {spec.head: _Head(_module(model, spec.head))}
        idle = {path: _Idle(_module(model, path), path) for path in spec.idle}
        absent = {
            f"{entry.path}.{name}": _AbsentBlock(block, entry, probe if block is leader else None)
            for entry in spec.blocks
            for name, block in lists[entry.path].named_children()
        }
        leader_path = f"{first.path}.{next(iter(dict(lists[first.path].named_children())))}"
        watched = {leader_path: _WatchedBlock(leader, first, probe)}
        self.full = graft(model, head | idle | watched)
        self.skip = graft(model, head | idle | absent)
        self._spec = spec
        self._fingerprint = self._read_fingerprint(model)

    def stale(self, model: nn.Module) -> bool:
        """Whether the model's own parts have changed since the views were built.

        Changes inside a shared submodule need nothing. Read at every call, so it looks only at
        what a view copies: the children along the paths, and the plain attributes of the root.
        """
        return self._fingerprint != self._read_fingerprint(model)

    def _read_fingerprint(self, model: nn.Module) -> tuple[Any, ...]:
        lists = (model.get_submodule(entry.path)._modules for entry in self._spec.blocks)
        return (
            model.training,
            *map(id, model._modules.values()),
            *(id(block) for blocks in lists for block in blocks.values()),
        )


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise AdapterError(f"{type(model).__name__} has no module {path!r}: {error}") from None


@torch.no_grad()
def verify(
    views: Views,
    full: Call,
    output: Tensor,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    between: bool,
) -> str | None:
    """Run the skip view with the true residual put back and compare with the model's output.

    Args:
        views: the views to check.
        full: the call of the full view that gave ``output``.
        output: what the model returned, its first tensor.
        args: the model's positional arguments.
        kwargs: the model's keyword arguments.
        between: the model adds to the hidden state between its blocks in this call, so its head
            need not see the first block's input when the blocks are absent.

    Returns:
        None when the skip view is right, else what is wrong. Reads the device.
    """
    truth = full.output
    if full.hidden is None or truth is None:
        return "the first block or the head was never called"
    if truth.shape != full.hidden.shape:
        return (
            f"the head sees a hidden state of shape {tuple(truth.shape)}, "
            f"the first block one of {tuple(full.hidden.shape)}"
        )
    call = Call(lambda hidden, probe: truth, full.want_probe, full.idle)
    again = first_tensor(run_view(views.skip, call, args, kwargs))
    if call.visited != views.blocks:
        return f"{call.visited} of {views.blocks} blocks were called"
    if not between and (call.output is None or not torch.equal(call.output, full.hidden)):
        return "the head does not see what entered the first block when the blocks are absent"
    if again.shape != output.shape:
        return f"a skip step returns shape {tuple(again.shape)}, the model {tuple(output.shape)}"
    scale = output.float().norm().item()
    error = (again.float() - output.float()).norm().item()
    limit = (1e-5 if output.dtype == torch.float32 else 1e-2) * scale
    if not error <= limit and torch.isfinite(output).all():
        return f"a skip step with the true residual is off by {error / scale:.2e} relative"
    return None


def first_tensor(output: Any) -> Tensor:
    """The tensor inside what a diffusers model returns: an output object, a tuple or a tensor."""
    if isinstance(output, Tensor):
        return output
    value = output[0]
    if not isinstance(value, Tensor):
        raise AdapterError(f"the model returned {type(value).__name__}, not a tensor, first")
    return value

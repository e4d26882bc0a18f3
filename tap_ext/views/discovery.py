"""How to enter a model that nobody wrote a spec for: watch one call, guess, and check the guess.

Every list of modules that was called is a list of blocks; what the last of them returns is read by
a head. Which lists belong to the main stack, which of their tensors is the hidden state and where
it ends is not decided here by name but by the self-check: every candidate is tried, the widest
first, and the first one that gives the model's own output back is taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor, nn

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream
from tap_ext.views.call import Call, run_view, tensors
from tap_ext.views.check import misplaced, verify
from tap_ext.views.graft import AdapterError, graft
from tap_ext.views.pair import Views
from tap_ext.views.standins import Stand, argument_names

__all__ = ["discover"]

TIMESTEPS = ("timestep", "timesteps", "t")
"""What most models call their argument of time."""


@torch.no_grad()
def discover(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BackboneSpec:
    """A spec under which this call passes the self-check.

    Runs the model once, once more without its blocks for every candidate, and once more for each
    of the few that are in the right place.

    Args:
        model: left as it is.
        args: positional arguments of a call.
        kwargs: keyword arguments of a call.

    Raises:
        AdapterError: no candidate passes; the message says why the last one did not.
    """
    outline = _outline(model, args, kwargs)
    trace = _watch(model, args, kwargs)
    reason = "no list of modules was called that returns a hidden state"
    for candidate in _candidates(outline, trace):
        wrong = _wrong(model, candidate, args, kwargs)
        if wrong is None:
            streams = tuple(
                _with_probe(model, candidate, number, args, kwargs)
                for number in range(len(candidate.streams))
            )
            return replace(candidate, streams=streams)
        reason = wrong
    raise AdapterError(f"{type(model).__name__} has no spec, and none was found: {reason}")


def _outline(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BackboneSpec:
    """What the signature alone says."""
    names = argument_names(model)
    given = dict(zip(names, args, strict=False)) | kwargs
    times = [*(name for name in TIMESTEPS if name in given), *(n for n in given if "time" in n)]
    timestep = next(iter(times), None)
    features = (name for name in names if any(map(_is_feature, tensors(given.get(name)))))
    latents = next(features, None)
    if timestep is None or latents is None:
        raise AdapterError(
            f"{type(model).__name__}.forward must be given latents and a timestep, "
            f"got {', '.join(given)}"
        )
    conditioning = tuple(
        name
        for name in given
        if name not in (latents, *times) and tensors(given[name]) and "sigma" not in name
    )
    return BackboneSpec(
        name=type(model).__name__,
        blocks=(Blocks("?"),),
        streams=(Stream("?"),),
        latents=latents,
        timestep=timestep,
        rising=None,
        conditioning=conditioning,
    )


@dataclass
class _List:
    """A list of modules that were called.

    Attributes:
        arguments: shapes of the tensors given to its first block, by name; None where None was.
        returned: shapes of what that block returned; None where None was.
        chained: arguments that were given what the block before had returned, by position.
    """

    arguments: dict[str, torch.Size | None] = field(default_factory=dict)
    returned: tuple[torch.Size | None, ...] = ()
    chained: dict[int, str] = field(default_factory=dict)


@dataclass
class _Trace:
    """One call, watched.

    Attributes:
        lists: by path, in the order of their first call.
        readers: modules outside the lists that were given a tensor first, with its shape and the
            list that was called last before.
    """

    lists: dict[str, _List] = field(default_factory=dict)
    readers: list[tuple[str, torch.Size, str]] = field(default_factory=list)
    _last: str = ""
    _before: tuple[Any, ...] = ()

    def block(self, path: str, arguments: Mapping[str, Any], output: Any) -> None:
        """Note a call of a block."""
        given = {name: v for name, v in arguments.items() if v is None or _is_feature(v)}
        returned = output if isinstance(output, tuple) else (output,)
        if path not in self.lists:
            shapes = {name: _shape(value) for name, value in given.items()}
            self.lists[path] = _List(shapes, tuple(_shape(value) for value in returned))
        elif self._last == path:
            for position, value in enumerate(self._before):
                name = next((n for n, v in given.items() if v is value is not None), None)
                if name is not None:
                    self.lists[path].chained.setdefault(position, name)
        self._last, self._before = path, returned

    def other(self, path: str, first: Any) -> None:
        """Note a call of another module."""
        if _is_feature(first):
            self.readers.append((path, first.shape, self._last))


def _is_feature(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


class _Watched(Stand):
    """Runs a module and tells the trace of it."""

    def __init__(self, real: nn.Module, path: str, blocks: str | None, trace: _Trace) -> None:
        super().__init__(real, path)
        self._blocks = blocks
        self._trace = trace

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns."""
        arguments = dict(zip(argument_names(self.real), args, strict=False)) | kwargs
        output = self.real(*args, **kwargs)
        if self._blocks is None:
            self._trace.other(self._path, next(iter(arguments.values()), None))
        else:
            self._trace.block(self._blocks, arguments, output)
        return output


def _watch(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Trace:
    trace = _Trace()
    watched = {
        path: _Watched(module, path, blocks, trace) for path, module, blocks in _parts(model, "")
    }
    run_view(graft(model, watched), Call(()), args, kwargs)
    return trace


def _parts(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, str | None]]:
    """The modules that a model calls itself: path, module, path of the list it is in."""
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            yield from _parts(child, f"{path}.")
        else:
            yield path, child, prefix[:-1] if isinstance(module, nn.ModuleList) else None


def _candidates(outline: BackboneSpec, trace: _Trace) -> Iterator[BackboneSpec]:
    """Specs worth trying, those that skip the most first."""
    paths = [path for path, entry in trace.lists.items() if any(entry.returned)]
    count = len(paths)
    ranges = [(i, j) for i in range(count) for j in range(i + 1, count + 1)]
    for start, stop in sorted(ranges, key=lambda r: (r[0] - r[1], r[0])):
        chosen = paths[start:stop]
        for blocks in _orders(chosen, trace):
            for streams in _streams(blocks, trace):
                yield replace(outline, blocks=blocks, streams=streams)


def _orders(paths: list[str], trace: _Trace) -> Iterator[tuple[Blocks, ...]]:
    """The lists with every order of returning that the shapes allow."""
    if not paths:
        yield ()
        return
    entry = trace.lists[paths[0]]
    for names in permutations(entry.arguments, len(entry.returned)):
        fits = all(entry.arguments[n] == s for n, s in zip(names, entry.returned, strict=True))
        if fits and all(names[position] == name for position, name in entry.chained.items()):
            for rest in _orders(paths[1:], trace):
                yield (Blocks(paths[0], names), *rest)


def _streams(blocks: tuple[Blocks, ...], trace: _Trace) -> Iterator[tuple[Stream, ...]]:
    """What the blocks may transform, with the first module after them that could read it."""
    entry = trace.lists[blocks[0].path]
    after = [(path, shape) for path, shape, last in trace.readers if last == blocks[-1].path]
    names = set(blocks[0].returns).intersection(*(b.returns for b in blocks[1:]))
    found = []
    for name in (name for name in blocks[0].returns if name in names):
        entered = entry.arguments[name]
        fits = [(_fits(entered, seen), path) for path, seen in after] if entered else []
        for tokens in ("all", "inside"):
            if (path := next((p for fit, p in fits if fit == tokens), None)) is not None:
                found.append(Stream(path, name, tokens=tokens))
                break
    if len(found) > 1:
        yield tuple(found)
    for stream in found:
        yield (stream,)


def _fits(entered: torch.Size, seen: torch.Size) -> str | None:
    """Which of the tokens that entered a module may have seen, by the shapes; None: it cannot."""
    if seen[-1] != entered[-1]:
        return None
    if seen.numel() == entered.numel():
        return "all"
    return "inside" if len(seen) == len(entered) and seen[-2] < entered[-2] else None


def _wrong(
    model: nn.Module, spec: BackboneSpec, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str | None:
    """Why a candidate is not right; None: it is."""
    hidden = tuple(replace(stream, probe=_hidden) for stream in spec.streams)
    try:
        views = Views(model, replace(spec, streams=hidden))
        if (wrong := misplaced(views, args, kwargs)) is not None:
            return wrong  # most candidates, before a block was run
        full = Call.full(views.spec)
        output = run_view(views.full, full, args, kwargs)
        return verify(views, full, output, args, kwargs, between=True)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model makes of a wrong guess
        return str(error) or type(error).__name__


def _with_probe(
    model: nn.Module,
    spec: BackboneSpec,
    number: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Stream:
    """A stream with the first attention whose input has its tokens; without one, no modulation."""
    stream = spec.streams[number]
    leader = next(model.get_submodule(spec.blocks[0].path).children())
    for path, _ in leader.named_modules():
        if "att" not in path.rpartition(".")[2].lower() or "norm" in path.lower():
            continue
        tried = [replace(s, probe=_hidden) for s in spec.streams]
        tried[number] = replace(stream, attention=path)
        call = Call.after((slice(None),) * len(tried), {}, lambda _, hidden, probe: hidden)
        # nothing after the first block matters here, nor what a block makes of a wrong guess
        with contextlib.suppress(Exception):
            views = Views(model, replace(spec, streams=tuple(tried)))
            run_view(views.skip, call, args, kwargs)
        passage = call.passages[number]
        if passage.probe is not None:
            return tried[number]
    return replace(stream, probe=_hidden)


def _hidden(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    return hidden

"""How diffusers' pipelines and transformers are entered and left again.

A transformer is entered at its *innermost* forward: beneath the wrappers that accelerate
(offloading) and diffusers' hooks (group offloading, context parallelism) put around it. They can
then be added and removed at any time without dropping the engine. A pipeline is entered by giving
the instance a subclass of its class, of the same name, whose call opens a run. diffusers itself is
never imported: everything is read from the objects given.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import math
import os
import re
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from tap_ext.backbones import find_spec
from tap_ext.correction import Prediction
from tap_ext.engine import Engine
from tap_ext.runtime import Moment, Run, run

__all__ = [
    "PipelineClock",
    "compile_blocks_instead",
    "engines_of",
    "enter_pipeline",
    "find_engine",
    "foreign_cache",
    "install",
    "is_pipeline",
    "leave_pipeline",
    "tell_sharers",
    "transformers_of",
    "uninstall",
    "unnamed_transformers_of",
    "unwrap",
]


_logger = logging.getLogger("tap_ext")


def unwrap(module: nn.Module) -> nn.Module:
    """The module inside ``torch.compile``'s wrapper."""
    inner = getattr(module, "_orig_mod", module)
    return inner if isinstance(inner, nn.Module) else module


def is_pipeline(target: Any) -> bool:
    """Whether an object holds named components and can be called."""
    held = isinstance(getattr(target, "components", None), dict)
    return held and callable(target) and not isinstance(target, (nn.Module, type))


def transformers_of(target: Any) -> list[nn.Module]:
    """The modules of a pipeline, or the module itself, unwrapped; each once."""
    modules = {id(part): unwrap(part) for part in _modules_of(target)}
    return list(modules.values())


def _modules_of(target: Any) -> list[nn.Module]:
    parts = target.components.values() if is_pipeline(target) else (target,)
    return [part for part in parts if isinstance(part, nn.Module)]


def compile_blocks_instead(target: Any) -> None:
    """Compile the blocks of what is accelerated in a target and was compiled as a whole."""
    for part in _modules_of(target):
        inner = unwrap(part)
        engine = find_engine(inner)
        if engine is not None:
            engine.compile_instead(part)
            engine.compile_instead(inner)


def unnamed_transformers_of(target: Any) -> list[nn.Module]:
    """Modules that may be diffusion transformers by where they are, whatever their class.

    A pipeline's by the names that diffusers gives them; a module itself. Without a list of blocks
    none is.
    """
    if is_pipeline(target):
        parts = [part for name, part in target.components.items() if "transformer" in name]
    else:
        parts = [target]
    modules = [unwrap(part) for part in parts if isinstance(part, nn.Module)]
    return [m for m in modules if any(isinstance(c, nn.ModuleList) for c in m.modules())]


def foreign_cache(target: Any) -> str | None:
    """The name of another cache that is enabled on a pipeline or module; None: there is none."""
    config = _attribute(target, "_cache_config")
    if config is not None:
        return type(config).__name__
    return "cache-dit" if _attribute(target, "_is_cached") else None


def _attribute(target: Any, name: str) -> Any:
    """An attribute of an object or its class; a module that lacks one looks for it slowly."""
    own = target.__dict__
    return own[name] if name in own else getattr(type(target), name, None)


Slot = tuple[dict[str, Any], str]


def _slots(model: nn.Module) -> Iterator[Slot]:
    """Every place where a reference to the model's forward may be kept, innermost first."""
    yield model.__dict__, "_old_forward"  # accelerate's hooks
    registry = model.__dict__.get("_diffusers_hook")
    for reference in getattr(registry, "_fn_refs", ()):
        yield reference.__dict__, "original_forward"
        yield reference.__dict__, "forward"
    yield model.__dict__, "forward"


def _is_plain(model: nn.Module, forward: Any) -> bool:
    return (
        isinstance(forward, types.MethodType)
        and forward.__self__ is model
        and forward.__func__ is type(model).forward
    )


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))


def install(model: nn.Module, make: Callable[[Callable[..., Any]], Engine]) -> Engine:
    """Put an engine where the model's own forward is called.

    Args:
        model: left as it is when anything raises.
        make: builds the engine from the forward it stands for.

    Raises:
        ValueError: the instance's forward was replaced by something unknown.
    """
    for place, name in _slots(model):
        if _is_plain(model, place.get(name)):
            break
    else:
        if "forward" in model.__dict__:
            raise ValueError(
                f"{type(model).__name__}.forward must be the class's own or wrapped by accelerate "
                f"or diffusers hooks, got {_name_of(model.__dict__['forward'])} on the instance"
            )
        place, name = model.__dict__, "forward"
    tell_if_untested()
    engine = make(types.MethodType(type(model).forward, model))
    place[name] = engine
    _installed[id(model)] = engine
    return engine


TESTED = ("0.36", "0.42")
"""The oldest and the newest minor version of diffusers that tests ran with."""


@functools.cache
def tell_if_untested() -> None:
    """Warn, once, of a version that nobody has tried; the self-check decides then."""
    found = str(getattr(sys.modules.get("diffusers"), "__version__", ""))
    minor = re.match(r"(\d+)\.(\d+)", found)
    low, high = (tuple(map(int, version.split("."))) for version in TESTED)
    if minor and not low <= tuple(map(int, minor.groups())) <= high:
        _warn(
            f"diffusers {found} is in use; tap_ext is tested with {TESTED[0]} to {TESTED[1]}. "
            "Each model is checked when it first runs"
        )


_installed: weakref.WeakValueDictionary[int, Engine] = weakref.WeakValueDictionary()
"""Engines by the identity of their model, which alone keeps its engine alive."""


def find_engine(model: nn.Module) -> Engine | None:
    """The engine installed on a module; None: there is none."""
    engine = _installed.get(id(model))
    if engine is not None and engine.stands_for(model):
        return engine
    for place, name in _slots(model):  # an interrupt may come before it is noted, or after
        found = place.get(name)
        if isinstance(found, Engine) and found.stands_for(model):
            return found
    return None


def uninstall(model: nn.Module) -> None:
    """Take the engine out, wherever references to it have been carried.

    One inside a wrapper that nobody knows stays there, switched off.
    """
    engine = find_engine(model)
    if engine is None:
        return
    _installed.pop(id(model), None)
    engine.retire()
    for place, name in list(_slots(model)):
        forward = place.get(name)
        if forward is not None and forward is engine:
            if name == "forward" and place is model.__dict__:
                del place[name]  # the class's own is behind it
            else:
                place[name] = engine.original
        _unwrap_from(forward, engine)
    if _is_plain(model, model.__dict__.get("forward")):
        del model.__dict__["forward"]


def _unwrap_from(forward: Any, engine: Engine) -> None:
    """Clear what ``functools.update_wrapper`` noted of an engine in the wrappers around it."""
    while (inner := getattr(forward, "__wrapped__", None)) is not None:
        if inner is engine:
            forward.__wrapped__ = engine.original
        forward = inner


def engines_of(target: Any) -> list[Engine]:
    """The engines of a pipeline's transformers, or of a transformer."""
    found = (find_engine(model) for model in transformers_of(target))
    return [engine for engine in found if engine is not None]


_UNCOUNTED: Any = object()
"""In the place of a step's index where a scheduler counts none."""


class PipelineClock:
    """Reads a pipeline's denoising loop from its scheduler, on the host."""

    def __init__(self, pipeline: Any) -> None:
        """A clock for one call of ``pipeline``."""
        self._pipeline = pipeline
        self._loops: list[Any] = []

    def now(self) -> Moment | None:
        """The scheduler's step; each new table of timesteps is a new loop."""
        scheduler = self._scheduler
        step = getattr(scheduler, "step_index", _UNCOUNTED)
        if step is _UNCOUNTED:
            return None
        timesteps = getattr(scheduler, "timesteps", None)
        if not self._loops or self._loops[-1] is not timesteps:
            self._loops.append(timesteps)
        done = 0 if step is None else max(step - (getattr(scheduler, "begin_index", None) or 0), 0)
        return Moment(len(self._loops), step, done)

    def num_steps(self) -> int | None:
        """How many steps this loop executes, fewer than asked for where ``strength`` cuts it."""
        count = getattr(self._pipeline, "_num_timesteps", None)
        if isinstance(count, int):
            return count
        timesteps = getattr(self._scheduler, "timesteps", None)
        if timesteps is None:
            return None
        return len(timesteps) - (getattr(self._scheduler, "begin_index", None) or 0)

    def angles(self) -> tuple[float, ...] | None:
        """How noise and signal are mixed at each step, from the scheduler's table.

        Reads the device once where that lies there.
        """
        count, scheduler = self.num_steps(), self._scheduler
        if count is None or not hasattr(scheduler, "timesteps"):
            return None
        begin = getattr(scheduler, "begin_index", None) or 0
        signals = getattr(scheduler, "alphas_cumprod", None)
        levels = getattr(scheduler, "sigmas", None)
        if signals is not None and not _is_flow(scheduler):
            table = _listed(signals)
            times = [round(time) for time in _listed(scheduler.timesteps)[begin : begin + count]]
            if not all(0 <= time < len(table) for time in times):
                return None
            known = [math.acos(min(max(table[time], 0.0), 1.0) ** 0.5) for time in times] + [0.0]
        elif levels is not None:
            values = [float(level) for level in _listed(levels)[begin : begin + count + 1]]
            if not all(0 <= level < math.inf for level in values):
                return None
            mixed = _mixed(values)
            known = [math.atan2(level, 1 - level if mixed else 1.0) for level in values]
        else:
            return None
        return tuple(known) if len(known) == count + 1 else None

    def prediction(self) -> Prediction | None:
        """What the model returns, by the scheduler's configuration."""
        scheduler = self._scheduler
        if _is_flow(scheduler):
            return "flow"
        if getattr(scheduler, "alphas_cumprod", None) is not None:
            return _PREDICTIONS.get(getattr(scheduler, "config", {}).get("prediction_type"))
        levels = getattr(scheduler, "sigmas", None)
        return "flow" if levels is not None and _mixed(_listed(levels)) else None

    def refusal(self) -> str | None:
        """Schedulers that evaluate the model more than once per step have no step to skip."""
        order = getattr(self._scheduler, "order", 1)
        if order > 1:
            name = type(self._scheduler).__name__
            return f"{name} evaluates the model {order} times per step"
        return None

    @property
    def _scheduler(self) -> Any:
        return getattr(self._pipeline, "scheduler", None)


_PREDICTIONS: Mapping[Any, Prediction] = {
    "epsilon": "noise",
    "v_prediction": "velocity",
    "sample": "sample",
}


def _is_flow(scheduler: Any) -> bool:
    """Whether a scheduler that can do both follows a rectified flow."""
    config = getattr(scheduler, "config", {})
    return bool(config.get("use_flow_sigmas")) or config.get("prediction_type") == "flow_prediction"


def _mixed(levels: list[float]) -> bool:
    """Whether these are shares of the noise, as in a flow; else the signal is not scaled down."""
    return all(0 <= level <= 1 for level in levels)


def _listed(values: Any) -> list[Any]:
    """A tensor, an array or a list as a list, with one read of the device at most."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


@functools.cache
def _accelerated(cls: Any) -> Any:
    """A subclass that looks like ``cls`` and opens a run around each call."""

    @functools.wraps(cls.__call__)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        _tell_if_bypassed(self)
        compile_blocks_instead(self)
        args, kwargs = _with_fewer_steps(self, cls, args, kwargs)
        with _alone(self), run(PipelineClock(self), cls.__name__) as opened:
            output = cls.__call__(self, *args, **kwargs)
            for engine in engines_of(self):
                _tell_if_idle(self, engine, opened)
            return output

    def copy(self: Any) -> Any:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def reduce(self: Any, protocol: Any) -> Any:
        plain: Any = object.__new__(cls)
        plain.__dict__.update(self.__dict__)
        return plain.__reduce_ex__(1)  # later protocols insist on the class of ``self``

    body = {
        "__call__": call,
        "__copy__": copy,
        "__reduce_ex__": reduce,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "_tap_ext_plain": cls,
    }
    return type(cls)(cls.__name__, (cls,), body)


class _Loop:
    """A denoising loop that runs; lives as long as the frame that entered it."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


_stepping: dict[int, weakref.ref[_Loop]] = {}
"""Who is in a denoising loop of which scheduler, by its identity. An interrupt may come before an
entry is taken back; then it goes with the frame."""


def _only_this_thread() -> None:
    """In a child of a fork, no other thread is in any loop."""
    for key, entry in list(_stepping.items()):
        loop = entry()
        if loop is None or loop.thread != threading.get_ident():
            _stepping.pop(key, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_only_this_thread)


@contextlib.contextmanager
def _alone(pipeline: Any) -> Iterator[None]:
    """Refuse a second thread in the same scheduler's steps: both pictures would be a mixture."""
    scheduler = getattr(pipeline, "scheduler", None)
    if not hasattr(scheduler, "step_index"):
        yield  # it counts no steps, so it can be shared
        return
    key, mine = id(scheduler), _Loop()
    entry = weakref.ref(mine, functools.partial(_take_back, key))
    try:
        owner = _stepping.setdefault(key, entry)()
        if owner is None:
            _stepping[key] = entry
        elif owner.thread != mine.thread:
            raise RuntimeError(
                f"{type(pipeline).__name__} is in use by thread {owner.thread}, and its scheduler "
                "counts the steps of one run; give each request a copy of its own, as diffusers' "
                "RequestScopedPipeline does, or copy.copy(pipe) with another scheduler"
            )
        yield
    finally:
        _take_back(key, entry)


def _take_back(key: int, entry: weakref.ref[_Loop]) -> None:
    if _stepping.get(key) is entry:  # else it was a call from inside a call
        _stepping.pop(key, None)


def _with_fewer_steps(
    pipeline: Any, cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call under ``method="steps"``: with as many steps as the budget says."""
    configs = [engine.config for engine in engines_of(pipeline) if engine.enabled]
    config = next((config for config in configs if config.method == "steps"), None)
    if config is None:
        return args, kwargs
    signature = inspect.signature(cls.__call__)
    given = signature.bind(pipeline, *args, **kwargs)
    name = "num_inference_steps"
    own = [n for n in ("timesteps", "sigmas") if given.arguments.get(n) is not None]
    if own or name not in signature.parameters:
        _warn(f"method='steps' changes nothing: {cls.__name__} is given {', '.join(own) or 'none'}")
        return args, kwargs
    steps = given.arguments.get(name, signature.parameters[name].default)
    given.arguments[name] = config.budget(steps)
    return given.args[1:], given.kwargs


def _tell_if_idle(pipeline: Any, engine: Engine, opened: Run) -> None:
    """Warn where the plan had steps to skip and none was: the worst is to be off in silence."""
    if engine.idle(opened):
        _warn(
            f"{type(pipeline).__name__} made {len(opened.steps)} steps and skipped none; "
            "see tap_ext.explain(pipe)"
        )


def _tell_if_bypassed(pipeline: Any) -> None:
    """Warn where an accelerated transformer of this pipeline will not be reached."""
    if pipeline not in _entered:
        return
    name = type(pipeline).__name__
    for model in transformers_of(pipeline):
        stranger = model not in _entered[pipeline] and find_engine(model) is None
        if stranger and find_spec(model) is not None:
            _warn(f"the {type(model).__name__} that {name} has now is not accelerated")
    if (other := foreign_cache(pipeline)) is not None:
        _warn(f"{other} was enabled on {name} after it was accelerated")


def _warn(message: str) -> None:
    _logger.warning("%s", message)
    warnings.warn(f"tap_ext: {message}", stacklevel=5)


_entered: weakref.WeakKeyDictionary[Any, weakref.WeakSet[nn.Module]] = weakref.WeakKeyDictionary()
"""The modules that a pipeline had when it was accelerated, to notice another transformer."""


def enter_pipeline(pipeline: Any) -> None:
    """Open a run around each call of this instance."""
    _entered[pipeline] = weakref.WeakSet(transformers_of(pipeline))
    if not hasattr(type(pipeline), "_tap_ext_plain"):
        cls: Any = type(pipeline)
        pipeline.__class__ = _accelerated(cls)


def tell_sharers(pipeline: Any) -> None:
    """Warn whose configuration changes with this one's: a transformer has one, whoever calls it."""
    own = {id(model) for model in transformers_of(pipeline) if find_engine(model) is not None}
    for other, models in list(_entered.items()):
        if other is not pipeline and own & set(map(id, models)):
            _warn(
                f"{type(other).__name__} shares a transformer with the {type(pipeline).__name__} "
                "that was accelerated now, and follows its configuration from the next run on"
            )


def leave_pipeline(pipeline: Any) -> None:
    """Give the instance its own class back."""
    _entered.pop(pipeline, None)
    plain = getattr(type(pipeline), "_tap_ext_plain", None)
    if plain is not None:
        pipeline.__class__ = plain

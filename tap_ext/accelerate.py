"""The one user entry: accelerate, restore, stats, explain."""

from __future__ import annotations

import functools
import logging
from typing import Any, TypeVar

from torch import nn

from tap_ext import report
from tap_ext.backbones import BackboneSpec, find_spec
from tap_ext.config import Config
from tap_ext.engine import Engine
from tap_ext.integrations import diffusers as host
from tap_ext.locks import Lock
from tap_ext.ops import library_status

__all__ = ["accelerate", "explain", "restore", "stats"]

T = TypeVar("T")

_logger = logging.getLogger("tap_ext")

_lock = Lock()
"""Held while models are entered or left: two threads may ask at the same time."""


def accelerate(
    target: T,
    config: Config | None = None,
    *,
    spec: BackboneSpec | None = None,
    **overrides: Any,
) -> T:
    """Make a diffusion transformer predict most of its steps (TAP, arXiv 2603.03792).

    A transformer of a class without a spec is watched at its first call; where that shows how to
    enter it, it is accelerated, else it runs untouched and a warning says why.

    Args:
        target: a diffusers pipeline, or one of its transformers.
        config: how; default ``Config()``.
        spec: how transformers of the class ``spec.name`` are entered; default: the spec of their
            class in ``tap_ext.backbones.SPECS``.
        overrides: fields of ``Config`` to set, for instance ``window=8`` or ``preset="paper"``.

    Returns:
        ``target`` itself. Calling again with the same configuration changes nothing; with another
        one it takes that one from the next run on.

    Raises:
        TypeError: ``target`` is neither a pipeline nor a transformer, or a field of the
            configuration has the wrong type.
        ValueError: a field is out of range, ``target`` holds no transformer (of the class of
            ``spec``), or another cache is enabled on it. Nothing is changed then.
        AdapterError: a module is not what its family's spec says. Nothing is changed then.
    """
    chosen = _resolve(config, overrides)
    if chosen.method == "steps" and not host.is_pipeline(target):
        raise ValueError(
            f"target must be a pipeline for method 'steps', got {type(target).__name__}"
        )
    with _lock:
        return _enter(target, chosen, spec)


def _enter(target: T, chosen: Config, spec: BackboneSpec | None) -> T:
    entries = _specs(target, spec)
    for holder in (target, *(model for model, _ in entries)):
        if (other := host.foreign_cache(holder)) is not None:
            raise ValueError(
                f"{other} is enabled on {type(holder).__name__}; disable it before accelerate()"
            )
    fresh: list[nn.Module] = []
    try:
        for model, entry in entries:
            engine = host.find_engine(model)
            if engine is not None and spec is not None and engine.spec != spec:
                host.uninstall(model)
                engine = None
            if engine is None:
                make = functools.partial(Engine, model, entry, chosen, host.foreign_cache)
                fresh.append(model)
                host.install(model, make)
                _logger.info("%s is accelerated: %r", type(model).__name__, chosen)
        host.compile_blocks_instead(target)
    except BaseException:  # an interrupt, too, leaves all of a pipeline's models or none
        for model in fresh:
            host.uninstall(model)
        raise
    changed = [engine for engine in host.engines_of(target) if engine.config != chosen]
    for engine in changed:
        engine.reconfigure(chosen)
    if changed and host.is_pipeline(target):
        host.tell_sharers(target)
    if host.is_pipeline(target):
        host.enter_pipeline(target)
    return target


def restore(target: T) -> T:
    """Undo ``accelerate``: outputs are bit-identical to those of a model never accelerated.

    Args:
        target: a pipeline or a transformer; one that was never accelerated is left alone.

    Returns:
        ``target`` itself.

    Raises:
        TypeError: ``target`` is neither a pipeline nor a module.
    """
    with _lock:
        for model in _models(target):
            host.uninstall(model)
            _logger.debug("%s is restored", type(model).__name__)
        if host.is_pipeline(target):
            host.leave_pipeline(target)
    return target


def stats(target: Any) -> report.Stats:
    """What was done so far: steps, candidates chosen, bytes held, fallbacks with reasons.

    Reads the device once per branch of the last run.

    Raises:
        TypeError: ``target`` is neither a pipeline nor a module.
        ValueError: ``target`` is not accelerated.
    """
    _models(target)
    engines = host.engines_of(target)
    if not engines:
        raise ValueError(f"target must be accelerated, got a plain {type(target).__name__}")
    status = library_status()
    library = "compiled" if status.compiled else f"plain torch: {status.reason}"
    return report.Stats(tuple(engine.stats() for engine in engines), library)


def explain(target: Any) -> str:
    """The same in plain words.

    Raises:
        TypeError: ``target`` is neither a pipeline nor a module.
        ValueError: ``target`` is not accelerated.
    """
    return report.explain(stats(target))


def _resolve(config: Config | None, overrides: dict[str, Any]) -> Config:
    if config is None:
        return Config(**overrides)
    if not isinstance(config, Config):
        raise TypeError(f"config must be a Config, got {type(config).__name__} {config!r}")
    if "preset" in overrides:
        raise ValueError(f"preset must not be given beside config, got {overrides['preset']!r}")
    return config.replace(**overrides) if overrides else config


def _specs(target: Any, spec: BackboneSpec | None) -> list[tuple[nn.Module, BackboneSpec | None]]:
    """The transformers to accelerate, each with its spec where there is one."""
    if spec is not None and not isinstance(spec, BackboneSpec):
        raise TypeError(f"spec must be a BackboneSpec, got {type(spec).__name__}")
    models = _models(target)
    if spec is not None:
        found = [m for m in models if spec.name in {base.__name__ for base in type(m).__mro__}]
        if not found:
            names = ", ".join(sorted({type(model).__name__ for model in models})) or "no module"
            raise ValueError(f"target must hold a {spec.name}, got {names}")
        return [(model, spec) for model in found]
    specs = [(model, find_spec(model)) for model in models]
    unknown = {id(model) for model in host.unnamed_transformers_of(target)}
    specs = [(m, known) for m, known in specs if known is not None or id(m) in unknown]
    if not specs:
        names = ", ".join(sorted({type(model).__name__ for model in models})) or "no module"
        raise ValueError(
            f"target must hold a diffusion transformer, got {names}; "
            "pass the transformer itself if it goes by another name"
        )
    return specs


def _models(target: Any) -> list[nn.Module]:
    if not host.is_pipeline(target) and not isinstance(target, nn.Module):
        raise TypeError(
            f"target must be a diffusers pipeline or transformer, got {type(target).__name__}"
        )
    return host.transformers_of(target)

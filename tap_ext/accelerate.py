"""The one user entry: accelerate, restore, stats, explain."""

from __future__ import annotations

import functools
from typing import Any, TypeVar

from torch import nn

from tap_ext import report
from tap_ext.backbones import SPECS, find_spec
from tap_ext.config import Config
from tap_ext.engine import Engine
from tap_ext.integrations import diffusers as host
from tap_ext.ops import library_status

__all__ = ["accelerate", "explain", "restore", "stats"]

T = TypeVar("T")


def accelerate(target: T, config: Config | None = None, **overrides: Any) -> T:
    """Make a diffusion transformer predict most of its steps (TAP, arXiv 2603.03792).

    Args:
        target: a diffusers pipeline, or one of its transformers.
        config: how; default ``Config()``.
        overrides: fields of ``Config`` to set, for instance ``window=8`` or ``preset="paper"``.

    Returns:
        ``target`` itself. Calling again with the same configuration changes nothing; with another
        one it takes that one from the next run on.

    Raises:
        TypeError: ``target`` is neither a pipeline nor a transformer, or a field of the
            configuration has the wrong type.
        ValueError: a field is out of range, no module of ``target`` belongs to a known family, or
            another cache is enabled on it. Nothing is changed then.
        AdapterError: a module is not what its family's spec says. Nothing is changed then.
    """
    chosen = _resolve(config, overrides)
    models = _models(target)
    known = [(model, spec) for model in models if (spec := find_spec(model)) is not None]
    if not known:
        found = ", ".join(sorted({type(model).__name__ for model in models})) or "no module"
        raise ValueError(
            f"target must hold a transformer of a known family ({', '.join(SPECS)}), got {found}"
        )
    for holder in (target, *(model for model, _ in known)):
        if (other := host.foreign_cache(holder)) is not None:
            raise ValueError(
                f"{other} is enabled on {type(holder).__name__}; disable it before accelerate()"
            )
    fresh: list[nn.Module] = []
    try:
        for model, spec in known:
            if host.find_engine(model) is None:
                host.install(
                    model, functools.partial(Engine, model, spec, chosen, host.foreign_cache)
                )
                fresh.append(model)
    except Exception:
        for model in fresh:
            host.uninstall(model)
        raise
    for engine in host.engines_of(target):
        engine.reconfigure(chosen)
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
    for model in _models(target):
        host.uninstall(model)
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


def _models(target: Any) -> list[nn.Module]:
    if not host.is_pipeline(target) and not isinstance(target, nn.Module):
        raise TypeError(
            f"target must be a diffusers pipeline or transformer, got {type(target).__name__}"
        )
    return host.transformers_of(target)

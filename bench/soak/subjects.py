"""What is run: pipelines and bare transformers, each with a way to run it once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import tap_ext
from tests import models as bare
from tests import zoo
from tests.models.base import build, inputs, sample
from tests.pipelines import builders as flux
from tests.zoo.base import Case

CONFIG: dict[str, Any] = {"window": 3, "warmup": 2}
"""Of every subject but where a figure says otherwise: about half of the steps are skipped."""

STEPS = 8

Callback = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """Something to accelerate and to run.

    Attributes:
        name: for tables.
        make: builds it, the same weights every time, on the CPU.
        run: ``(target, device, seed, callback) -> what it makes``, on the CPU.
        calls_back: whether ``run`` hands the callback on, and its pipeline can be interrupted.
    """

    name: str
    make: Callable[[], Any]
    run: Callable[[Any, str, int, Callback | None], list[Tensor]]
    calls_back: bool = False

    def __str__(self) -> str:
        return self.name


def to_device(value: Any, device: str) -> Any:
    """Every tensor in nested lists, tuples and dicts, elsewhere."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_device(item, device) for item in value)
    return value


def models_of(subject: Subject, target: Any) -> list[nn.Module]:
    """The transformers of an accelerated target."""
    if isinstance(target, nn.Module):
        return [target]
    names = zoo.CASES[subject.name].models if subject.name in zoo.CASES else ("transformer",)
    return [getattr(target, name) for name in names]


def _pipeline(case: Case) -> Subject:
    def run(pipe: Any, device: str, seed: int, callback: Callback | None) -> list[Tensor]:
        given = to_device(case.arguments(), device)
        if callback is not None:
            given["callback_on_step_end"] = callback
        generator = torch.Generator().manual_seed(seed)
        made = getattr(pipe(**given, generator=generator), case.output)
        return [torch.as_tensor(one).cpu() for one in (made if isinstance(made, list) else [made])]

    return Subject(case.name, case.make, run, calls_back=True)


def _flux(case: flux.Case) -> Subject:
    def run(pipe: Any, device: str, seed: int, callback: Callback | None) -> list[Tensor]:
        given = to_device(flux.arguments(case), device)
        generator = torch.Generator().manual_seed(seed)
        return [pipe(**given, generator=generator, callback_on_step_end=callback).images.cpu()]

    return Subject(str(case), lambda: flux.build(case), run, calls_back=True)


def _bundled() -> Subject:
    from tap_ext.demo import bundled

    def run(pipe: Any, device: str, seed: int, callback: Callback | None) -> list[Tensor]:
        label = bundled.CLASSES[seed % len(bundled.CLASSES)]
        return [bundled.generate(pipe, [label], STEPS, seed, callback).cpu()]

    return Subject("bundled model", bundled.load_pipeline, run, calls_back=True)


def _bare(name: str, *, scoped: bool) -> Subject:
    """A transformer in a sampling loop of its own, inside ``tap_ext.run()`` or not."""
    tiny = bare.MODELS[name]

    def run(model: Any, device: str, seed: int, callback: Callback | None) -> list[Tensor]:
        given = to_device(inputs(tiny, seed=seed + 1), device)
        if not scoped:
            return [made.cpu() for made in sample(tiny, model, given, STEPS)]
        with tap_ext.run():
            return [made.cpu() for made in sample(tiny, model, given, STEPS)]

    return Subject(f"{name}, {'in a run()' if scoped else 'no run()'}", lambda: build(tiny), run)


def subjects() -> tuple[Subject, ...]:
    """Pipelines of several families, with one and two branches and two transformers; bare ones."""
    names = ("StableDiffusion3Pipeline", "QwenImagePipeline", "WanPipeline", "LTX2Pipeline")
    return (
        _flux(flux.FLUX),
        _flux(flux.GUIDED["FluxPipeline"]),
        _bundled(),
        *(_pipeline(zoo.CASES[name]) for name in names if name in zoo.CASES),
        _bare("FluxTransformer2DModel", scoped=True),
        _bare("DiTTransformer2DModel", scoped=False),
        _bare("SD3Transformer2DModel", scoped=False),
    )

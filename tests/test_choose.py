"""The configuration that is nearest, by trying; and what is left behind."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tap_ext
from tap_ext.choose import _best, _numbers, choose
from tap_ext.demo import bundled, digits
from tests.pipelines.builders import arguments, build, generate

pytestmark = pytest.mark.filterwarnings("ignore:tap_ext")

ALL = tap_ext.Config(full_steps=8)
"""As many full steps as there are: no error."""
HALF = tap_ext.Config(window=3, warmup=3)
PLAIN = tap_ext.Config(full_steps=3, method="steps")


def _make(pipe: Any, seed: int) -> Any:
    return pipe(**arguments(), generator=torch.Generator().manual_seed(seed))


def test_the_nearest_is_chosen_and_nothing_is_left() -> None:
    pipe = build()
    before = generate(pipe)
    tried = {"plain": PLAIN, "half": HALF, "all": ALL}
    found = choose(pipe, lambda seed: _make(pipe, seed), tried)
    assert (found.name, found.config) == ("all", ALL)
    assert found.fidelity["all"] == (200.0,) * 4
    assert list(found.fidelity) == list(tried)
    with pytest.raises(ValueError, match="must be accelerated"):
        tap_ext.stats(pipe)
    assert torch.equal(generate(pipe), before)


def test_fidelity_is_the_spread_over_the_error() -> None:
    pipe, truth, seeds = build(), build(), (3, 5)
    found = choose(pipe, lambda seed: _make(pipe, seed), {"half": HALF}, seeds=seeds)
    near = tap_ext.accelerate(build(), HALF)
    for seed, fidelity in zip(seeds, found.fidelity["half"], strict=True):
        expected, made = (_make(one, seed).images.double() for one in (truth, near))
        error = (expected - made).square().mean()
        spread = (expected - expected.mean()).square().mean()
        assert fidelity == pytest.approx(10 * math.log10(spread / error))
        assert 10 < fidelity < 100


@pytest.mark.parametrize("model", [bundled, digits], ids=["bundled", "digits"])
@pytest.mark.parametrize("wins", [True, False], ids=["default", "taylorseer"])
def test_few_plain_steps_win_where_they_are_better_and_only_there(model: Any, wins: bool) -> None:
    """4 of 8 steps: worse than the default, better than TaylorSeer (docs/quality.md)."""
    forecast = tap_ext.Config(full_steps=4, method="tap" if wins else "taylorseer")
    tried = {"plain": tap_ext.Config(full_steps=4, method="steps"), "forecast": forecast}
    if not wins:
        tried = dict(reversed(tried.items()))
    pipe, labels = model.load_pipeline(), model.CLASSES

    def one(seed: int) -> Any:
        return model.generate(pipe, [labels[seed % len(labels)]], 8, seed)

    found = choose(pipe, one, tried, seeds=range(4))
    assert found.name == ("forecast" if wins else "plain")
    assert found.config is tried[found.name]


def test_another_must_be_clearly_better_than_the_first() -> None:
    first = (30.0, 32.0, 31.0, 33.0)
    assert _best({"a": first}) == "a"
    assert _best({"a": first, "b": first}) == "a"
    level = (31.0, 31.0, 33.0, 32.0)  # +1, -1, +2, -1: 0.25 with an error of 0.75
    assert _best({"a": first, "b": level}) == "a"
    ahead = (31.0, 33.0, 32.5, 34.0)  # +1, +1, +1.5, +1
    assert _best({"a": first, "b": ahead}) == "b"
    further = (33.0, 35.0, 34.0, 36.0)
    assert _best({"a": first, "b": ahead, "c": further, "d": level}) == "c"
    assert _best({"c": further, "b": ahead, "a": first}) == "c"


def test_it_says_what_it_found() -> None:
    found = tap_ext.Chosen("b", ALL, {"a": (30.0, 32.0), "b": (31.0, 35.0), "c": (29.0, 30.0)})
    assert found.lead("b") == (2.0, 1.0) and found.lead("a") == (0.0, 0.0)
    assert str(found).splitlines() == [
        "a: 31.00 dB",
        "b: 33.00 dB, +2.00 ± 1.00 dB to the first  <- chosen",
        "c: 29.50 dB, -1.50 ± 0.50 dB to the first",
    ]


def test_whatever_is_made_is_compared() -> None:
    picture = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    for made in (
        torch.from_numpy(picture),
        torch.from_numpy(picture).bfloat16(),
        picture,
        Image.fromarray(picture),
        [picture[0], Image.fromarray(picture[1:])],
        {"images": (torch.from_numpy(picture[0]), [picture[1]]), "nsfw": None},
    ):
        assert _numbers(made).tolist() == list(range(12))


def test_a_run_that_fails_leaves_nothing() -> None:
    pipe = build()
    calls = []

    def fails(seed: int) -> Any:
        calls.append(seed)
        if len(calls) == 6:
            raise RuntimeError("out of luck")
        return _make(pipe, seed)

    with pytest.raises(RuntimeError, match="out of luck"):
        choose(pipe, fails, {"half": HALF})
    with pytest.raises(ValueError, match="must be accelerated"):
        tap_ext.stats(pipe)


BAD: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "a transformer": (TypeError, "target must be a diffusers pipeline", {"target": "transformer"}),
    "accelerated": (ValueError, "must not be accelerated", {"target": "accelerated"}),
    "no function": (TypeError, "generate must be a function, got int", {"generate": 3}),
    "no candidate": (ValueError, "candidates must hold at least one", {"candidates": {}}),
    "no config": (TypeError, r"candidates\['a'\] must be a Config", {"candidates": {"a": 8}}),
    "one seed": (ValueError, r"at least two different ones, got \[3\]", {"seeds": [3, 3]}),
    "nothing": (TypeError, "must make tensors, .* got NoneType", {"generate": lambda _: None}),
    "text": (TypeError, "must make tensors, .* got SimpleNamespace",
             {"generate": lambda _: SimpleNamespace()}),
    "not finite": (ValueError, r"generate\(0\) must make finite",
                   {"generate": lambda _: torch.tensor([math.nan])}),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "match", "given"), BAD.values(), ids=BAD)
def test_bad_arguments(kind: type[Exception], match: str, given: dict[str, Any]) -> None:
    pipe = build()
    if given.get("target") == "accelerated":
        tap_ext.accelerate(pipe)
    target = pipe.transformer if given.get("target") == "transformer" else pipe
    more = {key: value for key, value in given.items() if key != "target"}
    generate = more.pop("generate", lambda seed: torch.ones(2))
    candidates = more.pop("candidates", {"half": HALF})
    with pytest.raises(kind, match=match):
        choose(target, generate, candidates, **more)


def test_what_differs_in_size_is_refused() -> None:
    pipe, sizes = build(), iter([2, 2, 3, 3])
    with pytest.raises(ValueError, match=r"as much each time, got 2 and 3 values"):
        choose(pipe, lambda seed: torch.rand(next(sizes)), {"half": HALF}, seeds=[0, 1])

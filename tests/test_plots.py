"""``tap_ext.plot``: what is drawn is what was chosen."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("matplotlib")

import tap_ext
from tap_ext import Config, State, Step
from tap_ext.plots import maps
from tap_ext.plots.orders import orders
from tap_ext.plots.style import order_colours
from tap_ext.predictors import Rows, to_raw
from tests import tiny

FLUX = tiny.MODELS[0]
STEPS = 10


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Sixteen tokens in a square, two pictures; full are 0, 1, 2, 6."""
    found = tap_ext.accelerate(tiny.build(FLUX), window=4, trace=True)
    tiny.sample(found, tiny.inputs(FLUX, batch=2), STEPS)
    return found


def images(figure: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The pictures of a figure by their titles."""
    return {
        axes.get_title() or axes.get_title(loc="left"): np.asarray(axes.images[0].get_array())
        for axes in figure.axes
        if axes.images
    }


def axes_of(figure: Any, title: str) -> Any:
    (found,) = [axes for axes in figure.axes if axes.get_title(loc="left") == title]
    return found


def truth(model: nn.Module) -> dict[int, tap_ext.report.Choice]:
    return {choice.step: choice for choice in tap_ext.stats(model).trace}


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_choice_comes_with_its_distance(metric: Any) -> None:
    """Against candidates that are built, in double precision."""
    state = State(config=Config(window=4, metric=metric))
    generator = torch.Generator().manual_seed(0)
    start, drift, bend = (torch.randn(2, 9, 16, generator=generator) for _ in range(3))
    found: list[tuple[Rows, Tensor, Tensor]] = []
    state.on_predict = lambda _, index, rows, far: found.append((rows, index.clone(), far.clone()))
    past: list[tuple[int, Tensor]] = []
    for step in range(7):
        probe = start + 0.1 * step * drift + (0.1 * step) ** 3 * bend
        if state.begin() is Step.FULL:
            state.record(probe, probe, probe)
            past.insert(0, (step, probe.double()))
            continue
        state.predict(probe, probe)
        rows, index, distance = found[-1]
        positions = np.array([at for at, _ in past[:3]], float)
        raw = [to_raw(row[: len(positions)], positions) for row in rows.difference]
        candidates = torch.stack(
            [sum(float(w) * old for w, (_, old) in zip(one, past, strict=False)) for one in raw]  # type: ignore[misc]
        )
        far = (
            1 - torch.cosine_similarity(candidates, probe.double()[None], dim=-1)
            if metric == "cosine"
            else (candidates - probe.double()).square().sum(-1)
        )
        chosen = far.gather(0, index.long()[None])[0]
        torch.testing.assert_close(distance.double(), chosen, rtol=1e-4, atol=1e-9)
        torch.testing.assert_close(chosen, far.amin(0), rtol=1e-4, atol=1e-9)
    assert len(found) == 3


def test_the_map_shows_each_token_s_order_where_it_lies(model: nn.Module) -> None:
    shown = images(tap_ext.plot(model, row=0))
    for step, choice in truth(model).items():
        if f"step {step}" not in shown:
            continue
        wanted = orders(choice)[0].reshape(4, 4)
        colours = order_colours(choice.rows.difference.shape[1])
        assert np.allclose(shown[f"step {step}"], colours[wanted.numpy()])
    assert sum(name.startswith("step ") for name in shown) == 4


def test_the_shape_of_the_grid_may_be_given(model: nn.Module) -> None:
    shown = images(tap_ext.plot(model, height=512, width=2048))
    assert shown["most often"].shape == (2, 8, 3)
    shown = images(tap_ext.plot(model, height=64, width=64, frames=4))
    assert shown["most often"].shape == (2, 2, 3)
    with pytest.raises(ValueError, match="height and width must be those of 16 tokens"):
        tap_ext.plot(model, height=700, width=100)


def test_a_picture_lies_beneath(model: nn.Module) -> None:
    picture = np.zeros((8, 8, 3))
    picture[:4] = 1
    shown = images(tap_ext.plot(model, picture=picture))
    assert np.array_equal(shown["the picture"], picture)
    laid = shown["most often"]
    assert laid.shape == (8, 8, 3)
    bare = images(tap_ext.plot(model))["most often"]
    assert np.allclose(laid[::2, ::2], 0.6 * bare + 0.4 * picture[::2, ::2])


def test_the_histograms_are_those_of_the_trace(model: nn.Module) -> None:
    figure = tap_ext.plot(model)
    heat = images(figure)["candidate: share of the tokens"]
    family = [str(predictor) for predictor in tap_ext.Config(window=4).family()]
    axes = axes_of(figure, "candidate: share of the tokens")
    assert [label.get_text() for label in axes.get_yticklabels()] == family
    bars = axes_of(figure, "order: share of the tokens")
    for step, choice in truth(model).items():
        for name in family:
            rows = [row for row, known in enumerate(choice.rows.names) if known == name]
            share = sum(float((choice.index == row).float().mean()) for row in rows)
            assert heat[family.index(name), step] == pytest.approx(share, abs=1e-6)
        heights = [
            patch.get_height()
            for patch in bars.patches
            if abs(patch.get_x() + patch.get_width() / 2 - step) < 0.1
        ]
        taken = orders(choice)
        wanted = [float((taken == order).float().mean()) for order in range(3)]
        assert heights == pytest.approx(wanted)
    assert np.isnan(np.ma.filled(heat[:, [0, 1, 2, 6]].astype(float), np.nan)).all()


def test_the_distances_are_those_of_the_trace(model: nn.Module) -> None:
    figure = tap_ext.plot(model)
    axes = axes_of(figure, "distance of the chosen candidate's probe to the true one")
    (line,) = [line for line in axes.lines if line.get_label() == "median"]
    shown = dict(zip(*line.get_data(), strict=True))
    for step, choice in truth(model).items():
        assert shown[step] == pytest.approx(float(np.median(choice.distance.numpy())), rel=1e-5)
    assert all(np.isnan(shown[step]) for step in (0, 1, 2, 6))
    assert axes.get_yscale() == "log"


def test_both_branches_can_be_drawn() -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), window=4, trace=True)
    given = [tiny.inputs(FLUX, seed=seed) for seed in (1, 2)]
    with tap_ext.run(), torch.no_grad():
        for step in range(6):
            for one in given:
                model(**one, timestep=torch.full((1,), 1 - step / 6), return_dict=False)
    titles = {tap_ext.plot(model, branch=name).get_suptitle() for name in ("0", "1")}
    assert len(titles) == 2
    with pytest.raises(ValueError, match="branch must be one of 0, 1, got '2'"):
        tap_ext.plot(model, branch="2")


def test_tokens_in_no_grid_are_left_out() -> None:
    assert maps.cells_of(15, None, None) is None
    assert maps.cells_of(15, 30, 50) == (3, 5)
    assert maps.cells_of(6, None, None) is None
    assert maps.cells_of(4096, 1024, 1024) == (64, 64)


@pytest.mark.parametrize(
    "picture",
    [
        np.full((2, 3, 3), 51, np.uint8),
        np.full((2, 3), 0.2),
        torch.full((3, 2, 3), 0.2),
        torch.full((1, 2, 3), 0.2),
        np.full((2, 3, 4), 51, np.uint8),
    ],
)
def test_pictures_of_every_kind(picture: Any) -> None:
    shown = maps.as_array(picture)
    assert shown.shape == (2, 3, 3)
    assert np.allclose(shown, 0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": 1}, "model must be 0 to 0, got 1"),
        ({"row": 2}, "row must be -2 to 1, got 2"),
        ({"frames": 3}, "frames must divide the 16 tokens, got 3"),
        ({"height": 4}, "height and width must be given together"),
        ({"picture": np.zeros((2, 2, 7))}, "picture must be one of"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: nn.Module, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tap_ext.plot(model, **arguments)


def test_without_a_trace_it_says_what_to_do() -> None:
    model = tiny.build(FLUX)
    with pytest.raises(ValueError, match="must be accelerated"):
        tap_ext.plot(model)
    tap_ext.accelerate(model)
    with pytest.raises(ValueError, match=r"accelerate\(trace=True\): got trace=False"):
        tap_ext.plot(model)
    tap_ext.accelerate(model, trace=True)
    with pytest.raises(ValueError, match="run the pipeline first"):
        tap_ext.plot(model)


def test_without_matplotlib_it_says_what_to_do(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tap_ext.plots.drawing", "tap_ext.plots.maps", "tap_ext.plots.style"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("tap_ext.plots.drawing", raising=False)
    monkeypatch.delattr("tap_ext.plots.maps", raising=False)
    monkeypatch.delattr("tap_ext.plots.style", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="plot needs matplotlib, which pip install"):
        tap_ext.plot(model)

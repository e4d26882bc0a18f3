"""The blend: the share of the curve against brute force, and what an engine makes of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from numpy.typing import NDArray
from torch import Tensor

import tap_ext
from tap_ext.blend import Blend
from tap_ext.buffers import NOTHING
from tap_ext.demo import digits
from tap_ext.evaluate.line import Line
from tap_ext.evaluate.methods import METHODS
from tap_ext.plan import Listed
from tap_ext.samples import put, taken
from tests.pipelines.builders import make_transformer

Array = NDArray[np.float64]

SHAPE = (2, 5, 3)


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


def _polynomial(degree: int, seed: int = 0) -> Any:
    terms = [_noise(seed + power) / 3**power for power in range(degree + 1)]
    return lambda t: sum((term * t**power for power, term in enumerate(terms)), torch.zeros(SHAPE))


def _learned(truth: Any, past: tuple[float, ...], *, noise: float = 1.0) -> Blend:
    """A blend that saw the truth, and at the last step a forecast that was wrong by noise."""
    blend = Blend()
    for position in past[:-1]:
        blend.learn(truth(position), position)
    blend.learn(truth(past[-1]), past[-1], truth(past[-1]) + noise * _noise(99))
    return blend


def _mixed(blend: Blend, forecast: Any, position: float) -> Any:
    return blend.mix(forecast, blend.aim(position))


@pytest.mark.parametrize("past", [(0, 1, 2, 5), (0, 3, 4.5, 9), (9, 7, 6, 2)])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_a_curve_that_is_right_has_the_whole_share(degree: int, past: Any) -> None:
    truth = _polynomial(degree)
    blend = _learned(truth, past)
    for position in (6.0, 7.5, 11.0):
        mixed = _mixed(blend, _noise(7), position)
        torch.testing.assert_close(mixed, truth(position), rtol=1e-4, atol=1e-3)


def test_a_forecast_that_is_right_has_the_whole_share() -> None:
    blend = _learned(lambda t: _noise(int(t)), (0, 1, 2, 5), noise=0.0)
    forecast = _noise(7)
    assert torch.equal(_mixed(blend, forecast, 6.0), forecast)


def _lagrange(points: list[tuple[float, Array]], position: float) -> Array:
    total = np.zeros_like(points[0][1])
    for i, (here, value) in enumerate(points):
        others = [there for j, (there, _) in enumerate(points) if j != i]
        total += value * math.prod((position - t) / (here - t) for t in others)
    return total


def _reference(
    outputs: dict[int, Array], forecasts: dict[int, Array], guess: Array, step: int
) -> Array:
    """One row's mixture, from all full steps and what was forecast of some, by a fine grid."""
    full = sorted(outputs)
    share, order = 0.0, 1
    for known, now in enumerate(full):
        if now not in forecasts or not known:
            continue
        points = [(float(t), outputs[t]) for t in full[:known]]
        tried = []
        for degree in (1, 2)[: max(known - 1, 1)]:
            curve = _lagrange(points[-degree - 1 :], now)
            for part in np.linspace(0, 1, 2001):
                made = forecasts[now] + part * (curve - forecasts[now])
                tried.append((float(((outputs[now] - made) ** 2).sum()), part, degree))
        _, share, order = min(tried)
    points = [(float(t), outputs[t]) for t in full]
    return guess + share * (_lagrange(points[-order - 1 :], step) - guess)


@pytest.mark.parametrize("seed", range(4))
def test_the_share_is_the_one_that_leaves_least(seed: int) -> None:
    """Row by row, against a grid, with forecasts and curves that are both wrong."""
    truth = _polynomial(3, seed)
    blend, full = Blend(), (0, 1, 3, 6, 8)
    forecasts = {t: truth(t) + (1 + t) * _noise(50 + t + seed) for t in (3, 6, 8)}
    for t in full:
        blend.learn(truth(t), float(t), forecasts.get(t))
        guess = _noise(80 + seed)
        made = _mixed(blend, guess, t + 1.5).double().numpy()
        seen = [known for known in full if known <= t]
        for row in range(SHAPE[0]):
            expected = _reference(
                {k: truth(k)[row].double().numpy() for k in seen},
                {k: forecasts[k][row].double().numpy() for k in seen if k in forecasts},
                guess[row].double().numpy(),
                t + 1.5,  # type: ignore[arg-type]
            )
            spread = np.abs(expected).max()
            assert np.abs(made[row] - expected).max() <= 2e-3 * spread


def test_rows_do_not_meet() -> None:
    truth = _polynomial(3)
    together = _learned(truth, (0, 1, 3, 6))
    alone = _learned(lambda t: truth(t)[:1], (0, 1, 3), noise=0.0)
    alone.learn(truth(6.0)[:1], 6.0, (truth(6.0) + _noise(99))[:1])
    first = _learned(truth, (0, 1, 3), noise=0.0)
    first.learn(truth(6.0), 6.0, truth(6.0) + _noise(99))
    guess = _noise(3)
    made = _mixed(first, guess, 7.0)
    torch.testing.assert_close(_mixed(alone, guess[:1], 7.0), made[:1])
    assert _mixed(together, guess, 7.0).shape == SHAPE


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2), (3, 5, 2, 2)])
def test_every_row_has_its_own_share(shape: tuple[int, ...]) -> None:
    """The first row's forecast is right, the last one's curve is."""
    first, other, wrong = (_noise(seed, *shape) for seed in range(3))
    blend = Blend()
    for position in (0.0, 1.0):
        blend.learn(first + position * other, position)
    truth = first + 4 * other
    truth[0] = wrong[0]
    blend.learn(truth, 4.0, wrong)
    guess = _noise(5, *shape)
    mixed = _mixed(blend, guess, 6.0)
    torch.testing.assert_close(mixed[0], guess[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(mixed[-1], (first + 6 * other)[-1], rtol=1e-4, atol=1e-4)


def test_nothing_is_mixed_before_something_is_known() -> None:
    blend, guess = Blend(), _noise(1)
    assert _mixed(blend, guess, 0.0) is guess and blend.nbytes == 0
    assert blend.aim(0.0) == NOTHING
    blend.learn(_noise(2), 0.0, _noise(3))  # there is no curve to compare with
    assert not blend.aim(1.0)[0] and torch.equal(_mixed(blend, guess, 1.0), guess)
    blend.learn(_noise(4), 1.0)
    assert not blend.aim(2.0)[0] and torch.equal(_mixed(blend, guess, 2.0), guess)
    blend.learn(_noise(5), 2.0, _noise(6))
    assert blend.aim(3.0)[0] and not torch.equal(_mixed(blend, guess, 3.0), guess)
    assert torch.equal(blend.mix(guess, NOTHING), guess)
    for nowhere in (math.inf, math.nan):
        assert blend.aim(nowhere) == NOTHING


def test_the_numbers_of_a_step_may_lie_on_the_device() -> None:
    blend, guess = _learned(_polynomial(2), (0, 1, 2, 5)), _noise(1)
    aim = blend.aim(6.0)
    sent = torch.tensor(aim)
    assert torch.equal(blend.mix(guess, sent), blend.mix(guess, aim))
    assert torch.equal(blend.line(guess, sent), blend.line(guess, aim))


def test_what_it_holds_and_where_stays() -> None:
    """A step recorded with one run's buffers is replayed in the next run."""
    truth, guess, blend = _polynomial(2), _noise(1), Blend()
    made = []
    for _ in range(2):
        for position in (0.0, 1.0, 2.0):
            blend.learn(truth(position), position)
        blend.learn(truth(5.0), 5.0, guess)
        made.append(_mixed(blend, guess, 6.0))
        assert blend.moves == 1
        assert blend.nbytes == 4 * (3 * math.prod(SHAPE) + 2 * SHAPE[0])
        blend.clear()
        assert torch.equal(_mixed(blend, guess, 6.0), guess)
    assert torch.equal(*made)
    blend.learn(_noise(1, 2, 6, 3), 0.0)
    assert blend.moves == 2


def test_a_cleared_blend_is_a_new_one() -> None:
    """From the first full step on that could take what an earlier run left for its own."""
    used, new, guess = _learned(_polynomial(3), (0, 1, 2, 5)), Blend(), _noise(1)
    used.clear()
    truth = _polynomial(2, seed=5)
    for position in (0.0, 3.0, 4.0, 6.0):
        for blend in (used, new):
            blend.learn(truth(position), position, truth(position) + _noise(int(position)))
        made = [_mixed(blend, guess, position + 1) for blend in (used, new)]
        assert torch.equal(*made)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_row_that_overflows_spoils_no_other_step(value: float) -> None:
    """And no other row: of what is no number, the curve has no share."""
    truth, guess, blend = _polynomial(1), _noise(1), Blend()
    for position in (0.0, 1.0, 4.0, 6.0):
        output = truth(position)
        if position == 4.0:
            output[0, 2, 1] = value
        blend.learn(output, position, guess if position >= 4.0 else None)
    made = _mixed(blend, guess, 7.0)
    assert made.isfinite().all()
    torch.testing.assert_close(made[1], truth(7.0)[1], rtol=1e-4, atol=1e-4)


OTHERS = {
    "another shape": (_noise(9, 2, 6, 3), 6.0),
    "the same position": (_noise(9), 2.0),
    "no position": (_noise(9), math.inf),
    "nothing": ((), 6.0),
}


@pytest.mark.parametrize(("output", "position"), OTHERS.values(), ids=OTHERS)
def test_a_step_that_fits_nothing_begins_anew(output: Any, position: float) -> None:
    blend = _learned(_polynomial(2), (0, 1, 2, 5))
    blend.learn(output, position, output)
    guess = _noise(1)
    assert torch.equal(_mixed(blend, guess, 8.0), guess)
    other = _learned(_polynomial(2), (0, 1, 2, 5))
    assert _mixed(other, guess[:, :4], 8.0).shape == (2, 4, 3)
    assert torch.equal(_mixed(other, guess, math.nan), guess)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_it_is_computed_in_single_precision(dtype: torch.dtype) -> None:
    truth = _polynomial(1)
    blend = Blend()
    for position in (0.0, 1.0, 2.0):
        blend.learn(truth(position).to(dtype), position)
    blend.learn(truth(5.0).to(dtype), 5.0, _noise(4).to(dtype))
    mixed = _mixed(blend, _noise(5).to(dtype), 6.0)
    assert mixed.dtype == dtype
    # the line through two rounded values, twice as far apart at most
    torch.testing.assert_close(
        mixed.float(), truth(6.0), rtol=0, atol=float(12 * torch.finfo(dtype).eps)
    )


def test_what_stands_still_makes_no_nan() -> None:
    blend = Blend()
    for position in (0.0, 1.0, 2.0):
        blend.learn(torch.ones(SHAPE), position, torch.ones(SHAPE))
    assert torch.equal(_mixed(blend, torch.ones(SHAPE), 3.0), torch.ones(SHAPE))
    assert torch.equal(_mixed(blend, _noise(1), 3.0), _noise(1))


def test_an_output_may_be_edited_after_it_was_returned() -> None:
    truth, blend, same = _polynomial(1), Blend(), _learned(_polynomial(1), (0, 1, 4))
    for position, forecast in ((0.0, None), (1.0, None), (4.0, truth(4.0) + _noise(99))):
        output = truth(position)
        blend.learn(output, position, forecast)
        output.zero_()
    assert torch.equal(_mixed(blend, _noise(2), 5.0), _mixed(same, _noise(2), 5.0))


def test_only_samples_are_mixed() -> None:
    """In whatever a model returns them; a cache that comes with them is neither read nor kept."""
    truth, plain = _polynomial(1), _learned(_polynomial(1), (0, 1, 4))
    guess, wrong = _noise(2), truth(4.0) + _noise(99)
    expected = _mixed(plain, guess, 5.0)
    cache = object()
    for wrap in (
        lambda t: (t, cache),
        lambda t: ([t, None], cache),
        lambda t: [t],
        Transformer2DModelOutput,
    ):
        blend = Blend()
        for position, forecast in ((0.0, None), (1.0, None), (4.0, wrap(wrong))):
            blend.learn(wrap(truth(position)), position, forecast)
        made = _mixed(blend, wrap(guess), 5.0)
        assert type(made) is type(wrap(guess))
        found = made[0] if not isinstance(made, Transformer2DModelOutput) else made.sample
        found = found[0] if isinstance(found, list) else found
        assert torch.equal(found, expected)
        if isinstance(made, tuple):
            assert made[1] is cache
    one = Blend()
    for position, forecast in ((0.0, None), (1.0, None), (4.0, (wrong, wrong))):
        one.learn((truth(position), truth(position)), position, forecast)
    assert _mixed(one, (guess, guess), 5.0)[1] is guess
    held = {"a": guess}  # no output of a model
    assert taken(held, 1) == [] and put(held, 1, []) is held
    two = Blend(2)
    for position, forecast in ((0.0, None), (1.0, None), (4.0, (wrong, truth(4.0), cache))):
        two.learn((truth(position), truth(position), cache), position, forecast)
    first, second, third = _mixed(two, (guess, guess, cache), 5.0)
    assert torch.equal(first, expected) and torch.equal(second, guess) and third is cache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_line_alone(dtype: torch.dtype) -> None:
    """What a control puts in the place of every forecast."""
    blend, guess = Blend(), _noise(1).to(dtype)

    def line(position: float) -> Tensor:
        made: Tensor = blend.line(guess, blend.aim(position))
        return made

    assert line(0.0) is guess and blend.line((), NOTHING) == ()
    first, second = _noise(2).to(dtype), _noise(3).to(dtype)
    blend.learn(first, 1.0)
    held = line(2.0)
    assert torch.equal(held, first)
    held.zero_()
    assert torch.equal(line(2.0), first)
    blend.learn(second, 3.0)
    made = line(6.0)
    assert made.dtype == dtype
    expected = first.double() + (second.double() - first.double()) * (6 - 1) / (3 - 1)
    torch.testing.assert_close(made, expected.to(dtype))
    assert blend.line(guess[:1], NOTHING).shape == (1, 5, 3)


@pytest.mark.parametrize("shape", [(5,), ()])
def test_a_sample_without_rows_has_one_share(shape: tuple[int, ...]) -> None:
    truth, wrong, guess = (
        torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in range(3)
    )
    blend = Blend()
    for position in (0.0, 1.0):
        blend.learn(truth * position, position)
    blend.learn(truth * 4, 4.0, wrong)
    torch.testing.assert_close(_mixed(blend, guess, 5.0), truth * 5, rtol=1e-4, atol=1e-4)


# -- in a model ----------------------------------------------------------------------------------


FULL = (0, 1, 3, 6, 9)
STEPS = 12


@torch.no_grad()
def _outputs(model: Any) -> list[Array]:
    """What it returns for inputs that are the same whatever it returned before."""
    given = {
        "encoder_hidden_states": _noise(1, 2, 5, 32),
        "pooled_projections": _noise(2, 2, 24),
        "guidance": torch.full((2,), 3.5),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(5, 3),
        "return_dict": False,
    }
    start, end = _noise(3, 2, 4, 16), _noise(4, 2, 4, 16)
    made = []
    with tap_ext.run():
        for step in range(STEPS):
            part = (step / STEPS) ** 2
            latents = torch.lerp(start, end, part) + 0.1 * _noise(5, 2, 4, 16) * part**2
            time = torch.full((2,), 1 - step / STEPS)
            made.append(model(hidden_states=latents, timestep=time, **given)[0])
    return [output.double().numpy() for output in made]


def _forecast(full: tuple[int, ...], **more: Any) -> list[Array]:
    schedule = Listed(full)
    return _outputs(tap_ext.accelerate(make_transformer(), schedule=schedule, **more))


def test_a_model_returns_the_mixture() -> None:
    """Against forecasts without it, and against what the model itself makes of every step."""
    truth, plain, mixed = (
        _outputs(make_transformer()),
        _forecast(FULL, blend=False),
        _forecast(FULL),
    )
    seen = {t: _forecast(FULL[: FULL.index(t)], blend=False)[t] for t in (3, 6, 9)}
    differs = 0.0
    for step in range(STEPS):
        known = [t for t in FULL if t <= step]
        for row in range(2):
            if step in FULL:
                assert np.array_equal(mixed[step][row], truth[step][row])
                continue
            expected = _reference(
                {t: truth[t][row] for t in known},
                {t: seen[t][row] for t in known if t in seen},
                plain[step][row],
                step,
            )
            spread = np.abs(expected).max()
            assert np.abs(mixed[step][row] - expected).max() <= 2e-3 * spread
            differs = max(differs, np.abs(mixed[step][row] - plain[step][row]).max() / spread)
    assert differs > 0.02  # ten times what is allowed above


def test_the_control_without_any_forecast() -> None:
    """Every skip step is the line through the last two full ones, from the first on."""
    truth = _outputs(make_transformer())
    model = tap_ext.accelerate(make_transformer(), schedule=Listed(FULL))
    with Line().around(model):
        made = _outputs(model)
    for step in range(STEPS):
        known = [t for t in FULL if t <= step][-2:]
        expected = _lagrange([(float(t), truth[t]) for t in known], step)
        np.testing.assert_allclose(made[step], expected, rtol=1e-4, atol=1e-5)
    assert "line" in METHODS and METHODS["line"].way(8, 50).control == Line()


def test_the_first_window_and_full_steps_are_as_without() -> None:
    truth, plain, mixed = (
        _outputs(make_transformer()),
        _forecast(FULL, blend=False),
        _forecast(FULL),
    )
    for step in (0, 1, 2, 3, 6, 9):
        assert np.array_equal(mixed[step], plain[step])
    for step in FULL:
        assert np.array_equal(mixed[step], truth[step])


def test_it_is_told_and_can_be_left_out() -> None:
    model = tap_ext.accelerate(make_transformer(), schedule=Listed(FULL))
    _outputs(model)
    (stats,) = tap_ext.stats(model).models
    assert stats.blended == len([t for t in range(4, STEPS) if t not in FULL])
    assert f"{stats.blended} forecasts were mixed" in tap_ext.explain(model)
    tap_ext.accelerate(model, schedule=Listed(FULL), blend=False)
    _outputs(model)
    (stats,) = tap_ext.stats(model).models
    assert stats.blended is None
    assert not tap_ext.Config(preset="paper").blend
    assert not tap_ext.Config(method="taylorseer").blend
    assert tap_ext.Config().blend


def test_a_run_leaves_nothing_for_the_next() -> None:
    model = tap_ext.accelerate(make_transformer(), schedule=Listed(FULL))
    assert all(map(np.array_equal, _outputs(model), _outputs(model)))


def test_what_it_holds_is_counted() -> None:
    held = {}
    for blend in (False, True):
        model = tap_ext.accelerate(make_transformer(), schedule=Listed(FULL), blend=blend)
        _outputs(model)
        held[blend] = tap_ext.stats(model).models[0].nbytes
    # three outputs of two rows of four tokens, and two numbers for each row
    assert held[True] - held[False] == 4 * (3 * 2 * 4 * 16 + 2 * 2)


@pytest.mark.parametrize("seed", range(3))
def test_a_trained_model_is_nearer_with_it(seed: int) -> None:
    """4 of 8 steps of the digits, where it is worth most (docs/quality.md)."""
    pipe = digits.load_pipeline()

    def picture() -> Tensor:
        return digits.generate(pipe, [str(seed)], 8, seed)

    truth, errors = picture(), {}
    for blend in (False, True):
        tap_ext.accelerate(pipe, full_steps=4, blend=blend)
        errors[blend] = float((picture() - truth).norm())
    assert errors[True] < 0.7 * errors[False]

"""The corrector: its number against the sampler itself, its use in states, models and pipelines."""

from __future__ import annotations

import copy
import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tap_ext
from tap_ext import Config, Plan, State, Step
from tap_ext.correction import MOST, Prediction, Sampling
from tap_ext.engine import Engine
from tap_ext.hindsight import Hindsight
from tap_ext.integrations.diffusers import PipelineClock, engines_of
from tap_ext.plan import Listed
from tap_ext.predictors import Newton
from tap_ext.steps import Steps
from tests.graphs.recorder import recorded
from tests.pipelines.builders import (
    GUIDED,
    arguments,
    build,
    error,
    generate,
    make_transformer,
    steps,
    untouched,
)

STEPS = 20
NOISE = {"epsilon": "noise", "v_prediction": "velocity", "sample": "sample"}


def _ddim(prediction: str) -> Any:
    scheduler = diffusers.DDIMScheduler(
        prediction_type=prediction, timestep_spacing="trailing", clip_sample=False
    )
    scheduler.set_timesteps(STEPS)
    return scheduler


def _flow(prediction: str) -> Any:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(STEPS)
    return scheduler


class _Pipeline:
    """As much of one as its clock looks at."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


def _sampling(scheduler: Any) -> Sampling:
    clock = PipelineClock(_Pipeline(scheduler))
    angles, prediction = clock.angles(), clock.prediction()
    assert angles is not None and prediction is not None
    return Sampling(angles, prediction)


def _sample(scheduler: Any, outputs: dict[int, float], start: float = 0.0) -> float:
    """Where the scheduler takes a sample by these outputs at successive steps."""
    scheduler = copy.deepcopy(scheduler)
    x = torch.full((1, 1, 1, 1), start, dtype=torch.float64)
    for step, value in outputs.items():
        output = torch.full_like(x, value)
        x = scheduler.step(output, scheduler.timesteps[step], x, return_dict=False)[0].double()
    return float(x)


def _left(scheduler: Any, step: int) -> float:
    """How much of the noise a step leaves."""
    if hasattr(scheduler, "alphas_cumprod"):
        times = [*scheduler.timesteps.tolist(), None]
        levels = [
            0.0 if t is None else (1 - float(scheduler.alphas_cumprod[t])) ** 0.5
            for t in times[step : step + 2]
        ]
    else:
        levels = [float(level) for level in scheduler.sigmas[step : step + 2]]
    return levels[1] / levels[0]


@pytest.mark.parametrize(
    ("make", "prediction"), [(_ddim, kind) for kind in NOISE] + [(_flow, "flow")]
)
@pytest.mark.parametrize(
    ("past", "step"),
    [((6, 2), 11), ((6, 2, 1), 10), ((6, 2), 7), ((1, 0), 4), ((0,), 5), ((12, 3), 18)],
)
def test_the_gain_is_what_the_sampler_lacks(
    make: Callable[[str], Any], prediction: str, past: tuple[int, ...], step: int
) -> None:
    """Outputs on a parabola through the past full steps, forecast by the line through two."""
    scheduler = make(prediction)
    nodes = past[:2]

    def missing(t: int) -> float:  # what the forecast lacks, of the polynomial's next degree
        return math.prod(t - node for node in nodes) * 0.01

    skipped = range(past[0] + 1, step)
    forecast = {s: 0.3 - 0.02 * s for s in skipped}
    true = {s: value + missing(s) for s, value in forecast.items()}
    moved = _sample(scheduler, true, 0.5) - _sample(scheduler, forecast, 0.5)
    unit = _sample(scheduler, {step: 1.0})
    found = _sampling(scheduler).gain(step, step, past, [(s, float(s)) for s in skipped])
    if skipped:
        expected = moved * _left(scheduler, step) / unit / missing(step)
        assert 0 < expected < MOST
        assert found == pytest.approx(expected, rel=2e-4)
    else:
        assert found == 0.0


def test_the_gain_of_steps_that_were_not_all_forecast() -> None:
    """One of those between ran in full without being remembered: it was not wrong."""
    sampling = _sampling(_flow("flow"))
    whole = sampling.gain(9, 9, (5, 0), [(6, 6.0), (7, 7.0), (8, 8.0)])
    without = sampling.gain(9, 9, (5, 0), [(6, 6.0), (8, 8.0)])
    only = sampling.gain(9, 9, (5, 0), [(7, 7.0)])
    assert whole == pytest.approx(without + only)
    assert min(without, only) > 0


def test_a_gain_of_nothing() -> None:
    sampling = _sampling(_flow("flow"))
    one = [(1, 1.0)]
    assert sampling.gain(2, 2, (0,), []) == 0  # nothing was skipped
    assert sampling.gain(2, 2, (), one) == 0  # nothing is known
    assert sampling.gain(STEPS, STEPS, (0,), one) == 0  # beyond the run
    assert sampling.gain(STEPS - 1, STEPS - 1, (0,), one) == 0  # no noise is left after the last
    assert sampling.gain(2, math.nan, (0,), one) == 0
    still = Sampling((1.0, 0.8, 0.5, 0.5, 0.2), "flow")
    assert still.gain(2, 2, (0,), one) == 0  # the step does not move the sample
    slow = Sampling((1.5, 1.4, 0.1, 0.0999, 0.0), "velocity")
    assert slow.gain(2, 2, (0,), one) == MOST == 8
    clean = Sampling((1.0, 0.5, 0.0, 0.0), "velocity")
    assert clean.gain(2, 2, (0,), one) == 0


def test_the_last_step_of_a_run_that_leaves_noise() -> None:
    """As where a second model goes on from there."""
    angles = tuple(math.atan2(sigma, 1 - sigma) for sigma in (1.0, 0.8, 0.6, 0.4))
    gain = Sampling(angles, "flow").gain(2, 2, (0,), [(1, 1.0)])
    assert gain == pytest.approx(1 / 2 * 0.4 / 0.6)  # half the error at step 2, two thirds left


def test_a_run_towards_the_noise() -> None:
    """An inversion: what was put right does not grow with the noise."""
    angles = tuple(math.atan2(sigma, 1 - sigma) for sigma in (0.1, 0.2, 0.3, 0.6))
    gain = Sampling(angles, "flow").gain(2, 2, (0,), [(1, 1.0)])
    assert gain == pytest.approx(1 / 2 * 0.1 / 0.3)


@settings(deadline=None)
@given(st.data())
def test_the_gain_of_any_run(data: st.DataObject) -> None:
    prediction = data.draw(st.sampled_from(["flow", "velocity", "noise", "sample"]))
    angles = data.draw(st.lists(st.floats(0, math.pi / 2), min_size=2, max_size=12))
    sampling = Sampling(tuple(angles), prediction)
    step = data.draw(st.integers(1, len(angles) + 1))
    first = data.draw(st.integers(0, step - 1))
    past = tuple(range(first, -1, -1))
    skipped = [(s, float(s)) for s in range(first + 1, step)]
    assert 0 <= sampling.gain(step, step, past, skipped) <= MOST


@pytest.mark.parametrize(
    ("angles", "prediction", "words"),
    [
        ((1.0, 2.0), "flow", "angles must be"),
        ((1.0, math.nan), "flow", "angles must be"),
        ((1.0, 0.5), "epsilon", "prediction must be one of 'flow', .*, got 'epsilon'"),
    ],
)
def test_a_sampling_that_cannot_be(angles: Any, prediction: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sampling(angles, prediction)


def test_a_sampling_is_a_value() -> None:
    sampling = Sampling([1, 0.5], "flow")  # type: ignore[arg-type]
    assert sampling.angles == (1.0, 0.5)
    assert hash(sampling) == hash(Sampling((1.0, 0.5), "flow"))


def test_what_a_pipeline_tells() -> None:
    def told(scheduler: Any) -> Prediction | None:
        scheduler.set_timesteps(4)
        return PipelineClock(_Pipeline(scheduler)).prediction()

    assert told(diffusers.FlowMatchEulerDiscreteScheduler()) == "flow"
    assert told(diffusers.UniPCMultistepScheduler(use_flow_sigmas=True)) == "flow"
    assert told(diffusers.DPMSolverMultistepScheduler(prediction_type="v_prediction")) == "velocity"
    assert told(diffusers.EulerDiscreteScheduler()) == "noise"
    assert told(diffusers.DDIMScheduler(prediction_type="sample")) == "sample"
    assert told(diffusers.EDMEulerScheduler()) is None  # scales what the model returns
    assert PipelineClock(_Pipeline(object())).prediction() is None


# -- a state -------------------------------------------------------------------------------------


def _state(**config: Any) -> State:
    state = State(Plan(schedule=Listed((0, 2, 6, 9))), Config(**config))
    state.sampling = _sampling(_flow("flow"))
    return state


def _features(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden state, output and probe of a step; two tokens in three dimensions."""
    t, shape = step / 4, (2, 3)
    draw = torch.Generator().manual_seed(1)
    a, b, c, d = (torch.randn(shape, generator=draw) for _ in range(4))
    return a + t * b, a + t * c + t**3 * d, c + t * d + t**3 * a


def _drive(state: State, last: int) -> None:
    for step in range(last + 1):
        hidden, output, probe = _features(step)
        if state.begin() is Step.FULL:
            state.record(hidden, output, probe)
        else:
            state.predict(hidden, probe)


@pytest.mark.parametrize("forecast", ["residual", "hidden"])
def test_a_state_forecasts_a_full_step(forecast: str) -> None:
    """It is what the step would have been if it were skipped, and leaves no trace."""
    state = _state(forecast=forecast, predictors=(Newton(1), Newton(0)))
    twin = State(Plan(schedule=Listed((0, 2))), state.config)
    _drive(state, 5)
    _drive(twin, 5)
    hidden, output, probe = _features(6)
    assert twin.begin() is Step.SKIP
    assert state.begin() is Step.FULL
    counts, log = state.log.chosen(), copy.deepcopy(state.log.skip_steps)
    gain = state.correction()
    assert state.sampling is not None
    assert gain == state.sampling.gain(6, 6, (2, 0), [(3, 3.0), (4, 4.0), (5, 5.0)]) > 0
    assert torch.equal(state.apply(hidden, probe), twin.predict(hidden, probe))
    assert state.log.chosen() == counts
    state.record(hidden, output, probe)
    assert (state.log.skip_steps, state.log.full_steps) == (log, [0, 2, 6])
    with pytest.raises(RuntimeError, match="predict"):
        state.apply(hidden, probe)

    plain = State(state.plan, state.config)  # what was forecast changes nothing afterwards
    _drive(plain, 6)
    hidden, _, probe = _features(7)
    assert plain.begin() is state.begin() is Step.SKIP
    assert plain.correction() == state.correction() == 0
    assert torch.equal(state.predict(hidden, probe), plain.predict(hidden, probe))
    assert state.log.chosen() == plain.log.chosen()


def test_a_step_that_is_not_forecast_after_all() -> None:
    state = _state()
    _drive(state, 5)
    state.begin()
    assert state.correction() > 0
    state.record(*_features(6))
    assert state.begin() is Step.SKIP
    with pytest.raises(RuntimeError, match="record"):
        state.record(*_features(7))


def test_without_a_sampler_nothing_is_corrected() -> None:
    state = _state()
    state.sampling = None
    _drive(state, 5)
    state.begin()
    assert state.correction() == 0


def test_a_step_predicted_first_and_full_then() -> None:
    """What was predicted for it was not used, so it is nothing to make up for."""
    state = _state()
    _drive(state, 5)
    assert state.begin(5, full=True) is Step.FULL
    assert state.sampling is not None
    expected = state.sampling.gain(5, 5, (2, 0), [(3, 3.0), (4, 4.0)])
    assert state.correction() == expected


def test_a_step_predicted_twice_counts_once() -> None:
    state = _state()
    _drive(state, 5)
    assert state.begin(5) is Step.SKIP
    hidden, _, probe = _features(5)
    state.predict(hidden, probe)
    state.begin()
    assert state.sampling is not None
    expected = state.sampling.gain(6, 6, (2, 0), [(3, 3.0), (4, 4.0), (5, 5.0)])
    assert state.correction() == expected


def test_nothing_is_forecast_unasked() -> None:
    hidden, _, probe = _features(6)

    def refused(state: State) -> None:
        with pytest.raises(RuntimeError, match="predict"):
            state.apply(hidden, probe)

    refused(State())
    state = _state()
    _drive(state, 5)
    state.begin()
    refused(state)  # a full step, and nobody asked for its correction
    state.correction()
    state.begin(6)  # it failed, and is begun again
    refused(state)
    state.correction()
    state.reset()
    refused(state)
    state.sampling = None
    _drive(state, 5)
    state.begin()
    assert state.correction() == 0
    refused(state)


def test_a_run_taken_out_is_corrected_where_it_goes_on() -> None:
    state, other = _state(), State(config=Config())
    _drive(state, 5)
    kept = state.detach("cpu")
    assert state.begin() is Step.FULL
    assert state.correction() == 0
    other.attach(kept)
    other.begin()
    assert other.correction() == kept.sampling.gain(  # type: ignore[union-attr]
        6, 6, (2, 0), [(3, 3.0), (4, 4.0), (5, 5.0)]
    )


def test_a_state_without_a_sampler_can_look_back() -> None:
    """It gives what a step would have been if it were skipped, and counts nothing."""
    state, twin = _state(), State(Plan(schedule=Listed((0, 2))))
    state.sampling = None
    assert state.look_back() is False  # nothing has begun
    _drive(state, 2)
    assert state.begin() is Step.SKIP and not state.look_back()
    state.predict(*_features(3)[::2])
    for step in (4, 5):
        state.begin()
        state.predict(*_features(step)[::2])
    _drive(twin, 5)
    counted = state.log.chosen()
    assert state.begin() is Step.FULL and state.correction() == 0
    assert state.look_back()
    hidden, output, probe = _features(6)
    forecast = state.apply(hidden, probe).clone()
    assert twin.begin() is Step.SKIP
    assert torch.equal(forecast, twin.predict(hidden, probe))
    state.record(hidden, output, probe)
    assert state.log.chosen() == counted
    assert not state.look_back()  # nothing was skipped since


def test_a_step_that_was_predicted_first_is_no_skip_before_itself() -> None:
    state = State(Plan(schedule=Listed((0, 1, 2))))
    _drive(state, 3)
    assert state.begin(3, full=True) is Step.FULL
    assert state.look_back() is False


def test_the_last_step_has_nobody_to_learn_for() -> None:
    """It may still have something to put right."""
    for num_steps, learns in ((7, False), (8, True), (None, True)):
        state = State(Plan(num_steps=num_steps, schedule=Listed((0, 2, 6))))
        _drive(state, 5)
        assert state.begin() is Step.FULL
        assert state.look_back() is learns
    state = State(Plan(num_steps=7, schedule=Listed((0, 2, 6))))
    state.sampling = _sampling(_flow("flow"))
    _drive(state, 5)
    state.begin()
    assert state.correction() > 0 and state.look_back()
    hidden, _, probe = _features(6)
    assert state.apply(hidden, probe).shape == hidden.shape


# -- what a model returns ------------------------------------------------------------------------


def test_what_a_correction_does_to_an_output() -> None:
    start, end = torch.zeros(2, 3), torch.arange(6.0).reshape(2, 3)
    corrected = Hindsight(1.5, (start,)).correct((end,))
    assert type(corrected) is tuple
    assert torch.equal(corrected[0], end * 2.5)
    made = Hindsight(0.5, Transformer2DModelOutput(start)).correct(Transformer2DModelOutput(end))
    assert isinstance(made, Transformer2DModelOutput)
    assert torch.equal(made.sample, end * 1.5)
    several = Hindsight(1.0, [start, None, start]).correct([end, None, end])
    assert torch.equal(several[0], end * 2) and torch.equal(several[2], end * 2)
    assert several[1] is None
    numbers = torch.arange(3)
    assert Hindsight(1.0, numbers * 0).correct(numbers) is numbers  # no quantity
    assert Hindsight(1.0, start[:1]).correct(end) is end  # no forecast of this


Calls = list[tuple[dict[str, Any], Tensor]]


def test_what_is_no_sample_is_not_corrected() -> None:
    """A model's cache of keys and values must stay what the model made of it."""
    start, end = torch.zeros(2, 3), torch.ones(2, 3)
    cache = {0: {"key": end}}
    found = Hindsight(1.0, ([start], {0: {"key": start}}, start)).correct(([end], cache, end))
    assert torch.equal(found[0][0], end * 2)
    assert found[1] is cache
    assert found[2] is end
    both = Hindsight(1.0, (start, start, start), samples=2).correct((end, end, end))
    assert [float(tensor.mean()) for tensor in both] == [2, 2, 1]
    assert Hindsight(1.0, {0: start}).correct(cache) is cache


def _spied(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Every call of an accelerated transformer: its arguments, and what it returned."""
    calls: Calls = []
    call = Engine.__call__

    def noting(self: Engine, *args: Any, **kwargs: Any) -> Any:
        held = {k: v.clone() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
        output = call(self, *args, **kwargs)
        calls.append((held, output[0].clone()))
        return output

    monkeypatch.setattr(Engine, "__call__", noting)
    return calls


SCHEDULE = Listed((0, 1, 4, 7))
TOKENS = 16


def _corrected(**config: Any) -> Any:
    return tap_ext.accelerate(build(), schedule=SCHEDULE, corrector=True, **config)


@pytest.mark.parametrize("graphs", ["off", "skip", "all"])
def test_what_a_pipeline_is_given(graphs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the model itself, and against a second one that skips the same step."""
    untouched()  # the truth is never captured
    with recorded(monkeypatch):
        pipe = _corrected(graphs=graphs)
        generate(pipe)  # graphs are captured now
        with monkeypatch.context() as patched:
            calls = _spied(patched)
            generate(pipe)
    assert steps(pipe) == [((0, 1, 4, 7), (2, 3, 5, 6))]
    assert engines_of(pipe)[0].corrected == 2  # in two runs; the last step leaves no noise
    plain = make_transformer(16)
    twin = tap_ext.accelerate(make_transformer(16), schedule=Listed((0, 1)), corrector=False)
    sampling = _sampling_of(pipe)
    with torch.no_grad(), tap_ext.run():
        forecast = [twin(**kwargs)[0].clone() for kwargs, _ in calls[:5]]
        for number in (0, 1):
            assert torch.equal(calls[number][1], plain(**calls[number][0])[0])
        true = plain(**calls[4][0])[0]
    gain = sampling.gain(4, 4, (1, 0), [(2, 2.0), (3, 3.0)])
    assert gain > 0.3
    expected = true + gain * (true - forecast[4])
    assert not torch.allclose(expected, true, rtol=0, atol=1e-4)
    torch.testing.assert_close(calls[4][1], expected, rtol=1e-5, atol=1e-6)


def _sampling_of(pipe: Any) -> Sampling:
    """After a run, the scheduler still has its table."""
    clock = PipelineClock(pipe)
    angles = clock.angles()
    assert angles is not None
    return Sampling(angles, "flow")


def test_graphs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = []
    with recorded(monkeypatch):
        for graphs in ("off", "skip", "all"):
            pipe = _corrected(graphs=graphs)
            pictures += [generate(pipe), generate(pipe)]
            candidates = tap_ext.stats(pipe).models[0].branches[0].candidates
            assert sum(candidates.values()) == 4 * TOKENS  # of skip steps only
    assert all(torch.equal(picture, pictures[0]) for picture in pictures)


def test_a_schedule_that_decides_from_data_is_corrected() -> None:
    pipe = tap_ext.accelerate(build(), full_steps=4, schedule="adaptive")
    picture = generate(pipe)
    assert engines_of(pipe)[0].corrected > 0
    assert error(picture, untouched()) < 0.1


def test_guidance_is_corrected_in_each_branch() -> None:
    case = GUIDED["FluxPipeline"]
    pipe = tap_ext.accelerate(build(case), schedule=SCHEDULE)
    generate(pipe, arguments(case))
    assert engines_of(pipe)[0].corrected == 2


def test_the_last_picture_of_a_trace_is_of_skip_steps_only() -> None:
    pipe = _corrected(trace=True)
    generate(pipe)
    assert [choice.step for choice in tap_ext.stats(pipe).trace] == [2, 3, 5, 6]


def test_a_bare_model_is_not_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tap_ext.accelerate(make_transformer(16), schedule=Listed((0, 1, 4)))
    plain = make_transformer(16)
    with monkeypatch.context() as patched:
        calls = _spied(patched)
        generate(tap_ext.accelerate(build(), window=1))
    with torch.no_grad(), tap_ext.run():
        outputs = [model(**kwargs)[0].clone() for kwargs, _ in calls]
    with torch.no_grad():
        assert torch.equal(outputs[4], plain(**calls[4][0])[0])
    assert tap_ext.stats(model).models[0].corrected == 0
    assert "nobody told the noise levels" in tap_ext.explain(model)


def test_what_is_told_of_it() -> None:
    pipe = _corrected()
    generate(pipe)
    assert tap_ext.stats(pipe).models[0].corrected == 1
    assert "1 full steps made up for the skip steps before them" in tap_ext.explain(pipe)
    paper = tap_ext.accelerate(build(), preset="paper", window=3)
    generate(paper)
    assert tap_ext.stats(paper).models[0].corrected is None
    assert "made up" not in tap_ext.explain(paper)
    assert "corrected" not in tap_ext.explain(paper)


def test_a_call_without_a_forecast_is_not_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that only fills a cache: the blocks are not entered, and nothing is predicted."""
    pipe = _corrected(graphs="off")
    forecast = Steps._forecast

    def nothing(self: Steps, *args: Any) -> Any:
        output, used = forecast(self, *args)
        return output, () if sys._getframe(1).f_code.co_name == "look_back" else used

    monkeypatch.setattr(Steps, "_forecast", nothing)
    picture = generate(pipe)
    assert engines_of(pipe)[0].corrected == 0
    plain = tap_ext.accelerate(build(), schedule=SCHEDULE, corrector=False)
    assert torch.equal(picture, generate(plain))


def test_an_error_while_looking_back_leaves_nothing_behind(monkeypatch: Any) -> None:
    pipe = _corrected(graphs="off")
    before = generate(pipe)
    skip = Engine._look_back

    def broken(self: Engine, *args: Any) -> Any:
        skip(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Engine, "_look_back", broken)
        with pytest.raises(KeyboardInterrupt):
            generate(pipe)
    assert torch.equal(generate(pipe), before)


# -- the configuration ---------------------------------------------------------------------------


def test_who_is_corrected() -> None:
    assert Config().corrector
    assert Config(full_steps=8, forecast="hidden").corrector
    assert Config(preset="quality").corrector
    assert not Config(preset="paper").corrector
    for method in ("fora", "taylorseer", "teacache", "speca"):
        assert not Config(method=method).corrector  # as published
        assert Config(method=method, corrector=True).corrector
    assert Config(preset="paper", corrector=True).wants_angles
    assert not Config(preset="paper").wants_angles
    for wrong in (1, "yes", None):
        with pytest.raises(TypeError, match="corrector must be a bool"):
            Config(corrector=wrong)  # type: ignore[arg-type]


def test_a_history_says_by_what_it_is_corrected() -> None:
    assert "sampling" in {field.name for field in dataclasses.fields(_state().detach())}

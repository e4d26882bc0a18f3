"""What may happen to captured steps, in the FLUX pipeline and its transformer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import tap_ext
from tap_ext.report import ModelStats
from tests.graphs.recorder import Recorder, recorded
from tests.pipelines.builders import (
    FULL,
    GUIDED,
    SKIP,
    WINDOWED,
    arguments,
    at_step,
    build,
    expected,
    generate,
    make_transformer,
    noise,
    steps,
)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    expected()  # the truth is never captured
    expected(GUIDED["FluxPipeline"])
    with recorded(monkeypatch) as recorder:
        yield recorder


def _made(**changes: Any) -> Any:
    return tap_ext.accelerate(build(), **WINDOWED | {"graphs": "all"} | changes)


def _stats(target: Any) -> ModelStats:
    (stats,) = tap_ext.stats(target).models
    return stats


def _reasons(target: Any) -> set[str]:
    return set(_stats(target).uncaptured)


@pytest.mark.parametrize(
    ("graphs", "captured", "replayed"),
    [("off", 0, 0), ("skip", 1, 4), ("auto", 1, 4), ("all", 2, 6)],
)
def test_what_is_captured(graphs: str, captured: int, replayed: int, recorder: Recorder) -> None:
    """The first of a kind runs eagerly, the second is captured; the very first step is checked.

    The full step after skip steps replays one of them, too, to be corrected.
    """
    pipe = _made(graphs=graphs)
    assert torch.equal(generate(pipe), expected())
    assert steps(pipe) == [(FULL, SKIP)]
    stats = _stats(pipe)
    assert (stats.captured, stats.replayed, stats.uncaptured) == (captured, replayed, {})
    assert recorder.tried == captured


def test_the_next_run_replays_what_the_last_one_captured(recorder: Recorder) -> None:
    pipe = _made()
    generate(pipe)
    before = _stats(pipe)
    assert torch.equal(generate(pipe), expected())
    after = _stats(pipe)
    assert after.captured == before.captured
    looked_back = 1
    assert after.replayed - before.replayed == len(FULL) + len(SKIP) - 1 + looked_back


def test_guidance_has_graphs_of_its_own(recorder: Recorder) -> None:
    case = GUIDED["FluxPipeline"]
    pipe = tap_ext.accelerate(build(case), graphs="all", **WINDOWED)
    for _ in range(2):
        assert torch.equal(generate(pipe, arguments(case)), expected(case))
    assert _stats(pipe).captured == 4


def test_the_choices_are_counted_by_replays_too(recorder: Recorder) -> None:
    plain, pipe = tap_ext.accelerate(build(), graphs="off", **WINDOWED), _made()
    for _ in range(2):
        generate(plain)
        generate(pipe)
        assert _stats(pipe).branches == _stats(plain).branches
    assert sum(_stats(pipe).branches[0].candidates.values()) == 16 * len(SKIP)


def test_another_prompt_and_size_between(recorder: Recorder) -> None:
    pipe = _made()
    generate(pipe)
    for _ in range(2):
        fresh = tap_ext.accelerate(build(), graphs="off", **WINDOWED)
        other = {**arguments(), "height": 32, "prompt_embeds": noise(1, 7, 32, seed=5)}
        assert torch.equal(generate(pipe, other), generate(fresh, other))
    assert torch.equal(generate(pipe), expected())


@pytest.mark.parametrize("graphs", ["skip", "all"])
def test_a_short_run_in_another_precision_between(graphs: str, recorder: Recorder) -> None:
    """Its steps are all full, so no skip step sees that the history lies elsewhere since."""
    pipe = _made(graphs=graphs)
    generate(pipe)
    with torch.autocast("cpu", torch.bfloat16):
        generate(pipe, num_inference_steps=2)
    for _ in range(2):
        assert torch.equal(generate(pipe), expected())


def _call(seed: int, timestep: Tensor) -> dict[str, Any]:
    return {
        "hidden_states": noise(1, 16, 16, seed=seed),
        "encoder_hidden_states": noise(1, 5, 32, seed=100),
        "pooled_projections": noise(1, 24, seed=101),
        "guidance": torch.full((1,), 3.5),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(5, 3),
        "timestep": timestep,
        "return_dict": False,
    }


@torch.no_grad()
def _outputs(model: Any, count: int = 8) -> list[Tensor]:
    times = torch.linspace(1, 0.1, count)
    prompt = _call(0, times[:1])  # the same tensors at every step, as in a pipeline
    with tap_ext.run():
        return [
            model(
                **prompt | {"hidden_states": noise(1, 16, 16, seed=step), "timestep": time[None]}
            )[0]
            for step, time in enumerate(times)
        ]


def test_what_was_returned_is_the_caller_s(recorder: Recorder) -> None:
    """A solver of several steps keeps outputs of earlier ones."""
    model = tap_ext.accelerate(make_transformer(), graphs="all", **WINDOWED)
    plain = tap_ext.accelerate(make_transformer(), graphs="off", **WINDOWED)
    for got, wanted in zip(_outputs(model), _outputs(plain), strict=True):
        assert torch.equal(got, wanted)


def test_inference_mode_and_not(recorder: Recorder) -> None:
    model = tap_ext.accelerate(make_transformer(), graphs="all", **WINDOWED)
    wanted = _outputs(tap_ext.accelerate(make_transformer(), graphs="off", **WINDOWED))
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            got = _outputs(model)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_an_argument_edited_in_place_is_seen(recorder: Recorder) -> None:
    wanted = []
    for graphs in ("off", "all"):
        model = tap_ext.accelerate(make_transformer(), graphs=graphs, **WINDOWED)
        given = _call(0, torch.ones(1))
        with torch.no_grad(), tap_ext.run():
            for step in range(8):
                given["timestep"] = torch.full((1,), 1 - step / 10)
                given["guidance"].add_(0.5)
                given["hidden_states"].mul_(0.9)
                wanted.append(model(**given)[0])
    assert all(torch.equal(a, b) for a, b in zip(wanted[:8], wanted[8:], strict=True))


@torch.no_grad()
@pytest.mark.parametrize("moved", [False, True], ids=["edited in place", "moved"])
def test_changed_weights_are_seen(moved: bool, recorder: Recorder) -> None:
    model = tap_ext.accelerate(make_transformer(), graphs="all", **WINDOWED)
    _outputs(model)
    captured = _stats(model).captured
    fresh = tap_ext.accelerate(make_transformer(), graphs="off", **WINDOWED)
    for changed in (model, fresh):
        for layer in (changed.x_embedder, changed.proj_out):
            if moved:
                layer.weight.data = layer.weight.data * 1.5
            else:
                layer.weight.mul_(1.5)
    got = _outputs(model)
    assert all(torch.equal(a, b) for a, b in zip(got, _outputs(fresh), strict=True))
    assert _stats(model).captured == (2 if moved else 1) * captured


def test_a_lora_scaled_between_steps_is_seen(recorder: Recorder) -> None:
    from peft import LoraConfig

    pictures = []
    for graphs in ("off", "all"):
        pipe = build()
        torch.manual_seed(0)
        pipe.transformer.add_adapter(
            LoraConfig(r=2, target_modules=["x_embedder", "to_q"], init_lora_weights=False), "one"
        )
        tap_ext.accelerate(pipe, graphs=graphs, **WINDOWED)

        def rescale(pipe: Any, tensors: Any) -> None:
            pipe.transformer.set_adapters(["one"], [0.3])

        pictures += [generate(pipe), generate(pipe, **at_step(SKIP[0], rescale)), generate(pipe)]
    assert all(torch.equal(a, b) for a, b in zip(pictures[:3], pictures[3:], strict=True))
    assert not torch.equal(pictures[0], pictures[1])


def test_hooks_are_called_at_every_step(recorder: Recorder) -> None:
    pipe = _made()
    generate(pipe)
    calls = []
    handle = pipe.transformer.x_embedder.register_forward_hook(lambda *_: calls.append(1))
    with pytest.warns(UserWarning, match="hooks, which a replay would not call"):
        assert torch.equal(generate(pipe), expected())
    looked_back = 1  # a corrected full step is forecast first
    assert len(calls) == len(FULL) + len(SKIP) + looked_back
    handle.remove()
    before = _stats(pipe).replayed
    generate(pipe)
    generate(pipe)
    assert _stats(pipe).replayed > before


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("operation not permitted\nwhile capturing"),
            "failed: operation not permitted",
        ),
        (torch.OutOfMemoryError("no"), "no memory was left"),
        (ValueError(), "failed: ValueError"),
    ],
)
def test_a_capture_that_fails_costs_nothing_but_speed(
    error: Exception, words: str, recorder: Recorder
) -> None:
    pipe = _made(graphs="auto")
    recorder.fail = error
    with pytest.warns(UserWarning, match=words) as caught:
        assert torch.equal(generate(pipe), expected())
    assert len(caught) == 1
    assert torch.equal(generate(pipe), expected())
    assert recorder.tried == 1  # not again at every step
    assert steps(pipe) == [(FULL, SKIP)]
    (reason,) = _reasons(pipe)
    assert words in reason and reason in tap_ext.explain(pipe)


def test_a_capture_that_is_interrupted(recorder: Recorder) -> None:
    pipe = _made()
    recorder.fail = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        generate(pipe)
    recorder.fail = None
    for _ in range(2):
        assert torch.equal(generate(pipe), expected())


def test_nothing_is_captured_within_another_capture(recorder: Recorder) -> None:
    pipe = _made()
    recorder.reason = "a capture is already under way"
    with pytest.warns(UserWarning, match="already under way"):
        assert torch.equal(generate(pipe), expected())
    recorder.reason = None
    assert torch.equal(generate(pipe), expected())
    assert _stats(pipe).captured == 2  # it was not held against the steps


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"trace": True}, "trace=True"), ({"schedule": "adaptive", "full_steps": 4}, "the schedule")],
)
def test_what_looks_at_every_step(changes: dict[str, Any], words: str, recorder: Recorder) -> None:
    config = {"graphs": "skip", **({} if "schedule" in changes else WINDOWED), **changes}
    pipe = tap_ext.accelerate(build(), **config)
    with pytest.warns(UserWarning, match=words):
        picture = generate(pipe)
    plain = tap_ext.accelerate(build(), **config | {"graphs": "off"})
    assert torch.equal(picture, generate(plain))
    assert not _stats(pipe).captured


def test_what_waits_for_the_device_is_not_captured(recorder: Recorder) -> None:
    pictures = []
    for graphs in ("off", "auto"):
        model = tap_ext.accelerate(make_transformer(), graphs=graphs, **WINDOWED)
        model.x_embedder = _Reader(model.x_embedder)
        pictures.append(_warned(model) if graphs == "auto" else _outputs(model))
    assert all(torch.equal(a, b) for a, b in zip(*pictures, strict=True))
    assert not _stats(model).captured and recorder.tried


def _warned(model: Any) -> list[Tensor]:
    with pytest.warns(UserWarning, match="waits for the device"):
        return _outputs(model)


class _Reader(torch.nn.Module):
    """An embedder that reads a value of what it is given."""

    def __init__(self, real: torch.nn.Module) -> None:
        super().__init__()
        self.real = real

    def forward(self, hidden: Tensor) -> Tensor:
        return self.real(hidden) * (1 + 0 * hidden.max().item())


def test_threads_have_graphs_of_their_own(recorder: Recorder) -> None:
    model = tap_ext.accelerate(make_transformer(), graphs="all", **WINDOWED)
    wanted = _outputs(tap_ext.accelerate(make_transformer(), graphs="off", **WINDOWED))
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(3):
            got = _outputs(model)
            if not all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert _stats(model).replayed


def test_another_configuration_and_restore_let_go_of_all_graphs(recorder: Recorder) -> None:
    pipe = _made()
    generate(pipe)
    tap_ext.accelerate(pipe, graphs="skip", window=4)
    assert (_stats(pipe).captured, _stats(pipe).replayed) == (0, 0)
    generate(pipe)
    tap_ext.restore(pipe)
    assert torch.equal(generate(pipe), generate(build()))


def test_the_kill_switch_is_read_at_every_step(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = _made()
    monkeypatch.setenv("TAP_EXT_GRAPHS", "0")
    assert torch.equal(generate(pipe), expected())
    assert recorder.tried == 0
    monkeypatch.delenv("TAP_EXT_GRAPHS")
    assert torch.equal(generate(pipe), expected())
    assert recorder.tried == 2

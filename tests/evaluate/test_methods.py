"""Budgets, solvers, prompts and metrics, each against something independent."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from torch import Tensor

from tap_ext.evaluate import metrics, prompts
from tap_ext.evaluate.methods import METHODS, Way, fora_schedule, register, ways, windowed
from tap_ext.evaluate.solvers import second_order


@pytest.mark.parametrize("steps", [8, 28, 50])
def test_a_budget_is_met_or_refused(steps: int) -> None:
    for budget in range(1, steps + 1):
        found, refused = ways(list(METHODS), [budget], steps)
        assert {way.method for way in found}.isdisjoint(name for name, _ in refused)
        assert len(found) + len(refused) == len(METHODS)
        for way in found:
            assert isinstance(way, Way)
            if way.config is None:
                assert way.tuned or way.control or way.steps == budget
            else:
                assert len(way.config.plan(steps).full_steps()) == budget, way


def test_the_paper_s_budgets() -> None:
    # Section 1.3 of the tables: full = {0, 1, 2} and 2 + N, 2 + 2 N, ...
    for window, budget in ((4, 14), (5, 12), (6, 10), (8, 8), (10, 7)):
        wanted = [0, 1, 2, *range(2 + window, 50, window)]
        assert len(wanted) == budget
        assert windowed(budget, 50, 3).full_steps(50) == wanted


def test_fora_counts_from_the_first_step_or_from_the_last() -> None:
    assert fora_schedule(13, 50).full_steps(50) == list(range(0, 50, 4))
    assert fora_schedule(14, 50).full_steps(50) == [0, *range(1, 50, 4)]


def test_a_refusal_names_budgets_that_are_possible() -> None:
    with pytest.raises(ValueError, match="the nearest are 14 and 18") as caught:
        windowed(16, 50, 3)
    assert "16 full steps of 50" in str(caught.value)
    for near in (14, 18):
        assert len(windowed(near, 50, 3).full_steps(50)) == near
    with pytest.raises(ValueError, match="1 to 50"):
        METHODS["steps"].way(51, 50)


def test_a_method_of_one_s_own() -> None:
    register("mine", "every step", lambda budget, steps: Way("mine", budget, budget))
    try:
        assert ways(["mine"], [3], 9)[0] == [Way("mine", 3, 3)]
    finally:
        del METHODS["mine"]
    for name in ("", "a,b", "untouched"):
        with pytest.raises(ValueError, match="name must be"):
            register(name, "", lambda budget, steps: Way("", 1, 1))


def _solve(scheduler: Any, count: int, start: float) -> float:
    """Follows dx/dsigma = cos(3 sigma) - x from sigma = 1 to 0."""
    scheduler.set_timesteps(count)
    x = torch.tensor([start], dtype=torch.float64)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        velocity = torch.cos(3 * sigma.double()) - x
        x = scheduler.step(velocity, t, x, return_dict=False)[0].double()
    return float(x)


def _exact(start: float) -> float:
    # x = (cos 3s + 3 sin 3s) / 10 + c e^-s
    c = (start - (math.cos(3) + 3 * math.sin(3)) / 10) * math.e
    return 0.1 + c


def test_steps2_is_of_second_order() -> None:
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = second_order(euler)
    for scheduler, order in ((euler, 1), (ours, 2)):
        errors = [abs(_solve(scheduler, n, 0.5) - _exact(0.5)) for n in (40, 80, 160)]
        found = [math.log2(a / b) for a, b in pairwise(errors)]
        assert found == pytest.approx([order, order], abs=0.25), errors
    assert _solve(ours, 40, 0.5) == _solve(ours, 40, 0.5), "a run knows nothing of the last one"
    assert _solve(ours, 1, 0.5) == _solve(euler, 1, 0.5)


def test_steps2_is_adams_bashforth_on_any_grid() -> None:
    scheduler = second_order(FlowMatchEulerDiscreteScheduler(shift=3.0))
    scheduler.set_timesteps(6)
    sigma = scheduler.sigmas.double().numpy()
    generator = np.random.default_rng(0)
    slopes = generator.normal(size=6)
    x = torch.zeros(1, dtype=torch.float64)
    wanted = 0.0
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(torch.tensor([slopes[i]]), t, x, return_dict=False)[0]
        # The integral of the line through the last two slopes.
        line = np.polyfit(sigma[[i - 1, i]], slopes[[i - 1, i]], 1) if i else [0.0, slopes[0]]
        area = np.polyint(line)
        wanted += np.polyval(area, sigma[i + 1]) - np.polyval(area, sigma[i])
        assert float(x) == pytest.approx(wanted, abs=1e-5)


def test_steps2_of_other_schedulers() -> None:
    assert second_order(DDIMScheduler()).config.solver_order == 2
    with pytest.raises(ValueError, match="FlowMatchHeunDiscreteScheduler"):
        second_order(FlowMatchHeunDiscreteScheduler())


def test_prompts_of_every_format(tmp_path: Path) -> None:
    plain, bench, vbench = (tmp_path / f"prompts.{kind}" for kind in ("txt", "csv", "json"))
    plain.write_bytes(b"\xef\xbb\xbf a cat \r\n\r\nein H\xc3\xbcgel\na cat\n")
    assert prompts.load(plain) == ["a cat", "ein Hügel"]
    bench.write_text('Prompts,Category\n"A red, round car.",Colors\nA dog.,Colors\n')
    assert prompts.load(bench) == ["A red, round car.", "A dog."]
    entries = [{"prompt_en": "in a park", "dimension": ["color"]}, {"prompt_en": "a bear"}]
    vbench.write_text(json.dumps(entries))
    assert prompts.load(vbench) == ["in a park", "a bear"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"", "holds no prompt"),
        ("a.txt", b" \n\n", "holds no prompt"),
        ("a.txt", b"caf\xe9", "must be UTF-8; byte 3 is not"),
        ("a.csv", b"text,kind\na,b\n", "must have a column"),
        ("a.csv", b"", "must have a column"),
        ("a.json", b"{", "must be JSON"),
        ("a.json", b"{}", "must be a JSON list"),
        ("a.json", b'[{"text": "a"}]', "entry 0 not"),
        ("a.json", b"[]", "holds no prompt"),
    ],
)
def test_prompts_that_cannot_be_read(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=said):
        prompts.load(tmp_path / name)


def _noisy(side: int, error: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, side, side, generator=generator)
    noise = torch.randn(2, 3, side, side, generator=generator)
    return (clean + error * noise).clamp(0, 1), clean


@pytest.mark.parametrize("name", ["psnr", "ssim", "ms_ssim", "flip"])
@pytest.mark.parametrize("side", [48, 176])
def test_metrics_fall_with_the_error(name: str, side: int) -> None:
    metric = metrics.METRICS[name]
    pytest.importorskip(metric.needs)
    found = [metric.of(*_noisy(side, error)) for error in (0.02, 0.1, 0.4)]
    for picture in zip(*found, strict=True):
        assert list(picture) == sorted(picture, reverse=metric.higher)
        assert len(set(picture)) == 3


def test_metrics_of_the_same_picture() -> None:
    _, clean = _noisy(48, 0.0)
    for name, wanted in (("psnr", math.inf), ("ssim", 1), ("ms_ssim", 1), ("flip", 0)):
        pytest.importorskip(metrics.METRICS[name].needs)
        assert metrics.METRICS[name].of(clean, clean) == pytest.approx([wanted] * 2, abs=1e-6)


def test_flip_of_black_and_white() -> None:
    pytest.importorskip("flip_evaluator")
    black, white = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    # Black to white is not the farthest pair of colours, in which FLIP is 1.
    (value,) = metrics.flip(white, black)
    assert 0.8 < value <= 1


def test_ms_ssim_of_plain_greys_has_a_closed_form() -> None:
    pytest.importorskip("torchmetrics")
    # Contrast and structure of plain pictures agree; the luminance of the coarsest scale counts.
    black = torch.zeros(1, 3, 48, 48)
    luminance = 1e-4 / (0.01 + 1e-4)
    weights = (0.0448, 0.2856, 0.3001)
    wanted = luminance ** (weights[2] / sum(weights))
    assert metrics.ms_ssim(black + 0.1, black) == pytest.approx([wanted], rel=1e-3)


def test_videos_are_measured_by_their_mean_frame() -> None:
    noisy, clean = _noisy(16, 0.1)
    frames = metrics.psnr(noisy, clean)
    video = metrics.measure(metrics.METRICS["psnr"], noisy[None], clean[None])
    assert video == pytest.approx([np.mean(frames)])
    with pytest.raises(ValueError, match="outputs must be"):
        metrics.measure(metrics.METRICS["psnr"], noisy, clean[:1])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda name: None if name == "torchmetrics" else 1)
    assert [metric.name for metric in metrics.choose(None)] == ["psnr", "ssim", "flip"]
    with pytest.raises(ModuleNotFoundError, match=r"needs torchmetrics, which pip .*\[evaluate\]"):
        metrics.choose(["psnr", "ms_ssim"])

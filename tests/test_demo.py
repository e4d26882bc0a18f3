"""The demo measures what it says, on a random model behind the real pipeline."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("matplotlib")
pytest.importorskip("skimage")

from matplotlib.figure import Figure
from matplotlib.image import imread
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn

import tap_ext
from tap_ext.demo import bundled, picture
from tap_ext.demo.run import Comparison, compare, model_calls
from tap_ext.demo.subject import Subject, from_bundle
from tap_ext.demo.table import table
from tap_ext.evaluate.clocks import around_calls, call_times, wall_time
from tap_ext.evaluate.flops import step_flops
from tap_ext.evaluate.metrics import psnr, ssim
from tap_ext.evaluate.progress import progress
from tests.demo_models import BLOCKS, CAPTION, TOKENS, WIDTH, save_random_bundle

STEPS, WINDOWS, REPEATS, SEED = 14, (3, 5), 2, 7


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    folder = tmp_path_factory.mktemp("model")
    save_random_bundle(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled, "MODEL", folder)
        yield from_bundle(2, SEED, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def calls() -> list[None]:
    return []


@pytest.fixture(scope="module")
def comparison(subject: Subject, calls: list[None]) -> Comparison:
    return compare(subject, STEPS, WINDOWS, lambda: calls.append(None), REPEATS)


def pixels(method: Any) -> Any:
    return method.pictures.permute(0, 2, 3, 1).double().numpy()


def test_full_steps_are_the_paper_s_and_step_reduction_has_as_many(comparison: Comparison) -> None:
    # 0, 1, 2, then every window-th: 2 + N, 2 + 2N, ...
    wanted = [3 + (STEPS - 3) // window for window in WINDOWS]
    assert [method.full for method in comparison.accelerated] == wanted
    assert [method.full for method in comparison.fewer] == wanted
    assert [method.full for method in comparison.paper] == wanted
    assert [method.config.preset for method in comparison.paper] == ["paper", "paper"]
    assert [method.steps for method in comparison.fewer] == wanted
    assert [method.steps for method in comparison.accelerated] == [STEPS, STEPS]
    assert comparison.untouched.full == STEPS


def test_pictures_are_the_pipeline_s(subject: Subject, comparison: Comparison) -> None:
    plain = bundled.load_pipeline()
    labels = comparison.titles
    assert len(set(labels)) == 2
    untouched = bundled.generate(plain, labels, STEPS, SEED)
    assert torch.equal(comparison.untouched.pictures, untouched)
    for method in comparison.fewer:
        assert torch.equal(method.pictures, bundled.generate(plain, labels, method.steps, SEED))
    for method in (*comparison.accelerated, *comparison.paper):
        pipe = tap_ext.accelerate(bundled.load_pipeline(), method.config)
        assert torch.equal(method.pictures, bundled.generate(pipe, labels, STEPS, SEED))
        assert not torch.equal(method.pictures, untouched)


def test_a_twin_shares_the_weights_and_leaves_the_subject_alone(subject: Subject) -> None:
    twin = subject.twin()
    tap_ext.accelerate(twin)
    ours, theirs = subject.pipe.transformer, twin.transformer
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(a is b for a, b in pairs)
    with pytest.raises(ValueError, match="must be accelerated"):
        tap_ext.stats(subject.pipe)


def test_every_step_is_timed_and_told_apart(comparison: Comparison, calls: list[None]) -> None:
    assert len(calls) == model_calls(STEPS, WINDOWS, REPEATS)
    for method in comparison.methods:
        assert len(method.seconds) == REPEATS
        assert len(method.full_ms) == REPEATS * method.full
        assert len(method.skip_ms) == REPEATS * (method.steps - method.full)
        inside = sum(method.full_ms) + sum(method.skip_ms)
        assert 0 < inside < 1000 * sum(method.seconds)
    for method in comparison.accelerated:
        assert statistics.median(method.skip_ms) < statistics.median(method.full_ms)


def test_clocks_measure_what_they_surround() -> None:
    class Sleeper(nn.Module):
        def forward(self, seconds: float) -> None:
            time.sleep(seconds)

    module, cpu = Sleeper(), torch.device("cpu")
    with wall_time(cpu) as seconds, call_times(module, cpu) as calls:
        module(0.01)
        time.sleep(0.05)
        module(0.03)
    module(0.0)  # no longer timed
    assert len(calls) == 2
    assert calls[0] >= 10
    assert calls[1] >= 30
    assert seconds[0] >= 0.09
    assert sum(calls) / 1000 <= seconds[0] - 0.05


def test_flops_are_those_of_the_layers_and_of_attention(subject: Subject) -> None:
    linear = {"untouched": 0, "skip": 0}
    kind = "untouched"
    pictures = len(subject.titles)

    def count(module: nn.Linear, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        linear[kind] += 2 * module.in_features * output.numel()

    pipe = subject.twin()
    # The hooks stand on modules that all twins share.
    layers = [module for module in pipe.transformer.modules() if isinstance(module, nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    subject.paint(pipe, 1, None)
    kind = "skip"
    tap_ext.accelerate(pipe, warmup=1, window=4, self_check=False)
    with around_calls(pipe.transformer, lambda: linear["skip"]) as counted:
        subject.paint(pipe, 4, None)
    skip = counted[-1][1] - counted[-1][0]
    for handle in handles:
        handle.remove()

    attention = BLOCKS * 2 * 2 * pictures * (TOKENS + CAPTION) ** 2 * WIDTH
    planes = 3
    gram = (planes + 1) * (planes + 2) // 2
    forecast = 2 * pictures * TOKENS * WIDTH * (gram + planes)
    flops = step_flops(subject)
    assert flops.untouched == linear["untouched"] + attention
    assert flops.skip == skip + forecast
    # A full step computes the probe twice: 6 * WIDTH modulations from WIDTH channels.
    assert flops.full == flops.untouched + 2 * pictures * WIDTH * 6 * WIDTH


def test_flops_ratio_of_a_run(subject: Subject, comparison: Comparison) -> None:
    flops = step_flops(subject)
    for method in comparison.accelerated:
        forecasts = STEPS - method.full + method.corrected
        cost = method.full * flops.full + forecasts * flops.skip
        assert method.flops_ratio == pytest.approx(STEPS * flops.untouched / cost)
        assert 1 < method.flops_ratio < STEPS / method.full
        assert 0 < method.corrected < method.full
    for method in comparison.fewer:
        assert method.flops_ratio == pytest.approx(STEPS / method.full)


def test_picture_metrics(comparison: Comparison) -> None:
    reference = pixels(comparison.untouched)
    assert comparison.untouched.psnr == []
    for method in comparison.methods[1:]:
        pairs = list(zip(pixels(method), reference, strict=True))
        wanted = [peak_signal_noise_ratio(b, a, data_range=1) for a, b in pairs]
        assert method.psnr == pytest.approx(wanted, abs=1e-4)
        wanted = [structural_similarity(a, b, data_range=1, channel_axis=-1) for a, b in pairs]
        assert method.ssim == pytest.approx(wanted, abs=1e-4)


def test_psnr_has_a_closed_form() -> None:
    grey = torch.full((2, 3, 4, 4), 0.5)
    off = grey + torch.tensor([0.1, 0.0]).reshape(2, 1, 1, 1)
    assert psnr(off, grey) == pytest.approx([20, float("inf")])


def test_ssim_has_a_closed_form() -> None:
    # Of two plain greys a, b: (2ab + C) / (a^2 + b^2 + C) with C = 0.01^2 at a range of 1.
    black = torch.zeros(1, 3, 12, 12)
    assert ssim(black + 0.1, black) == pytest.approx([1e-4 / (0.01 + 1e-4)], rel=1e-4)


def test_orders_are_those_named_in_the_trace(subject: Subject, comparison: Comparison) -> None:
    for method in (*comparison.accelerated, *comparison.paper):
        pipe = tap_ext.accelerate(subject.twin(), method.config, trace=True)
        subject.paint(pipe, STEPS, None)
        stats = tap_ext.stats(pipe)
        full = stats.models[0].branches[0].full_steps
        family = tap_ext.Config().family()
        counts = np.zeros((2, TOKENS, 3))
        for choice in stats.trace:
            distance = choice.step - max(step for step in full if step < choice.step)
            for sample, token in np.ndindex(2, TOKENS):
                taken = family[choice.rows.source[int(choice.index[sample, token])]]
                # At distance zero, and without an order, it reuses the last full step; and n
                # full steps before it allow no order above n - 1.
                moved = distance != getattr(taken, "shift", distance)
                known = sum(step < choice.step for step in full)
                order = min(getattr(taken, "order", 0), known - 1) if moved else 0
                counts[sample, token, order] += 1
        assert method.orders is not None
        assert method.orders.shape == (2, 12, 12, 3)
        shares = counts.reshape(2, 12, 12, 3) / (STEPS - method.full)
        np.testing.assert_allclose(method.orders.numpy(), shares, atol=1e-6)


def test_rows_and_table_agree(comparison: Comparison) -> None:
    rows = comparison.rows()
    assert [row["method"] for row in rows] == ["untouched"] + 2 * [
        "accelerated",
        "paper's setting",
        "fewer steps",
    ]
    assert [row["window"] for row in rows] == [None, 3, 3, None, 5, 5, None]
    base = statistics.median(comparison.untouched.seconds)
    for row, method in zip(rows, comparison.methods, strict=True):
        assert row["seconds"] == statistics.median(method.seconds)
        assert row["wall_clock_ratio"] == pytest.approx(base / row["seconds"])
        assert row["psnr"] == (statistics.fmean(method.psnr) if method.psnr else None)
    lines = table(rows).splitlines()
    assert len({len(line) for line in lines[:9]}) == 1
    assert lines[3].startswith("accelerated, window 3")
    cells = lines[3].split()
    assert cells[3:6] == [str(comparison.accelerated[0].full), "of", str(STEPS)]
    assert cells[6] == f"{rows[1]['flops_ratio']:.2f}x"


def panels(comparison: Comparison, file: Path) -> Any:
    """A function that cuts panel (column, row) out of the written picture."""
    layout = picture._Layout(comparison)
    sheet = imread(file)
    assert sheet.shape[:2] == (layout.height, layout.width)
    width, height = layout.panel

    def cut(x: int, row: int) -> Any:
        y = layout.rows[row]
        return sheet[y : y + height, x : x + width, :3]

    return layout, cut


def test_the_picture_shows_the_pictures(comparison: Comparison, tmp_path: Path) -> None:
    file = tmp_path / "demo.png"
    picture.draw(comparison).save(file)
    layout, panel = panels(comparison, file)
    columns = [(x, i, WINDOWS.index(5)) for i, x in enumerate(layout.pictures)]
    columns += [(x, 0, column) for column, x in enumerate(layout.windows)]
    assert len(columns) == 4
    for x, i, window in columns:
        for row, method in ((1, comparison.accelerated[window]), (2, comparison.fewer[window])):
            shown = panel(x, row)
            squares = shown.reshape(48, 4, 48, 4, 3)
            assert (squares == squares[:, :1, :, :1]).all(), "enlarged in whole pixels"
            assert np.abs(squares[:, 0, :, 0] - pixels(method)[i]).max() <= 1.01 / 255
        assert all(np.ptp(panel(x, row)) > 0.1 for row in range(1, 6)), "a panel is blank"
    for i, x in enumerate(layout.pictures):
        shown = panel(x, 0)[::4, ::4]
        assert np.abs(shown - pixels(comparison.untouched)[i]).max() <= 1.01 / 255


def test_a_run_without_skip_steps(subject: Subject, tmp_path: Path) -> None:
    result = compare(subject, 3, (4,), lambda: None, repeats=1)
    assert result.accelerated[0].orders is None
    assert result.rows()[1]["skip_step_ms"] is None
    assert result.rows()[1]["psnr"] is None, "infinite: all steps are full"
    picture.draw(result).save(tmp_path / "demo.png")
    layout, panel = panels(result, tmp_path / "demo.png")
    assert np.ptp(panel(layout.pictures[0], 5)) == 0


def test_progress_without_tqdm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with progress(3) as advance:
        for _ in range(3):
            advance()
    shown = capsys.readouterr().err.split("\r")
    assert [line.strip() for line in shown if line] == [
        f"tap_ext demo: {percent} %" for percent in (33, 66, 100)
    ]


def test_nothing_half_written_is_left(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "demo.png"
    file.write_text("old")
    sheet = picture.draw(comparison)

    def break_off(self: Figure, path: Path, **_: Any) -> None:
        path.write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", break_off)
    with pytest.raises(OSError, match="disk full"):
        sheet.save(file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]

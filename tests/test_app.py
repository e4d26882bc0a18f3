"""The page: what its handlers give, and the page itself in a browser where there is one."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("matplotlib")

import tap_ext
from tap_ext.app.compare import GAIN, SHOWN, Comparer, Frame
from tap_ext.cli import main
from tap_ext.demo import bundled
from tap_ext.evaluate.models import open_model
from tap_ext.plots.orders import orders
from tap_ext.plots.style import order_colours
from tests.demo_models import save_random_bundle, save_random_checkpoint

STEPS, BUDGET = 12, 4


@pytest.fixture(scope="module")
def comparer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comparer]:
    folder = tmp_path_factory.mktemp("model")
    save_random_bundle(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled, "MODEL", folder)
        yield Comparer(open_model("bundled", torch.device("cpu")))


@pytest.fixture(scope="module")
def frames(comparer: Comparer) -> list[Frame]:
    return list(comparer.compare("sea", 3, STEPS, "balanced", BUDGET))


def enlarged(tokens: torch.Tensor) -> np.ndarray[Any, Any]:
    pixels = (tokens[0].permute(1, 2, 0) * 255).round().byte().numpy()
    times = SHOWN // pixels.shape[0]
    return pixels.repeat(times, 0).repeat(times, 1)


def test_both_are_made_step_by_step(frames: list[Frame]) -> None:
    pairs = [(frame.untouched.step, frame.accelerated.step) for frame in frames]
    first = [(step, 0) for step in range(1, STEPS + 1)]
    second = [(STEPS, step) for step in range(1, STEPS + 1)]
    assert pairs == [*first, (STEPS, 0), *second, (STEPS, STEPS)]
    assert [frame.untouched.done for frame in frames] == [False] * STEPS + [True] * (STEPS + 2)
    assert [frame.accelerated.done for frame in frames] == [False] * (2 * STEPS + 1) + [True]
    shown = [frame.untouched.picture for frame in frames[:STEPS]]
    assert all(one is not None for one in shown)
    assert len({one.tobytes() for one in shown if one is not None}) == STEPS


def test_the_results_are_those_of_the_pipeline(frames: list[Frame], comparer: Comparer) -> None:
    last = frames[-1]
    plain = bundled.load_pipeline()
    wanted = enlarged(bundled.generate(plain, ["sea"], STEPS, 3))
    assert np.array_equal(last.untouched.picture, wanted)
    fast = tap_ext.accelerate(bundled.load_pipeline(), preset="balanced", full_steps=BUDGET)
    made = enlarged(bundled.generate(fast, ["sea"], STEPS, 3))
    assert np.array_equal(last.accelerated.picture, made)
    full = tap_ext.stats(fast).models[0].branches[0].full_steps
    assert last.accelerated.full_steps == full
    assert str(last.accelerated).endswith(f"{BUDGET} of {STEPS} steps full")
    assert str(last.untouched).endswith(f"{STEPS} of {STEPS} steps full")
    apart = np.abs(wanted.astype(int) - made)
    assert np.array_equal(last.difference, (apart * GAIN).clip(0, 255))
    assert last.psnr == pytest.approx(10 * np.log10(255**2 / (apart**2).mean()))
    # the model that is compared stays as it is
    assert np.array_equal(
        enlarged(bundled.generate(comparer.model.pipe, ["sea"], STEPS, 3)), wanted
    )


def test_the_overlay_is_the_order_of_each_token(frames: list[Frame]) -> None:
    outcome = frames[-1].outcome
    assert outcome is not None
    assert sorted([*outcome.full_steps, *outcome.choices]) == list(range(STEPS))
    for step, choice in outcome.choices.items():
        shown, line = outcome.overlay(step)
        wanted = orders(choice)[-1].reshape(12, 12)
        colours = order_colours(3)[wanted.numpy()]
        grey = outcome.picture.mean(-1, keepdims=True) / 255
        laid = 0.4 * grey + 0.6 * colours.repeat(32, 0).repeat(32, 1)
        assert np.abs(shown / 255 - laid).max() < 0.01
        share = float((wanted == int(wanted[0, 0])).float().mean())
        assert f"order {int(wanted[0, 0])}: {share:.0%}" in line
    picture, line = outcome.overlay(outcome.full_steps[0])
    assert np.array_equal(picture, outcome.picture)
    assert "ran in full" in line


@pytest.mark.parametrize(
    ("prompt", "preset", "budget", "message"),
    [
        (" ", "fast", None, "prompt must not be empty"),
        ("a submarine", "fast", None, "got 'a submarine'"),
        ("sea", "best", None, "preset must be one of"),
        ("sea", "fast", 0, "full_steps"),
    ],
)
def test_what_cannot_be_made_is_refused(
    comparer: Comparer, prompt: str, preset: str, budget: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        next(comparer.compare(prompt, 0, STEPS, preset, budget))


def test_what_the_model_raises_arrives(comparer: Comparer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of everything")

    monkeypatch.setattr(bundled, "generate", fail)
    with pytest.raises(RuntimeError, match="out of everything"):
        next(comparer.compare("sea", 0, STEPS, "fast"))


def test_pauses_leave_looks_out_but_not_the_results(comparer: Comparer) -> None:
    frames = list(Comparer(comparer.model, pause=1e9).compare("sea", 3, STEPS, "fast"))
    seen = [(frame.untouched.step, frame.accelerated.step) for frame in frames]
    assert seen == [(1, 0), (STEPS, 0), (STEPS, 1), (STEPS, STEPS)]
    assert frames[-1].psnr is not None


def test_nobody_looking_ends_the_run(comparer: Comparer) -> None:
    before = threading.active_count()
    looking = comparer.compare("sea", 0, 1000, "fast")
    next(looking)
    assert threading.active_count() == before + 1
    looking.close()  # joins the thread, which gives up at its next step
    assert threading.active_count() == before


def test_a_checkpoint_of_one_s_own(tmp_path: Path) -> None:
    save_random_checkpoint(tmp_path / "flux")
    extra = {"height": 32, "width": 32}
    cpu = torch.device("cpu")
    model = open_model(str(tmp_path / "flux"), cpu, torch.float32, extra=extra)
    *_, last = Comparer(model).compare("a b", 0, 6, "quality", 3)
    assert last.accelerated.picture is not None
    assert last.accelerated.picture.shape == (384, 384, 3)
    assert last.outcome is not None
    assert last.outcome.overlay(4)[0].shape == (384, 384, 3)


def test_without_gradio_it_says_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "app needs gradio, which pip install" in error
    assert ".[app]" in error


def test_the_handlers_fill_every_place_of_the_page(comparer: Comparer) -> None:
    pytest.importorskip("gradio")
    from tap_ext.app import page

    shown = list(page.show(comparer, "sea", 3.0, float(STEPS), "balanced", 0.0))
    assert {len(places) for places in shown} == {7}
    assert "x as fast" in shown[-1][4]
    assert shown[-1][5].endswith(" dB**")
    picture, line, slider = page.refresh(shown[-1][6], 99)
    assert picture.shape == (384, 384, 3)
    assert line.startswith(f"**step {STEPS - 1}")
    assert (slider["maximum"], slider["value"]) == (STEPS - 1, STEPS - 1)
    assert page.refresh(None, 3)[0] is None
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        next(page.show(comparer, "sea", -1, STEPS, "fast", 0))


def test_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model: press the button, wait for the result, move the slider."""
    gradio = pytest.importorskip("gradio")
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or pytest.skip("no chromium on the path")
    from tap_ext.app import page

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setattr(bundled, "MODEL", Path(bundled.__file__).parent / "model")
    built = page.build(Comparer(open_model("bundled", torch.device("cpu")), pause=0.4))
    theme = gradio.themes.Default(font="sans-serif", font_mono="monospace")
    _, url, _ = built.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, theme=theme
    )
    target = Path(os.environ.get("TAP_EXT_SCREENSHOT", tmp_path / "app.png"))
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
            )
            tab = browser.new_page(viewport={"width": 1500, "height": 820})
            errors: list[str] = []
            tab.on("pageerror", lambda error: errors.append(str(error)))
            tab.goto(url)
            tab.click("#generate")
            tab.wait_for_selector("#apart:has-text('dB')", timeout=120_000)
            tab.wait_for_selector("#over:has-text('step 25')", timeout=30_000)
            tab.fill("#step input[type=number]", "14")
            tab.press("#step input[type=number]", "Enter")
            tab.wait_for_selector("#over:has-text('step 14')", timeout=30_000)
            tab.wait_for_timeout(500)
            tab.screenshot(path=str(target))
            assert "of 50 steps full" in tab.inner_text("#after")
            assert tab.locator("img").count() >= 4
            assert errors == []
            browser.close()
    finally:
        built.close()
    assert target.stat().st_size > 20_000

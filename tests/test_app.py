"""The page: what its handlers give, and the page itself in a browser where there is one."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("matplotlib")

import tap_ext
from tap_ext.app.compare import GAIN, SHOWN, Comparer, Frame, Outcome
from tap_ext.app.looks import Looks
from tap_ext.cli import main
from tap_ext.demo import bundled
from tap_ext.evaluate.models import open_model
from tap_ext.plots.orders import orders
from tap_ext.plots.style import order_colours
from tap_ext.predictors import candidates
from tap_ext.predictors import rows as rows_of
from tap_ext.report import Choice
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


def test_what_is_done_once_is_not_the_untouched_run_s_time(comparer: Comparer) -> None:
    asked: list[int] = []

    def generate(pipe: Any, prompts: Any, seeds: Any, steps: int) -> torch.Tensor:
        asked.append(steps)
        return comparer.model.generate(pipe, prompts, seeds, steps)

    fresh = Comparer(replace(comparer.model, generate=generate), pause=1e9)
    for _ in range(2):
        list(fresh.compare("sea", 0, 3, "quality"))
    assert asked == [2, 3, 3, 3, 3]


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
    size = {"height": 16, "width": 32}
    cpu = torch.device("cpu")
    model = open_model(str(tmp_path / "flux"), cpu, torch.float32, extra=size)
    frames = list(Comparer(model, **size).compare("a b", 0, 6, "quality", 3))
    looks = [frame.untouched.picture for frame in frames[:6]]
    assert [look.shape[:2] for look in looks if look is not None] == [(192, 384)] * 6
    last = frames[-1]
    assert last.untouched.picture is not None and last.accelerated.picture is not None
    assert last.accelerated.picture.shape == (192, 384, 3)
    assert np.abs(looks[-1].astype(int) - last.untouched.picture).max() <= 3  # its last step
    assert last.outcome is not None
    assert last.outcome.overlay(4)[0].shape == (192, 384, 3)
    # and what is made is what is made when nobody looks
    made = model.generate(model.twin(), ["a b"], [0], 6)[0].permute(1, 2, 0)
    wanted = (made * 255).round().byte().numpy().repeat(12, 0).repeat(12, 1)
    assert np.array_equal(last.untouched.picture, wanted)


def test_of_a_video_the_middle_frame_is_overlaid() -> None:
    """24 tokens of 3 frames; in the middle one the first token took order 0."""
    index = torch.zeros(1, 24, dtype=torch.int32)
    rows = rows_of(candidates(), (2.0, 1.0, 0.0), 4.0, planes=3)
    index[0, 8], index[0, 0] = len(rows) - 1, 1
    choice = Choice("0", 4, index, rows, torch.zeros(1, 24))
    picture = np.full((20, 40, 3), 100, np.uint8)
    shown, line = Outcome(picture, (0,), {4: choice}, frames=3).overlay(4)
    wanted = order_colours(3)[orders(choice)[0, 8:16].reshape(2, 4).numpy()]
    laid = 0.4 * 100 / 255 + 0.6 * wanted.repeat(10, 0).repeat(10, 1)
    assert np.abs(shown / 255 - laid).max() < 0.01
    assert "13%" in line or "12%" in line  # one of eight, not of twenty-four


def test_looks_are_not_counted_in_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)

    def preview(_: torch.Tensor) -> torch.Tensor:
        clock.now += 5
        return torch.zeros(3, 2, 2)

    looks = Looks(preview, steps=40, pause=1.0)
    looks.begin()
    for _ in range(40):
        clock.now += 2
        looks.see(torch.zeros(1))
    looks.end(torch.zeros(3, 2, 2))
    sides = [looks.queue.get() for _ in range(looks.queue.qsize())]
    # a look of 5 seconds, then 45 without one
    assert [(side.step, side.seconds) for side in sides] == [(1, 2), (24, 48), (40, 80)]
    assert [side.done for side in sides] == [False, False, True]


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


@pytest.fixture
def served(comparer: Comparer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install tap_ext[app]")
    from tap_ext.app import page

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    built = page.build(comparer, STEPS)
    yield page.serve(built)
    built.close(verbose=False)


def test_over_http(served: str, frames: list[Frame], tmp_path: Path) -> None:
    """What a browser would be sent, by gradio's own client: every look, the result, errors."""
    from gradio_client import Client
    from gradio_client.exceptions import AppError
    from PIL import Image

    client = Client(served, verbose=False, download_files=str(tmp_path))
    job = client.submit("sea", 3, STEPS, "balanced", BUDGET, api_name="/compare")
    job.result(timeout=120)
    sent = job.outputs()
    assert len(sent) == len(frames)
    _, after, apart, *lines = sent[-1]
    before = sent[STEPS][0]  # later it is not sent again
    assert np.array_equal(np.asarray(Image.open(before)), frames[-1].untouched.picture)
    assert np.array_equal(np.asarray(Image.open(after)), frames[-1].accelerated.picture)
    assert np.array_equal(np.asarray(Image.open(apart)), frames[-1].difference)
    assert f"{BUDGET} of {STEPS} steps full" in lines[1] and "dB" in lines[2]
    shown, line, *_ = client.predict(STEPS - 1, api_name="/order")
    assert frames[-1].outcome is not None
    wanted, words = frames[-1].outcome.overlay(STEPS - 1)
    assert line == f"**{words}**"
    assert np.array_equal(np.asarray(Image.open(shown)), wanted)
    for given, said in (
        (("a submarine", 0, STEPS, "fast", 0), "submarine"),
        (("sea", 0, 1, "fast", 0), "less than minimum value 2"),
        (("sea", None, STEPS, "fast", 0), "seed must be 0 or more"),
    ):
        with pytest.raises((AppError, ValueError), match=said):
            client.predict(*given, api_name="/compare")


def test_the_command_serves_until_it_is_interrupted(
    comparer: Comparer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install tap_ext[app]")
    import socket
    import urllib.request

    seen = []

    class Interrupted:
        def wait(self) -> None:
            address = capsys.readouterr().out.strip()
            seen.append((address, urllib.request.urlopen(address, timeout=30).status))
            raise KeyboardInterrupt

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["app", f"--port={port}"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"127.0.0.1:{port}: Address already in use" in error
        assert error.endswith("--host and --port choose another one\n")
    assert main(["app", "--host=192.0.2.1", f"--port={port}"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"192.0.2.1:{port}: " in error
    monkeypatch.setattr("tap_ext.cli.app.threading", SimpleNamespace(Event=Interrupted))
    assert main(["app", f"--port={port}"]) == 0
    assert seen == [(f"http://127.0.0.1:{port}", 200)]
    with pytest.raises(OSError):
        urllib.request.urlopen(seen[0][0], timeout=5)


def test_in_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped model: press the button, wait for the result, move the slider."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install tap_ext[app]")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or pytest.skip("no chromium on the path")
    from tap_ext.app import page

    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setattr(bundled, "MODEL", Path(bundled.__file__).parent / "model")
    built = page.build(Comparer(open_model("bundled", torch.device("cpu")), pause=0.4))
    url = page.serve(built)
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

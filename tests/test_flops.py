"""FLOPs: the paper's column, a count by hand, and what memoising saves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tap_ext.cli import main
from tap_ext.config import Config
from tap_ext.flops import WORKLOADS, Cost, Size, count, looked_back

PAPER = {
    # arXiv 2603.03792: model, window -> TFLOP untouched and accelerated, tolerance
    "flux.1-dev": (8, 3726.87, 596.99, 0.005),
    "qwen-image": (5, 12917.56, 3100.76, 0.03),
    "hunyuan-video": (6, 5481.50, 1101.47, 0.03),
}


@pytest.fixture(scope="module")
def costs() -> dict[str, Cost]:
    return {
        name: count(WORKLOADS[name], config=Config(window=window))
        for name, (window, *_) in PAPER.items()
    }


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_column_comes_out(costs: dict[str, Cost], name: str) -> None:
    _, untouched, accelerated, tolerance = PAPER[name]
    cost = costs[name]
    assert cost.untouched / 1e12 == pytest.approx(untouched, rel=tolerance)
    assert cost.accelerated_rerun / 1e12 == pytest.approx(accelerated, rel=tolerance)
    assert cost.accelerated / 1e12 == pytest.approx(accelerated, rel=tolerance)
    assert cost.accelerated < cost.accelerated_rerun


def test_a_full_step_of_flux_by_hand(costs: dict[str, Cost]) -> None:
    """Two operations per multiply-add of every linear layer and of both products of attention."""
    image, text, width = 4096, 512, 3072
    tokens = image + text
    attention = 2 * 2 * tokens * tokens * width
    double = 2 * (4 + 8) * width * width * tokens + attention + 2 * 2 * 6 * width * width
    single = 2 * (3 + 4 + 5) * width * width * tokens + attention + 2 * 3 * width * width
    embedders = 2 * image * 64 * width + 2 * text * 4096 * width
    head = 2 * image * width * 64 + 2 * 2 * width * width
    time = 2 * (2 * 256 * width + 768 * width + 3 * width * width)
    assert costs["flux.1-dev"].probe == 2 * 6 * width * width
    assert costs["flux.1-dev"].full == 19 * double + 38 * single + embedders + head + time


def test_a_skip_step_of_flux_by_hand(costs: dict[str, Cost]) -> None:
    """The image embedder, time and guidance, one modulation for the probe, the head."""
    image, width = 4096, 3072
    time = 2 * (2 * 256 * width + 2 * width * width)
    probe = 2 * 6 * width * width
    head = 2 * image * width * 64 + 2 * 2 * width * width
    cost = costs["flux.1-dev"]
    assert cost.skip == 2 * image * 64 * width + time + probe + head
    texts = 2 * 512 * 4096 * width + 2 * (768 * width + width * width)
    assert cost.skip_rerun - cost.skip == texts


def test_steps_and_branches_multiply(costs: dict[str, Cost]) -> None:
    cost = costs["qwen-image"]
    assert (cost.steps, cost.branches, cost.full_steps) == (50, 2, 12)
    assert cost.untouched == 2 * 50 * cost.full
    assert cost.looked_back == 9  # all but the first three, which nothing was skipped before
    assert cost.accelerated == 2 * (12 * (cost.full + cost.probe) + (38 + 9) * cost.skip)


def test_a_run_that_is_not_corrected_looks_back_at_nothing() -> None:
    config = Config(window=2, warmup=1, corrector=False, blend=False)
    cost = count(WORKLOADS["flux.1-schnell"], config=config)
    assert cost.looked_back == 0
    assert cost.accelerated == 2 * (cost.full + cost.probe) + 2 * cost.skip


@pytest.mark.parametrize(
    ("full", "steps", "expected"),
    [([0, 1, 2, 5], 8, 1), ([0, 3, 7], 8, 1), ([0, 3, 6], 8, 2), ([0], 8, 0), ([], 8, 0)],
)
def test_what_looks_back(full: list[int], steps: int, expected: int) -> None:
    assert looked_back(full, steps) == expected


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="height must be a multiple of 16, got 1000"):
        count(WORKLOADS["flux.1-dev"], Size(1000, 1024))
    video = WORKLOADS["hunyuan-video"]
    with pytest.raises(ValueError, match=r"frames must be 4 k \+ 1, got 16"):
        count(video, replace(video.size, frames=16))


def test_the_command_prints_what_was_counted(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    command = ("flops", "flux.1-schnell", "--steps", "4", "--warmup", "1", "--window", "2")
    assert main([*command, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["name"], data["steps"], data["full_steps"]) == ("flux.1-schnell", 4, 2)
    assert data["untouched"] == 4 * data["full"]
    assert data["looked_back"] == 1
    assert data["accelerated"] == 2 * (data["full"] + data["probe"]) + 3 * data["skip"]
    assert main(command) == 0
    assert "2 of 4 steps full" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flops", "flux.9"), "flux.1-dev"),
        (("flops", "flux.1-dev", "--height", "1000"), "multiple of 16"),
        (("flops", "flux.1-dev", "--steps", "0"), "must be a whole number"),
    ],
)
def test_a_wrong_argument_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1

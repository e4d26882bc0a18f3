"""Metrics with weights: what is missing is named in one line, and what is there is called right."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tap_ext.cli import main
from tap_ext.evaluate import metrics, weighted
from tap_ext.evaluate.metrics import METRICS
from tests.evaluate.conftest import Run

WEIGHTED = ("lpips", "clip_score", "image_reward", "vqa_score")


def _install(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """A module of this name that importlib finds."""
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    for load in (weighted._lpips, weighted._clip, weighted._image_reward, weighted._vqa):
        load.cache_clear()


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_missing_package_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda _: None)
    out = tmp_path / "out"
    assert main(["evaluate", f"--metrics={name}", f"--out={out}"]) == 1
    shown = capsys.readouterr().err
    assert METRICS[name].needs in shown and "install" in shown and shown.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("name", WEIGHTED)
def test_missing_weights_are_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda _: object())
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", f"--metrics={name}", f"--out={tmp_path / 'out'}"])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert f"needs its weights at {weighted.weights_of(name)}" in shown
    assert str(weighted.weights_of(name)).startswith(str(tmp_path))
    assert "nothing is downloaded" in shown and shown.count("\n") == 1


def test_they_are_not_measured_unasked() -> None:
    assert {metric.name for metric in metrics.choose(None)}.isdisjoint(WEIGHTED)


def test_lpips_gets_pictures_between_minus_one_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Distance(torch.nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            assert net == "alex" and not verbose

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a - b).mean((1, 2, 3), keepdim=True)

    _install(monkeypatch, "lpips", LPIPS=Distance)
    black = torch.zeros(2, 3, 8, 8)
    pictures = torch.stack([black[0] + 1, black[0] + 0.25])
    assert METRICS["lpips"].of(pictures, black) == pytest.approx([2.0, 0.5])


def test_clip_score_is_the_cosine_in_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = {"up": [0.0, 1.0], "right": [1.0, 0.0], "left": [-1.0, 0.0]}

    class Loaded(torch.nn.Module):
        @classmethod
        def from_pretrained(cls, name: str, local_files_only: bool, **more: bool) -> Loaded:
            assert name == weighted.CLIP and local_files_only
            assert more == ({"use_safetensors": True} if cls is Loaded else {})
            return cls()

        def forward(self, images: Any, texts: Any) -> Any:
            seen = torch.tensor(
                [[float(i[..., 0].mean()), float(i[..., 1].mean())] for i in images]
            )
            return types.SimpleNamespace(image_embeds=seen, text_embeds=torch.tensor(texts))

    class Processor(Loaded):
        def __call__(self, text: Any, images: Any, **_: Any) -> Any:
            assert images[0].dtype == "uint8" and images[0].shape == (4, 4, 3)
            return {"images": images, "texts": [embeddings[word] for word in text]}

    _install(monkeypatch, "transformers", CLIPModel=Loaded, CLIPProcessor=Processor)
    red = torch.zeros(3, 4, 4)
    red[0] = 1
    yellow = red.clone()
    yellow[1] = 1
    pictures = torch.stack([red, red, red, yellow])
    found = METRICS["clip_score"].of(pictures, ["right", "up", "left", "up"])
    assert found == pytest.approx([100, 0, 0, 100 / 2**0.5])


def test_scores_by_prompt_are_stored_for_every_method(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reward:
        def score(self, prompt: str, image: Any) -> float:
            return len(prompt) + image.getpixel((0, 0))[0] / 1000

    def load(name: str, device: str, download_root: str) -> Reward:
        assert name == "ImageReward-v1.0" and Path(download_root).is_dir()
        return Reward()

    _install(monkeypatch, "ImageReward", load=load)
    place = weighted.weights_of("image_reward")
    place.parent.mkdir(parents=True)
    place.touch()
    out = tmp_path / "out"
    arguments = ("--methods=steps", "--full-steps=4", "--seeds=2", "--against=steps")
    rows = run(out, *arguments, "--metrics=image_reward")
    assert [row["method"] for row in rows] == ["untouched", "steps"]
    assert all(row["image_reward"] > 2 for row in rows), "also of the untouched pictures"
    assert (
        run(out, *arguments, "--metrics=image_reward")[0]["image_reward"] == rows[0]["image_reward"]
    )


def test_vqa_score_is_in_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(model: str, device: str) -> Any:
        return lambda images, texts: torch.tensor([[len(texts[0]) / 100]])

    _install(monkeypatch, "t2v_metrics", VQAScore=make)
    assert METRICS["vqa_score"].of(torch.zeros(2, 3, 4, 4), ["ab", "abc"]) == pytest.approx([2, 3])


def test_every_frame_of_a_video_has_its_prompt() -> None:
    seen: list[str] = []

    def of(pictures: Tensor, prompts: Any) -> list[float]:
        seen.extend(prompts)
        return [float(i) for i in range(len(pictures))]

    metric = metrics.Metric("m", "M", 1, True, "torch", of, by_prompt=True)
    videos = torch.zeros(2, 3, 3, 4, 4)
    assert metrics.measure(metric, videos, videos, ["a", "b"]) == [1.0, 4.0]
    assert seen == ["a"] * 3 + ["b"] * 3

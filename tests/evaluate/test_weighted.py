"""Metrics with weights: what is missing is named in one line, and what is there is called right."""

from __future__ import annotations

import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg
from torch import Tensor

from tap_ext.cli import main
from tap_ext.evaluate import metrics, weighted
from tap_ext.evaluate.metrics import METRICS
from tests.evaluate.conftest import Run

WEIGHTED = ("lpips", "fid", "clip_score", "image_reward", "vqa_score")


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
    loaders = (
        weighted._lpips,
        weighted._fid,
        weighted._clip,
        weighted._image_reward,
        weighted._vqa,
    )
    for load in loaders:
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


class _Colours(torch.nn.Module):
    """Stands for the Inception network: two features, the means of red and green."""

    num_features = 2

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        return images[:, :2].float().mean((2, 3)) / 255


def _with_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=_Colours())
    monkeypatch.setattr(weighted, "_fid", lambda: distance)


def _frechet(a: Tensor, b: Tensor) -> float:
    """|m - n|^2 + tr(C + D - 2 (C D)^(1/2)) of two sets of features, in numpy."""
    m, n = a.double().numpy(), b.double().numpy()
    c, d = np.cov(m, rowvar=False), np.cov(n, rowvar=False)
    root = linalg.sqrtm(c @ d).real
    return float(((m.mean(0) - n.mean(0)) ** 2).sum() + np.trace(c + d - 2 * root))


def test_fid_is_the_distance_of_two_gaussians(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_colours(monkeypatch)
    draw = torch.Generator().manual_seed(0)
    sets = [torch.randint(0, 256, (n, 3, 5, 7), generator=draw).byte() for n in (9, 6)]
    sets[1] = sets[1] // 2
    for _ in range(2):  # nothing is left of the first time
        found = weighted.fid(iter(sets[0]), iter(sets[1]))
        expected = _frechet(_Colours()(sets[0]), _Colours()(sets[1]))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
    with pytest.raises(ValueError, match="fid needs two pictures and more of each method, got 1"):
        weighted.fid(iter(sets[0][:1]), iter(sets[1]))


def test_fid_is_of_the_pictures_that_are_kept(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    _with_colours(monkeypatch)
    monkeypatch.setattr(metrics.Metric, "lacks", None)
    out = tmp_path / "out"
    arguments = ("--methods=steps", "--full-steps=4", "--seeds=4", "--against=steps")
    rows = run(out, *arguments, "--metrics=psnr,fid")
    assert rows[0]["fid"] is None
    features = {}
    for name in ("untouched", "steps"):
        files = sorted((out / "pictures").glob(f"*/{name}-*/*.png"))
        assert len(files) == 4
        images = [torch.from_numpy(np.array(Image.open(f))).movedim(-1, 0) for f in files]
        features[name] = _Colours()(torch.stack(images))
    expected = _frechet(features["steps"], features["untouched"])
    assert rows[1]["fid"] == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert rows[1]["fid_diff"] is rows[1]["fid_se"] is None


def test_vbench_is_another_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--metrics=vbench", f"--out={tmp_path / 'out'}"])
    shown = capsys.readouterr().err
    assert "measured by its own command, on the videos that tap_ext generate" in shown


def test_every_frame_of_a_video_has_its_prompt() -> None:
    seen: list[str] = []

    def of(pictures: Tensor, prompts: Any) -> list[float]:
        seen.extend(prompts)
        return [float(i) for i in range(len(pictures))]

    metric = metrics.Metric("m", "M", 1, True, "torch", of, by_prompt=True)
    videos = torch.zeros(2, 3, 3, 4, 4)
    assert metrics.measure(metric, videos, videos, ["a", "b"]) == [1.0, 4.0]
    assert seen == ["a"] * 3 + ["b"] * 3

"""Metrics of trained networks: used where package and weights are on disk, never downloaded."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tap_ext.evaluate.pictures import pixels

__all__ = ["clip_score", "fid", "image_reward", "lpips", "vqa_score", "weights_of"]

CLIP = "openai/clip-vit-base-patch16"
VQA = "clip-flant5-xxl"
ALEXNET = "alexnet-owt-7be5be79.pth"
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"


def lpips(pictures: Tensor, reference: Tensor) -> list[float]:
    """LPIPS with AlexNet (Zhang et al., 2018) per picture; both (B, 3, H, W) in [0, 1]."""
    values: Tensor = _lpips()(2 * pictures - 1, 2 * reference - 1)
    return [float(value) for value in values.reshape(-1)]


def clip_score(pictures: Tensor, prompts: Sequence[str]) -> list[float]:
    """CLIPScore (Hessel et al., 2021) per picture: 100 times the cosine to its prompt, at least 0.

    CLIP ViT-B/16.
    """
    model, processor = _clip()
    images = [pixels(picture) for picture in pictures]
    given = processor(
        text=list(prompts), images=images, return_tensors="pt", padding=True, truncation=True
    )
    with torch.no_grad():
        made = model(**given)
    cosine = torch.cosine_similarity(made.image_embeds, made.text_embeds)
    return [max(100 * float(value), 0.0) for value in cosine]


def image_reward(pictures: Tensor, prompts: Sequence[str]) -> list[float]:
    """ImageReward (Xu et al., 2023) per picture."""
    model = _image_reward()
    pairs = zip(pictures, prompts, strict=True)
    return [float(model.score(prompt, _image(picture))) for picture, prompt in pairs]


def vqa_score(pictures: Tensor, prompts: Sequence[str]) -> list[float]:
    """VQAScore (Lin et al., 2024) per picture, in percent, by CLIP-FlanT5-XXL."""
    model = _vqa()
    pairs = zip(pictures, prompts, strict=True)
    found = [model(images=[_image(picture)], texts=[prompt]) for picture, prompt in pairs]
    return [100 * float(value.reshape(-1)[0]) for value in found]


def fid(pictures: Iterable[Tensor], reference: Iterable[Tensor]) -> float:
    """FID (Heusel et al., 2017) of all pictures to all references, each (3, H, W) bytes.

    The 2048 features of the Inception network of 2015, by torchmetrics. It needs thousands of
    pictures to mean much: with n of them the covariance has rank n - 1.

    Raises:
        ValueError: there are fewer than two of either.
    """
    distance = _fid()
    distance.reset()
    for images, real in ((reference, True), (pictures, False)):
        count = 0
        for image in images:
            distance.update(image[None], real=real)
            count += 1
        if count < 2:
            raise ValueError(f"fid needs two pictures and more of each method, got {count}")
    return float(distance.compute())


def weights_of(name: str) -> Path:
    """Where the weights of a metric are looked for, without touching the network."""
    cache = Path(os.environ.get("HF_HUB_CACHE", _home("HF_HOME", "huggingface") / "hub"))
    known = {
        "lpips": _home("TORCH_HOME", "torch") / "hub" / "checkpoints" / ALEXNET,
        "clip_score": cache / f"models--{CLIP.replace('/', '--')}",
        "fid": _home("TORCH_HOME", "torch") / "hub" / "checkpoints" / INCEPTION,
        "image_reward": Path.home() / ".cache" / "ImageReward" / "ImageReward.pt",
        "vqa_score": cache / f"models--zhiqiulin--{VQA}",
    }
    return known[name]


def _home(variable: str, folder: str) -> Path:
    return Path(os.environ.get(variable, Path.home() / ".cache" / folder))


@functools.cache
def _lpips() -> Any:
    return importlib.import_module("lpips").LPIPS(net="alex", verbose=False).eval()


@functools.cache
def _fid() -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature_extractor_weights_path=str(weights_of("fid")))


@functools.cache
def _clip() -> tuple[Any, Any]:
    transformers = importlib.import_module("transformers")
    model = transformers.CLIPModel.from_pretrained(
        CLIP, local_files_only=True, use_safetensors=True
    )
    return model.eval(), transformers.CLIPProcessor.from_pretrained(CLIP, local_files_only=True)


@functools.cache
def _image_reward() -> Any:
    folder = weights_of("image_reward").parent
    load = importlib.import_module("ImageReward").load
    return load("ImageReward-v1.0", device="cpu", download_root=str(folder))


@functools.cache
def _vqa() -> Any:
    return importlib.import_module("t2v_metrics").VQAScore(model=VQA, device="cpu")


def _image(picture: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray(pixels(picture))

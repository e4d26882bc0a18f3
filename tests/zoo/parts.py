"""Small random components, and what pipelines are called with."""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tests.zoo.base import noise

STEPS: dict[str, Any] = {"num_inference_steps": 8, "output_type": "latent"}
"""How nearly every pipeline is called."""

PARTIAL: dict[str, Any] = {**STEPS, "num_inference_steps": 10, "strength": 0.8}
"""Eight steps are left of ten where a picture is given."""

SIZE: dict[str, Any] = {"height": 20, "width": 12}
"""Pixels; 5 x 3 tokens where the autoencoder halves and the transformer takes patches of 2 x 2."""


def build(name: str, seed: int = 0, **config: Any) -> Any:
    """A model of diffusers whose every parameter is random, zero-initialised ones too."""
    torch.manual_seed(seed)
    return randomised(getattr(diffusers, name)(**config))


def randomised(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model.eval()


def assemble(name: str, **components: Any) -> Any:
    """A pipeline; what it asks for and is not given here, such as its text encoders, is None."""
    cls: type[DiffusionPipeline] = getattr(diffusers, name)
    asked = {
        name: None
        for name, parameter in inspect.signature(cls.__init__).parameters.items()
        if name != "self" and parameter.default is inspect.Parameter.empty
    }
    pipe = cls(**{**asked, **components})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flow(**config: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config})


def seeded(**arguments: Any) -> dict[str, Any]:
    """For pipelines that sample their autoencoder without the generator that they are given."""
    torch.manual_seed(2)
    return arguments


@functools.cache
def vae(latent_channels: int = 4, halvings: int = 1) -> AutoencoderKL:
    """Shared: no test changes it."""
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
        up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
        block_out_channels=(8,) * (halvings + 1),
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        shift_factor=0.1,
        scaling_factor=0.4,
    ).eval()


class Stub(nn.Module):
    """A component without weights; pipelines ask any for its device and precision."""

    device = torch.device("cpu")
    dtype = torch.float32


class _Certain:
    """Stands in for the distribution of latents that an autoencoder gives."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mean


class Pooling(Stub):
    """Stands in for an autoencoder where a pipeline insists on large pictures.

    It only averages, so that a megapixel costs nothing, and halves as often as it is told to.
    """

    def __init__(self, channels: int, halvings: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.factor = 2**halvings
        self.temperal_downsample = (False,) * halvings
        self.config = SimpleNamespace(
            z_dim=channels,
            latents_mean=[0.1] * channels,
            latents_std=[0.5] * channels,
            block_out_channels=(8,) * (halvings + 1),
            latent_channels=channels,
            shift_factor=0.1,
            scaling_factor=0.4,
            scale_factor_spatial=self.factor,
            scale_factor_temporal=1,
        )

    def encode(self, pictures: Tensor) -> SimpleNamespace:
        latents = F.avg_pool3d(pictures, (1, self.factor, self.factor))
        channels = torch.arange(self.config.z_dim) % pictures.shape[1]
        return SimpleNamespace(latent_dist=_Certain(latents[:, channels]))

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (F.interpolate(latents, scale_factor=(1, self.factor, self.factor)),)


def picture(height: int = 20, width: int = 12, seed: int = 30) -> Tensor:
    return noise(1, 3, height, width, seed=seed).sigmoid()


def mask(height: int = 20, width: int = 12) -> Tensor:
    """The left half is to be made anew."""
    return (torch.arange(width) < width // 2).float().expand(1, 1, height, width)


def words(text: str, width: int, seed: int = 50) -> Tensor:
    """Stands in for a text encoder: a token per word."""
    return noise(1, len(text.split()), width, seed=seed + len(text))


def photo(height: int, width: int) -> Image.Image:
    """A picture for pipelines that take no tensor."""
    pixels = picture(height, width)[0].mul(255).byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())

"""What the tiny video and audio pipelines are made of."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from tests.models.base import diffusers_class
from tests.zoo.base import noise

HEIGHT = 48
WIDTH = 32
"""Pixels of a frame; nearly every autoencoder here makes 6 x 4 latents of them."""

FRAMES = 9
"""Frames of a clip: 3 of latents, where 4 frames are one."""

STEPS = 8
TEXT = 32
"""Channels of a prompt."""

SEEN = 8
"""Channels of what the image encoder makes."""


def tiny(name: str, seed: int = 0, **config: Any) -> nn.Module:
    """A model of diffusers whose every parameter is random, zero-initialised ones included."""
    torch.manual_seed(seed)
    return filled(diffusers_class(name)(**config))


def filled(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return model.eval()


def assembled(cls: str | type[Any], **components: Any) -> Any:
    """A pipeline of a class, or of the class of diffusers that is called so."""
    cls = getattr(diffusers, cls) if isinstance(cls, str) else cls
    pipe = cls(**components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flow(**config: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config})


def unipc(**config: Any) -> UniPCMultistepScheduler:
    """What the checkpoints of Wan's family come with."""
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return UniPCMultistepScheduler(**flow, **config)


def picture(height: int = HEIGHT, width: int = WIDTH, seed: int = 30) -> Tensor:
    return noise(1, 3, height, width, seed=seed).sigmoid()


def photo(height: int = HEIGHT, width: int = WIDTH, seed: int = 30) -> Image.Image:
    """The same for those that take nothing but PIL images."""
    pixels = (255 * picture(height, width, seed)[0]).byte().permute(1, 2, 0)
    return Image.fromarray(pixels.numpy())


def photos(frames: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 40) -> list[Any]:
    return [photo(height, width, seed + frame) for frame in range(frames)]


def clip(frames: int = FRAMES, height: int = HEIGHT, width: int = WIDTH, seed: int = 40) -> Tensor:
    return noise(1, frames, 3, height, width, seed=seed).sigmoid()


def prompts(tokens: int = 5, channels: int = TEXT, masked: bool = False) -> dict[str, Any]:
    """A prompt and the one to steer away from; masked, the last tokens of each are padding."""
    given: dict[str, Any] = {}
    for seed, prefix in ((10, ""), (20, "negative_")):
        given[f"{prefix}prompt_embeds"] = noise(1, tokens, channels, seed=seed)
        if masked:
            mask = torch.ones(1, tokens, dtype=torch.long)
            mask[:, tokens - (2 if prefix else 1) :] = 0
            given[f"{prefix}prompt_attention_mask"] = mask
    return given


@functools.cache
def wan_vae(channels: int = 4) -> AutoencoderKLWan:
    """Shared: 8 x 8 pixels and 4 frames are one latent."""
    return tiny(
        "AutoencoderKLWan",
        seed=1,
        base_dim=4,
        z_dim=channels,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1] * channels,
        latents_std=[1.5] * channels,
    )


@functools.cache
def ltx2_vae() -> nn.Module:
    """Shared: 8 x 8 pixels and 2 frames are one latent."""
    return tiny(
        "AutoencoderKLLTX2Video",
        seed=1,
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatiotemporal",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=4,
        patch_size_t=1,
    )


@functools.cache
def _image_encoder() -> nn.Module:
    torch.manual_seed(2)
    config = CLIPVisionConfig(
        hidden_size=SEEN,
        intermediate_size=16,
        projection_dim=SEEN,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    return CLIPVisionModel(config).eval()


def seeing() -> dict[str, Any]:
    """What the pipelines of Wan's family look at a picture with."""
    processor = CLIPImageProcessor(crop_size=32, size=32)
    return {"image_encoder": _image_encoder(), "image_processor": processor}

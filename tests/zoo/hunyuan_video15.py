"""HunyuanVideo 1.5, whose guidance is an object that says how many calls a step makes."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers.guiders import ClassifierFreeGuidance
from torch import nn
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from tests.zoo.base import Case, available, noise
from tests.zoo.video_parts import FRAMES, HEIGHT, STEPS, TEXT, WIDTH, assembled, flow, photo, tiny

BYT5 = 24


@functools.cache
def _vae() -> nn.Module:
    return tiny(
        "AutoencoderKLHunyuanVideo15",
        seed=1,
        latent_channels=4,
        block_out_channels=(16, 16, 16, 16),
        layers_per_block=1,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )


@functools.cache
def _image_encoder() -> nn.Module:
    torch.manual_seed(2)
    config = SiglipVisionConfig(
        hidden_size=TEXT,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    return SiglipVisionModel(config).eval()


def _pipe(name: str, guider: Any, **components: Any) -> Any:
    transformer = tiny(
        "HunyuanVideo15Transformer3DModel",
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        num_refiner_layers=1,
        text_embed_dim=TEXT,
        text_embed_2_dim=BYT5,
        image_embed_dim=TEXT,
        rope_axes_dim=(4, 6, 6),
        target_size=32,
        task_type="i2v" if components else "t2v",
    )
    pipe = assembled(
        name,
        scheduler=flow(shift=7.0),
        vae=_vae(),
        transformer=transformer,
        guider=guider,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        **components,
    )
    pipe.vision_num_semantic_tokens = 4
    return pipe


def _text_to_video(enabled: bool = True) -> Any:
    guider = ClassifierFreeGuidance(guidance_scale=2.0, enabled=enabled)
    return _pipe("HunyuanVideo15Pipeline", guider)


def _image_to_video() -> Any:
    return _pipe(
        "HunyuanVideo15ImageToVideoPipeline",
        ClassifierFreeGuidance(guidance_scale=2.0),
        image_encoder=_image_encoder(),
        feature_extractor=SiglipImageProcessor(size={"height": 32, "width": 32}),
    )


def _given(**changes: Any) -> dict[str, Any]:
    """The two prompts have padding of different lengths; the second encoder reads little."""
    given: dict[str, Any] = {
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    for seed, prefix, valid in ((10, "", 5), (20, "negative_", 3)):
        mask = (torch.arange(6) < valid).long()[None]
        given[f"{prefix}prompt_embeds"] = noise(1, 6, TEXT, seed=seed)
        given[f"{prefix}prompt_embeds_mask"] = mask
        given[f"{prefix}prompt_embeds_2"] = noise(1, 3, BYT5, seed=seed + 1)
        given[f"{prefix}prompt_embeds_mask_2"] = torch.ones(1, 3, dtype=torch.long)
    return {**given, **changes}


def _sized() -> dict[str, Any]:
    return _given(height=HEIGHT, width=WIDTH)


CASES: tuple[Case, ...] = available(
    Case(
        "HunyuanVideo15Pipeline",
        _text_to_video,
        _sized,
        branches=2,
        output="frames",
    ),
    Case(
        "HunyuanVideo15Pipeline+unguided",
        functools.partial(_text_to_video, enabled=False),
        _sized,
        output="frames",
    ),
    Case(
        "HunyuanVideo15ImageToVideoPipeline",
        _image_to_video,
        lambda: _given(image=photo()),
        branches=2,
        output="frames",
    ),
)

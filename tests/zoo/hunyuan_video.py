"""HunyuanVideo: text or one picture to video, Framepack's sections, SkyReels V1."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from tests.zoo.base import Case, available, noise
from tests.zoo.video_parts import (
    FRAMES,
    HEIGHT,
    STEPS,
    TEXT,
    WIDTH,
    assembled,
    flow,
    picture,
    prompts,
    tiny,
)


@functools.cache
def _vae() -> nn.Module:
    return tiny(
        "AutoencoderKLHunyuanVideo",
        seed=1,
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
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


def _transformer(name: str = "HunyuanVideoTransformer3DModel", **config: Any) -> nn.Module:
    return tiny(
        name,
        **{
            "in_channels": 4,
            "out_channels": 4,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_refiner_layers": 1,
            "patch_size": 1,
            "patch_size_t": 1,
            "guidance_embeds": True,
            "text_embed_dim": TEXT,
            "pooled_projection_dim": 8,
            "rope_axes_dim": (4, 6, 6),
            **config,
        },
    )


def _pipe(name: str, transformer: dict[str, Any] | None = None, **components: Any) -> Any:
    parts = {
        "scheduler": flow(shift=7.0),
        "vae": _vae(),
        "transformer": _transformer(**(transformer or {})),
        "text_encoder": None,
        "tokenizer": None,
        "text_encoder_2": None,
        "tokenizer_2": None,
    }
    return assembled(name, **{**parts, **components})


def _given(guided: bool = True, **changes: Any) -> dict[str, Any]:
    given = {
        **prompts(masked=True),
        "pooled_prompt_embeds": noise(1, 8, seed=11),
        "negative_pooled_prompt_embeds": noise(1, 8, seed=21),
        "true_cfg_scale": 2.0 if guided else 1.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


def _framepack() -> Any:
    config = {
        "name": "HunyuanVideoFramepackTransformer3DModel",
        "patch_size": 2,
        "has_image_proj": True,
        "image_proj_dim": TEXT,
        "has_clean_x_embedder": True,
    }
    return _pipe(
        "HunyuanVideoFramepackPipeline",
        config,
        image_encoder=_image_encoder(),
        feature_extractor=SiglipImageProcessor(size={"height": 32, "width": 32}),
    )


def _framepack_given(**changes: Any) -> dict[str, Any]:
    return _given(image=picture(), latent_window_size=3, **changes)


def _image_to_video(condition: str, channels: int, guidance: bool) -> Any:
    config = {
        "in_channels": channels,
        "image_condition_type": condition,
        "guidance_embeds": guidance,
    }
    return _pipe("HunyuanVideoImageToVideoPipeline", config, image_processor=None)


CASES: tuple[Case, ...] = available(
    Case(
        "HunyuanVideoPipeline",
        functools.partial(_pipe, "HunyuanVideoPipeline"),
        functools.partial(_given, guided=False),
        output="frames",
    ),
    Case(
        "HunyuanVideoPipeline+cfg",
        functools.partial(_pipe, "HunyuanVideoPipeline"),
        _given,
        branches=2,
        output="frames",
    ),
    Case(
        "HunyuanVideoImageToVideoPipeline",
        functools.partial(_image_to_video, "latent_concat", 9, guidance=False),
        lambda: _given(image=picture()),
        branches=2,
        output="frames",
    ),
    Case(
        "HunyuanVideoImageToVideoPipeline+replace",
        functools.partial(_image_to_video, "token_replace", 4, guidance=True),
        lambda: _given(image=picture(), guided=False),
        output="frames",
    ),
    Case(
        "HunyuanSkyreelsImageToVideoPipeline",
        functools.partial(_pipe, "HunyuanSkyreelsImageToVideoPipeline", {"in_channels": 8}),
        lambda: _given(image=picture()),
        branches=2,
        output="frames",
    ),
    Case(
        "HunyuanVideoFramepackPipeline",
        _framepack,
        functools.partial(_framepack_given, guided=False),
        output="frames",
    ),
    Case(
        "HunyuanVideoFramepackPipeline+cfg",
        _framepack,
        _framepack_given,
        branches=2,
        output="frames",
    ),
    Case(
        "HunyuanVideoFramepackPipeline+sections",
        _framepack,
        functools.partial(_framepack_given, guided=False, num_frames=18, output_type="pt"),
        steps=2 * STEPS,
        runs=2,
        output="frames",
    ),
)

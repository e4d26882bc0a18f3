"""EasyAnimate: text, inpainting, control; the transformer's arguments are positional."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.base import Case, available
from tests.zoo.video_parts import (
    FRAMES,
    HEIGHT,
    STEPS,
    TEXT,
    WIDTH,
    assembled,
    clip,
    flow,
    prompts,
    tiny,
)


@functools.cache
def _vae() -> nn.Module:
    return tiny(
        "AutoencoderKLMagvit",
        seed=1,
        down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3),
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )


def _pipe(name: str, **config: Any) -> Any:
    sizes = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 16,
        "text_embed_dim": TEXT,
        "num_layers": 3,
        "sample_width": WIDTH // 8,
        "sample_height": HEIGHT // 8,
        "patch_size": 2,
    }
    return assembled(
        name,
        scheduler=flow(),
        vae=_vae(),
        transformer=tiny("EasyAnimateTransformer3DModel", **{**sizes, **config}),
        text_encoder=None,
        tokenizer=None,
    )


def _control() -> Any:
    """In diffusers 0.42 it passes its ``encode_prompt`` an argument that this does not have."""
    pipe = _pipe("EasyAnimateControlPipeline", in_channels=12)
    encode = pipe.encode_prompt
    pipe.encode_prompt = lambda text_encoder_index=0, **given: encode(**given)
    return pipe


def _given(**changes: Any) -> dict[str, Any]:
    given = {
        **prompts(masked=True),
        "guidance_scale": 3.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


def _channels_first() -> Tensor:
    return clip().transpose(1, 2)


def _mask() -> Tensor:
    """The last frames are to be made."""
    mask = torch.zeros(1, 1, FRAMES, HEIGHT, WIDTH)
    mask[:, :, FRAMES // 2 :] = 255
    return mask


CASES: tuple[Case, ...] = available(
    Case(
        "EasyAnimatePipeline",
        functools.partial(_pipe, "EasyAnimatePipeline"),
        _given,
        output="frames",
    ),
    Case(
        "EasyAnimateInpaintPipeline",
        functools.partial(
            _pipe, "EasyAnimateInpaintPipeline", in_channels=12, resize_inpaint_mask_directly=False
        ),
        lambda: _given(video=_channels_first(), mask_video=_mask()),
        output="frames",
    ),
    Case(
        "EasyAnimateControlPipeline",
        _control,
        lambda: _given(control_video=_channels_first()),
        output="frames",
    ),
)

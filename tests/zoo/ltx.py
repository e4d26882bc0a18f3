"""LTX-Video: guidance is one call of twice the batch, and tokens may have times of their own."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import torch
from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition
from torch import Tensor, nn

from tests.zoo.base import Case, available, noise
from tests.zoo.video_parts import (
    STEPS,
    TEXT,
    assembled,
    flow,
    picture,
    prompts,
    tiny,
)

HEIGHT = 64
WIDTH = 32
FRAMES = 17
"""3 of latents, where 8 frames are one; the pipelines want sides that 32 divides."""


@functools.cache
def _vae() -> nn.Module:
    return tiny(
        "AutoencoderKLLTXVideo",
        seed=1,
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        patch_size=1,
        patch_size_t=1,
    )


def _pipe(name: str, scheduler: Any = None) -> Any:
    transformer = tiny(
        "LTXVideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=3,
        caption_channels=TEXT,
    )
    return assembled(
        name,
        scheduler=scheduler or flow(shift=1.0),
        vae=_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
    )


def _shifting(name: str) -> Any:
    """With the schedule of the checkpoints."""
    return _pipe(name, flow(use_dynamic_shifting=True, shift_terminal=0.1))


def _long() -> Any:
    """It reads its prompts itself, one for each window."""

    def encode(prompt: list[str], **_: Any) -> tuple[Tensor, ...]:
        mask = torch.ones(1, 5, dtype=torch.long)
        text = noise(1, 5, TEXT, seed=len(prompt[0]))
        return text, mask, noise(1, 5, TEXT, seed=20), mask

    pipe = _pipe("LTXI2VLongMultiPromptPipeline", diffusers.LTXEulerAncestralRFScheduler())
    pipe.encode_prompt = encode
    return pipe


def _given(guided: bool = True, **changes: Any) -> dict[str, Any]:
    given = {
        **prompts(masked=True),
        "guidance_scale": 3.0 if guided else 1.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


def _conditions() -> list[LTXVideoCondition]:
    """The second adds tokens to those that are generated."""
    first = picture(HEIGHT, WIDTH)
    later = picture(HEIGHT, WIDTH, seed=31)
    return [
        LTXVideoCondition(image=first, frame_index=0, strength=1.0),
        LTXVideoCondition(image=later, frame_index=8, strength=0.5),
    ]


def _long_given() -> dict[str, Any]:
    """Two windows; the last sigma of each is no step."""
    return {
        "prompt": "a hare | a tortoise",
        "guidance_scale": 3.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": 33,
        "temporal_tile_size": 24,
        "temporal_overlap": 8,
        "cond_image": picture(HEIGHT, WIDTH),
        "num_inference_steps": STEPS + 1,
        "output_type": "latent",
    }


CASES: tuple[Case, ...] = available(
    Case("LTXPipeline", functools.partial(_shifting, "LTXPipeline"), _given, output="frames"),
    Case(
        "LTXPipeline+unguided",
        functools.partial(_pipe, "LTXPipeline"),
        functools.partial(_given, guided=False),
        output="frames",
    ),
    Case(
        "LTXImageToVideoPipeline",
        functools.partial(_shifting, "LTXImageToVideoPipeline"),
        lambda: _given(image=picture(HEIGHT, WIDTH)),
        output="frames",
    ),
    Case(
        "LTXConditionPipeline",
        functools.partial(_pipe, "LTXConditionPipeline"),
        lambda: _given(conditions=_conditions()),
        output="frames",
    ),
    Case(
        "LTXConditionPipeline+text",
        functools.partial(_pipe, "LTXConditionPipeline"),
        _given,
        output="frames",
    ),
    Case(
        "LTXI2VLongMultiPromptPipeline",
        _long,
        _long_given,
        steps=2 * STEPS,
        branches=0,  # its windows are not equally long
        output="frames",
    ),
)

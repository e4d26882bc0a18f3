"""Helios makes a clip in chunks; its pyramid makes a chunk in stages of growing size."""

from __future__ import annotations

import functools
from typing import Any

import diffusers

from tests.zoo.base import Case, available
from tests.zoo.video_parts import STEPS, TEXT, assembled, prompts, tiny, wan_vae

HEIGHT = 64
WIDTH = 32
CHUNK = 3
"""Frames of latents that one chunk has."""

GAMMA = 0.3
"""At the default of 1/3 the covariance of the noise that is added between stages is singular in
float32, so that it depends on the processor whether diffusers can decompose it."""


def _pipe(name: str, stages: int = 1) -> Any:
    transformer = tiny(
        "HeliosTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=TEXT,
        freq_dim=32,
        ffn_dim=32,
        num_layers=3,
        rope_dim=(4, 6, 6),
    )
    ranges = [stage / stages for stage in range(stages + 1)]
    return assembled(
        name,
        scheduler=diffusers.HeliosScheduler(
            stages=stages, stage_range=ranges, use_dynamic_shifting=True, gamma=GAMMA
        ),
        vae=wan_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
    )


def _given(**changes: Any) -> dict[str, Any]:
    given = {
        **prompts(),
        "guidance_scale": 2.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": 9,
        "num_latent_frames_per_chunk": CHUNK,
        "history_sizes": [4, 2, 1],
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


def _staged() -> dict[str, Any]:
    given = _given(pyramid_num_inference_steps_list=[STEPS, STEPS])
    del given["num_inference_steps"]
    return given


CASES: tuple[Case, ...] = available(
    Case(
        "HeliosPipeline",
        functools.partial(_pipe, "HeliosPipeline"),
        _given,
        branches=2,
        output="frames",
    ),
    Case(
        "HeliosPipeline+chunks",
        functools.partial(_pipe, "HeliosPipeline"),
        functools.partial(_given, num_frames=18, guidance_scale=1.0),
        steps=2 * STEPS,
        runs=2,
        output="frames",
    ),
    Case(
        "HeliosPyramidPipeline",
        functools.partial(_pipe, "HeliosPyramidPipeline", stages=2),
        _staged,
        steps=2 * STEPS,
        branches=2,
        runs=2,
        output="frames",
    ),
)

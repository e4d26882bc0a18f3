"""Pipelines around Wan's transformer or its like: ChronoEdit, Lucy Edit, AnyFlow."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
from torch import nn

from tests.zoo.base import Case, available
from tests.zoo.video_parts import (
    FRAMES,
    HEIGHT,
    SEEN,
    STEPS,
    TEXT,
    WIDTH,
    assembled,
    clip,
    photo,
    prompts,
    seeing,
    tiny,
    unipc,
    wan_vae,
)


def _transformer(name: str, **config: Any) -> nn.Module:
    return tiny(
        name,
        **{
            "patch_size": (1, 2, 2),
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "text_dim": TEXT,
            "freq_dim": 32,
            "ffn_dim": 32,
            "num_layers": 3,
            "rope_max_seq_len": 32,
            **config,
        },
    )


def _pipe(name: str, transformer: nn.Module, scheduler: Any, **components: Any) -> Any:
    return assembled(
        name,
        scheduler=scheduler,
        vae=wan_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
        **components,
    )


def _chronoedit() -> Any:
    config = {"in_channels": 12, "image_dim": SEEN, "added_kv_proj_dim": 32}
    transformer = _transformer("ChronoEditTransformer3DModel", **config)
    return _pipe("ChronoEditPipeline", transformer, unipc(), **seeing())


def _lucy() -> Any:
    transformer = _transformer("WanTransformer3DModel", in_channels=8)
    return _pipe("LucyEditPipeline", transformer, unipc())


def _anyflow(name: str, model: str, **config: Any) -> Any:
    transformer = _transformer(model, gate_value=0.25, deltatime_type="r", **config)
    return _pipe(name, transformer, diffusers.FlowMapEulerDiscreteScheduler(shift=5.0))


def _far(*chunks: int) -> Any:
    """Frames come in chunks; a chunk that is done is written into a cache by a call of its own."""
    return _anyflow(
        "AnyFlowFARPipeline",
        "AnyFlowFARTransformer3DModel",
        compressed_patch_size=(1, 2, 2),
        full_chunk_limit=len(chunks),
        chunk_partition=chunks,
    )


def _given(guidance: float = 2.0, **changes: Any) -> dict[str, Any]:
    given = {
        **prompts(),
        "guidance_scale": guidance,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


CASES: tuple[Case, ...] = available(
    Case(
        "ChronoEditPipeline",
        _chronoedit,
        lambda: _given(image=photo()),
        branches=2,
        output="frames",
    ),
    Case(
        "ChronoEditPipeline+reasoning",
        _chronoedit,
        lambda: _given(
            image=photo(),
            enable_temporal_reasoning=True,
            num_temporal_reasoning_steps=STEPS,
            num_inference_steps=2 * STEPS,
        ),
        steps=2 * STEPS,
        branches=0,  # with fewer frames from the middle on
        output="frames",
    ),
    Case(
        "LucyEditPipeline",
        _lucy,
        lambda: _given(video=clip()[0]),
        branches=2,
        output="frames",
    ),
    Case(
        "AnyFlowPipeline",
        functools.partial(_anyflow, "AnyFlowPipeline", "AnyFlowTransformer3DModel"),
        _given,
        output="frames",
    ),
    Case("AnyFlowFARPipeline", functools.partial(_far, 3), _given, output="frames"),
    Case(
        "AnyFlowFARPipeline+chunks",
        functools.partial(_far, 1, 2),
        _given,
        steps=2 * STEPS + 1,
        branches=0,  # a later chunk is called with keys and values of the ones before
        passed=1,
        output="frames",
    ),
)

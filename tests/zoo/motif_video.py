"""Motif-Video, whose guidance is an object that says how many calls a step makes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import ModelMixin
from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

from tests.zoo.base import Case, available
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
    wan_vae,
)


class _TextEncoder(ModelMixin):
    """Nothing but what looks at pictures; prompts are given as embeddings."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        config = SiglipVisionConfig(
            hidden_size=TEXT,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=32,
            patch_size=16,
        )
        self.vision_tower = SiglipVisionModel(config)


def _pipe(name: str, guider: Any, seen: int | None = None, **components: Any) -> Any:
    transformer = tiny(
        "MotifVideoTransformer3DModel",
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_decoder_layers=1,
        mlp_ratio=2.0,
        patch_size=1,
        patch_size_t=1,
        text_embed_dim=TEXT,
        image_embed_dim=seen,
        rope_axes_dim=(4, 6, 6),
    )
    parts = {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": wan_vae(),
        "transformer": transformer,
        "guider": guider,
        "text_encoder": None,
        "tokenizer": None,
        "feature_extractor": None,
    }
    return assembled(name, **{**parts, **components})


def _text_to_video() -> Any:
    return _pipe("MotifVideoPipeline", AdaptiveProjectedGuidance(guidance_scale=3.0))


def _image_to_video() -> Any:
    return _pipe(
        "MotifVideoImage2VideoPipeline",
        ClassifierFreeGuidance(guidance_scale=3.0),
        seen=TEXT,
        text_encoder=_TextEncoder().eval(),
        feature_extractor=SiglipImageProcessor(size={"height": 32, "width": 32}),
    )


def _given(**changes: Any) -> dict[str, Any]:
    given = {
        **prompts(masked=True),
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


CASES: tuple[Case, ...] = available(
    Case("MotifVideoPipeline", _text_to_video, _given, branches=2, output="frames"),
    Case(
        "MotifVideoImage2VideoPipeline",
        _image_to_video,
        lambda: _given(image=picture(), prompt=None),
        branches=2,
        output="frames",
    ),
)

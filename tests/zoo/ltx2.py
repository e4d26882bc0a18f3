"""LTX-2 makes pictures and sound; a step makes one to three calls that differ in little.

The guided call has twice the batch; one call perturbs the attention of some blocks; one keeps
sound and pictures apart. The last two get the same prompt at the same time.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import nn

from tests.zoo.base import Case, available
from tests.zoo.video_parts import STEPS, assembled, flow, ltx2_vae, photo, photos, prompts, tiny

HEIGHT = 64
WIDTH = 32
FRAMES = 5
TEXT = 8
LAYERS = 3
"""Of the text encoder; the connectors read what each of them makes."""


@functools.cache
def _audio_vae() -> nn.Module:
    return tiny(
        "AutoencoderKLLTX2Audio",
        seed=2,
        base_channels=4,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        resolution=32,
        latent_channels=2,
        mid_block_add_attention=False,
        mel_bins=8,
    )


@functools.cache
def _connectors() -> nn.Module:
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    torch.manual_seed(3)
    return LTX2TextConnectors(
        caption_channels=TEXT,
        text_proj_in_factor=LAYERS,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=4,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=4,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None,
        connector_rope_base_seq_len=32,
        rope_double_precision=False,
        rope_type="split",
    ).eval()


def _pipe(name: str, **components: Any) -> Any:
    transformer = tiny(
        "LTX2VideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=3,
        caption_channels=TEXT,
        rope_double_precision=False,
        rope_type="split",
    )
    parts = {
        "scheduler": flow(use_dynamic_shifting=True, shift_terminal=0.1),
        "vae": ltx2_vae(),
        "audio_vae": _audio_vae(),
        "connectors": _connectors(),
        "transformer": transformer,
        "text_encoder": None,
        "tokenizer": None,
        "vocoder": None,
    }
    return assembled(name, **{**parts, **components})


def _given(
    guided: bool = True, perturbed: bool = False, apart: bool = False, **changes: Any
) -> dict[str, Any]:
    given = {
        **prompts(channels=TEXT * LAYERS, masked=True),
        "guidance_scale": 3.0 if guided else 1.0,
        "audio_guidance_scale": 3.0 if guided else 1.0,
        "stg_scale": 1.0 if perturbed else 0.0,
        "audio_stg_scale": 1.0 if perturbed else 0.0,
        "spatio_temporal_guidance_blocks": [1] if perturbed else None,
        "modality_scale": 2.0 if apart else 1.0,
        "audio_modality_scale": 2.0 if apart else 1.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


def _conditioned() -> dict[str, Any]:
    from diffusers.pipelines.ltx2 import LTX2VideoCondition

    first = LTX2VideoCondition(frames=photo(HEIGHT, WIDTH), index=0, strength=1.0, crf=0)
    last = LTX2VideoCondition(frames=photo(HEIGHT, WIDTH, seed=31), index=-1, strength=0.5, crf=0)
    return _given(conditions=[first, last])


def _in_context() -> dict[str, Any]:
    from diffusers.pipelines.ltx2 import LTX2ReferenceCondition

    frames = photos(FRAMES, HEIGHT, WIDTH)
    return _given(reference_conditions=[LTX2ReferenceCondition(frames=frames, strength=1.0)])


def _hdr() -> dict[str, Any]:
    from diffusers.pipelines.ltx2.pipeline_ltx2_hdr_lora import LTX2HDRReferenceCondition

    given = _given(guided=False)
    given |= {
        "reference_conditions": [
            LTX2HDRReferenceCondition(frames=photos(FRAMES, HEIGHT, WIDTH), strength=1.0)
        ]
    }
    return {name: given[name] for name in given if "audio" not in name}


CASES: tuple[Case, ...] = available(
    Case("LTX2Pipeline", functools.partial(_pipe, "LTX2Pipeline"), _given, output="frames"),
    Case(
        "LTX2Pipeline+audio",
        functools.partial(_pipe, "LTX2Pipeline"),
        functools.partial(_given, guided=False),
        output="audio",
    ),
    Case(
        "LTX2Pipeline+all",
        functools.partial(_pipe, "LTX2Pipeline"),
        functools.partial(_given, perturbed=True, apart=True),
        branches=3,
        output="frames",
    ),
    Case(
        "LTX2Pipeline+same",
        functools.partial(_pipe, "LTX2Pipeline"),
        functools.partial(_given, guided=False, perturbed=True, apart=True),
        branches=3,
        output="frames",
    ),
    Case(
        "LTX2ImageToVideoPipeline",
        functools.partial(_pipe, "LTX2ImageToVideoPipeline"),
        lambda: _given(image=photo(HEIGHT, WIDTH), image_crf=0),
        output="frames",
    ),
    Case(
        "LTX2ConditionPipeline",
        functools.partial(_pipe, "LTX2ConditionPipeline"),
        _conditioned,
        output="frames",
    ),
    Case(
        "LTX2InContextPipeline",
        functools.partial(_pipe, "LTX2InContextPipeline"),
        _in_context,
        output="frames",
    ),
    Case(
        "LTX2HDRPipeline",
        functools.partial(_pipe, "LTX2HDRPipeline"),
        _hdr,
        output="frames",
    ),
)

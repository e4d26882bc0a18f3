"""Sana image pipelines."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import torch
from diffusers import DPMSolverMultistepScheduler

from tests.zoo.base import Case, available, noise
from tests.zoo.parts import STEPS, assemble, build, flow, picture

_SIZE = {"height": 96, "width": 32}
"""Pixels; 12 x 4 tokens."""

_SIZES: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 16,
    "cross_attention_dim": 32,
    "caption_channels": 24,
    "sample_size": 32,
}


@functools.cache
def _vae() -> Any:
    return build(
        "AutoencoderDC",
        seed=1,
        in_channels=3,
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock",) * 4,
        decoder_block_types=("ResBlock",) * 4,
        encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        encoder_qkv_multiscales=((),) * 4,
        decoder_qkv_multiscales=((),) * 4,
        encoder_layers_per_block=(1,) * 4,
        decoder_layers_per_block=(1,) * 4,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.4,
    )


def _make(name: str) -> Any:
    sprint = "Sprint" in name
    options = {"guidance_embeds": True, "qk_norm": "rms_norm_across_heads"} if sprint else {}
    parts = {
        "scheduler": diffusers.SCMScheduler() if sprint else flow(),
        "vae": _vae(),
        "transformer": build("SanaTransformer2DModel", num_layers=3, **_SIZES, **options),
    }
    if name == "SanaPipeline":
        parts["scheduler"] = DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
    if "ControlNet" in name:
        parts["controlnet"] = build("SanaControlNetModel", seed=2, num_layers=2, **_SIZES)
    if "PAG" in name:
        parts["pag_applied_layers"] = "transformer_blocks.1"
    return assemble(name, **parts)


def _case(name: str, **more: Any) -> Case:
    def arguments() -> dict[str, Any]:
        given = {
            "prompt_embeds": noise(1, 7, 24, seed=10),
            "prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0]]),
            "guidance_scale": 3.0,
            "use_resolution_binning": False,
            **_SIZE,
            **STEPS,
            **more,
        }
        if "Sprint" in name:
            return given | {"intermediate_timesteps": None}
        return given | {
            "negative_prompt": None,
            "negative_prompt_embeds": noise(1, 7, 24, seed=20),
            "negative_prompt_attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0, 0]]),
        }

    return Case(name, functools.partial(_make, name), arguments)


CASES = available(
    _case("SanaPipeline"),
    _case("SanaSprintPipeline"),
    _case(
        "SanaSprintImg2ImgPipeline",
        image=picture(**_SIZE),
        num_inference_steps=10,
        strength=0.8,
    ),
    _case("SanaControlNetPipeline", control_image=picture(**_SIZE)),
    _case("SanaPAGPipeline", pag_scale=0.7),
)

"""SANA-Video and -WM: guidance is one call of twice the batch; frames may have their own times."""

from __future__ import annotations

from typing import Any

import numpy as np
from diffusers import DPMSolverMultistepScheduler

from tests.zoo.base import Case, available
from tests.zoo.video_parts import (
    FRAMES,
    STEPS,
    TEXT,
    WIDTH,
    assembled,
    flow,
    ltx2_vae,
    photo,
    picture,
    prompts,
    tiny,
    wan_vae,
)

HEIGHT = 64


def _pipe(name: str, scheduler: Any) -> Any:
    transformer = tiny(
        "SanaVideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=TEXT,
        mlp_ratio=2.0,
        sample_size=8,
        patch_size=(1, 2, 2),
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    return assembled(
        name,
        scheduler=scheduler,
        vae=wan_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
    )


def _solver() -> DPMSolverMultistepScheduler:
    flows = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return DPMSolverMultistepScheduler(**flows)


def _world() -> Any:
    """Moves a camera through the first frame."""
    transformer = tiny(
        "SanaWMTransformer3DModel",
        in_channels=4,
        num_layers=3,
        hidden_size=32,
        num_attention_heads=2,
        softmax_every_n=2,
        linear_head_dim=16,
        chunk_plucker_channels=12,
        chunk_plucker_post_attn_blocks=3,
        caption_channels=TEXT,
    )
    return assembled(
        "SanaWMPipeline",
        scheduler=flow(shift=1.0),
        vae=ltx2_vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
    )


def _given(**changes: Any) -> dict[str, Any]:
    given = {
        **prompts(masked=True),
        "negative_prompt": None,
        "guidance_scale": 3.0,
        "height": HEIGHT,
        "width": WIDTH,
        "frames": FRAMES,
        "num_inference_steps": STEPS,
        "use_resolution_binning": False,
        "output_type": "latent",
    }
    return {**given, **changes}


def _world_given() -> dict[str, Any]:
    path = np.tile(np.eye(4, dtype=np.float32), (5, 1, 1))
    path[:, 2, 3] = np.linspace(0, 1, 5)
    text = prompts(masked=True)
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        text[name] = text[name][:, None]
    return {
        **text,
        "image": photo(HEIGHT),
        "prompt": "",
        "c2w": path,
        "intrinsics": [30.0, 30.0, WIDTH / 2, HEIGHT / 2],
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": 5,
        "guidance_scale": 3.0,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }


CASES: tuple[Case, ...] = available(
    Case(
        "SanaVideoPipeline",
        lambda: _pipe("SanaVideoPipeline", _solver()),
        _given,
        output="frames",
    ),
    Case(
        "SanaImageToVideoPipeline",
        lambda: _pipe("SanaImageToVideoPipeline", flow()),
        lambda: _given(image=picture(HEIGHT)),
        output="frames",
    ),
    Case("SanaWMPipeline", _world, _world_given, output="frames"),
)

"""Cosmos 1, 2 and 2.5: a time for each frame, a scheduler stepped twice, lists of control."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin
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
    picture,
    prompts,
    tiny,
    unipc,
    wan_vae,
)


class _Unchecked:
    """Stands in for the safety checker, which is a large model of its own."""

    def to(self, *_: Any) -> None:
        pass

    def check_text_safety(self, _: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


@functools.cache
def _vae() -> nn.Module:
    return tiny(
        "AutoencoderKLCosmos",
        seed=1,
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        patch_size=4,
        scaling_factor=1.0,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    )


def _edm() -> EDMEulerScheduler:
    return EDMEulerScheduler(
        sigma_min=0.002,
        sigma_max=80,
        sigma_data=0.5,
        sigma_schedule="karras",
        final_sigmas_type="sigma_min",
    )


def _karras() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)


class _Control(ModelMixin):
    """Stands in for the control network, which needs torchvision."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embed = nn.Conv3d(4, 32, (1, 2, 2), (1, 2, 2))

    def forward(self, controls_latents: Tensor, latents: Tensor, **_: Any) -> tuple[list[Tensor]]:
        tokens = self.embed(controls_latents + latents).flatten(2).transpose(1, 2)
        return ([tokens, tokens.sin(), tokens.cos()],)


def _transformer(in_channels: int, **config: Any) -> nn.Module:
    """The padding mask needs torchvision too."""
    return tiny(
        "CosmosTransformer3DModel",
        in_channels=in_channels,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=3,
        mlp_ratio=2,
        text_embed_dim=TEXT,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,
        extra_pos_embed_type="learnable",
        **config,
    )


def _pipe(
    name: str, scheduler: Any, vae: Any, transformer: nn.Module | None = None, **components: Any
) -> Any:
    return assembled(
        name,
        scheduler=scheduler(),
        vae=vae(),
        transformer=transformer,
        text_encoder=None,
        tokenizer=None,
        safety_checker=_Unchecked(),
        **components,
    )


def _conditioned(name: str, scheduler: Any, vae: Any) -> Any:
    """The transformer is told which frames are given."""
    return _pipe(name, scheduler, vae, _transformer(5))


def _transfer() -> Any:
    """Control is added in every block, and the prompt is a pair with what is seen."""
    seen = {"img_context_dim_in": TEXT, "img_context_dim_out": 32, "img_context_num_tokens": 3}
    transformer = _transformer(5, controlnet_block_every_n=1, **seen)
    return _pipe(
        "Cosmos2_5_TransferPipeline", unipc, wan_vae, transformer, controlnet=_Control().eval()
    )


def _given(**changes: Any) -> dict[str, Any]:
    given = {
        **prompts(),
        "guidance_scale": 2.0,
        "height": HEIGHT,
        "width": WIDTH,
        "num_frames": FRAMES,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    return {**given, **changes}


def _image_given() -> dict[str, Any]:
    given = _given()
    del given["num_frames"]
    return given


CASES: tuple[Case, ...] = available(
    Case(
        "CosmosTextToWorldPipeline",
        lambda: _pipe("CosmosTextToWorldPipeline", _edm, _vae, _transformer(4)),
        _given,
        branches=2,
        output="frames",
    ),
    Case(
        "CosmosVideoToWorldPipeline",
        functools.partial(_conditioned, "CosmosVideoToWorldPipeline", _edm, _vae),
        lambda: _given(image=picture()),
        branches=2,
        output="frames",
    ),
    Case(
        "Cosmos2TextToImagePipeline",
        lambda: _pipe("Cosmos2TextToImagePipeline", _karras, wan_vae, _transformer(4)),
        _image_given,
        branches=2,
    ),
    Case(
        "Cosmos2VideoToWorldPipeline",
        functools.partial(_conditioned, "Cosmos2VideoToWorldPipeline", _karras, wan_vae),
        lambda: _given(image=picture()),
        branches=2,
        output="frames",
    ),
    Case(
        "Cosmos2_5_PredictBasePipeline",
        functools.partial(_conditioned, "Cosmos2_5_PredictBasePipeline", unipc, wan_vae),
        lambda: _given(video=list(clip()[0])),
        branches=2,
        output="frames",
    ),
    Case(
        "Cosmos2_5_TransferPipeline",
        _transfer,
        lambda: _given(controls=list(clip()[0]), num_frames_per_chunk=FRAMES),
        branches=2,
        output="frames",
    ),
)

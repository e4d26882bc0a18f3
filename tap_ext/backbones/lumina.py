"""Lumina-Image 2.0 and Lumina-Next."""

from __future__ import annotations

from tap_ext.backbones.probes import rms_norm_zero
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="Lumina2Transformer2DModel",
        blocks=(Blocks("layers"),),
        streams=(Stream("norm_out", probe=rms_norm_zero),),
        idle=("time_caption_embed.caption_embedder", "context_refiner.*"),
        rising=True,
        graphs="none",
        hazards=(
            "It reads the prompts' lengths from the device at every call; the two blocks that "
            "refine the image alone run on skip steps too; with cfg_trunc_ratio the late steps "
            "make no unconditional call."
        ),
    ),
    BackboneSpec(
        name="LuminaNextDiT2DModel",
        blocks=(Blocks("layers"),),
        streams=(Stream("norm_out", probe=rms_norm_zero, attention="attn1"),),
        idle=("time_caption_embed.caption_embedder",),
        rising=True,
        graphs="none",
        hazards=(
            "Its pipeline builds another rotary table on the CPU at every step and changes its "
            "scaling in mid-run."
        ),
    ),
)

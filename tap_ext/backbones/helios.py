"""Helios and its pyramid."""

from __future__ import annotations

from tap_ext.backbones.probes import wan
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="HeliosTransformer3DModel",
        blocks=(Blocks("blocks"),),
        streams=(Stream("norm_out", probe=wan, attention="attn1"),),
        idle=(
            "rope",
            "condition_embedder.text_embedder",
            "patch_short?",
            "patch_mid?",
            "patch_long?",
        ),
        graphs="skip",
        hazards="The tokens of earlier frames stand before the new ones and are forecast with "
        "them, though the head reads only the new ones. Every chunk, and every stage of the "
        "pyramid, is a run of its own.",
    ),
)

"""MiniMax-H3 (video with sound) and MiniMax-Music 3."""

from __future__ import annotations

from tap_ext.backbones.probes import plain_norm
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="MiniMaxH3Transformer3DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("norm_out"),),
        idle=("context_embedder", "token_refiner", "rope"),
        rising=True,
        hazards=(
            "Video, sound and prompt are rows of one sequence; the timestep argument lists the "
            "distinct values among its rows, so its length changes after the first step, and the "
            "rows that are given hold their value."
        ),
    ),
    BackboneSpec(
        name="MiniMaxMusic3Transformer1DModel",
        blocks=(Blocks("transformer_blocks"),),
        streams=(Stream("proj_out", probe=plain_norm, tokens="last"),),
        idle=("rotary_emb",),
        rising=True,
        hazards=(
            "The time enters as a token, so the probe is a plain norm; every chunk of a song is a "
            "denoising run of its own."
        ),
    ),
)

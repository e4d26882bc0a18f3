"""Wan 2.1 and 2.2, VACE, Animate, Animate 2, and ChronoEdit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tap_ext.backbones.probes import modulate, wan
from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

_BLOCKS = (Blocks("blocks"),)
_STREAMS = (Stream("norm_out", probe=wan, attention="attn1"),)
_IDLE = ("rope", "condition_embedder.text_embedder", "condition_embedder.image_embedder?")


def _animate2(block: Any, hidden: Tensor, arguments: Mapping[str, Any]) -> Tensor:
    shift_scale = block.modulation[:, :2] + arguments["temb"][:, :2]
    return modulate(block, hidden, shift_scale, 1)


SPECS = (
    BackboneSpec(
        name="WanTransformer3DModel",
        blocks=_BLOCKS,
        streams=_STREAMS,
        idle=_IDLE,
        hazards="Wan 2.2 has a transformer for the noisy steps and one for the others; each has "
        "its own history, so both begin with full steps.",
    ),
    BackboneSpec(
        name="WanVACETransformer3DModel",
        blocks=_BLOCKS,
        streams=_STREAMS,
        bypassed=(Blocks("vace_blocks", ("control_hidden_states", "control_hidden_states")),),
        idle=(*_IDLE, "vace_patch_embedding"),
        adds=True,
        hazards="The control blocks' hints are added between the main blocks; neither runs on a "
        "skip step.",
    ),
    BackboneSpec(
        name="WanAnimateTransformer3DModel",
        blocks=_BLOCKS,
        streams=_STREAMS,
        bypassed=(Blocks("face_adapter"),),
        idle=(*_IDLE, "pose_patch_embedding", "motion_encoder", "face_encoder"),
        adds=True,
        graphs="skip",
        hazards="The face is encoded anew on every full step, with a QR decomposition, and added "
        "between the blocks; none of it runs on a skip step. Every segment is a run of its own.",
    ),
    BackboneSpec(
        name="WanAnimate2Transformer3DModel",
        blocks=_BLOCKS,
        streams=(Stream("head", probe=_animate2, attention="self_attn"),),
        idle=("text_embedding", "img_emb?"),
        conditioning=("encoder_hidden_states", "is_uncondtion", "kv_cache_mode"),
        graphs="skip",
        hazards="The unconditional branch leaves one block out. A pass over the reference fills a "
        "K/V cache before each segment and is always a full step.",
    ),
    BackboneSpec(
        name="ChronoEditTransformer3DModel",
        blocks=_BLOCKS,
        streams=_STREAMS,
        idle=_IDLE,
        graphs="skip",
        hazards="With temporal reasoning all frames but two are dropped in the middle of a run, "
        "and the history begins again.",
    ),
)

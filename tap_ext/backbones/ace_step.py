"""ACE-Step 1.5."""

from __future__ import annotations

from tap_ext.backbones.spec import BackboneSpec, Blocks, Stream

SPECS = (
    BackboneSpec(
        name="AceStepTransformer1DModel",
        blocks=(Blocks("layers"),),
        streams=(Stream("norm_out", attention="self_attn"),),
        idle=("condition_embedder",),
        hazards=(
            "With guidance its pipeline joins both conditionings anew at every step, so telling "
            "branches apart compares their values; a guidance interval changes the batch in "
            "mid-run."
        ),
    ),
)

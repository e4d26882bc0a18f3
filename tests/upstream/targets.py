"""Which of diffusers' own tests are run, and with which model classes accelerated."""

from __future__ import annotations

FOLDER = "tests/models/transformers"

TARGETS = {
    "FluxTransformer2DModel": "test_models_transformer_flux.py",
    "QwenImageTransformer2DModel": "test_models_transformer_qwenimage.py",
    "WanTransformer3DModel": "test_models_transformer_wan.py",
    "SD3Transformer2DModel": "test_models_transformer_sd3.py",
    "HunyuanVideoTransformer3DModel": "test_models_transformer_hunyuan_video.py",
    "CogVideoXTransformer3DModel": "test_models_transformer_cogvideox.py",
    "LTXVideoTransformer3DModel": "test_models_transformer_ltx.py",
    "LTX2VideoTransformer3DModel": "test_models_transformer_ltx2.py",
    "ZImageTransformer2DModel": "test_models_transformer_z_image.py",
    "SanaTransformer2DModel": "test_models_transformer_sana.py",
    "Lumina2Transformer2DModel": "test_models_transformer_lumina2.py",
}
"""Test file of each class, in ``FOLDER`` of a checkout of diffusers."""

ALWAYS = ("tests/hooks/test_hooks.py", "tests/hooks/test_group_offloading.py")
"""Files that name no class."""

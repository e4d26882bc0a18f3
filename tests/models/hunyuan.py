"""HunyuanImage 2.1, HunyuanVideo, its image-to-video forms, FramePack, and HunyuanVideo 1.5."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from tests.models.base import Arguments, Tiny, available, diffusers_class

TEXT = 5


def _model(name: str, **config: object) -> nn.Module:
    defaults = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 24,
        "rope_axes_dim": (4, 6, 6),
    }
    model: nn.Module = diffusers_class(name)(**defaults | config)
    return model


def _padded(batch: int) -> Tensor:
    """Which text tokens count; the first prompt is a token shorter."""
    mask = torch.ones(batch, TEXT)
    mask[0, -1] = 0
    return mask


def _text(generator: Generator, batch: int) -> Arguments:
    return {
        "encoder_hidden_states": torch.randn(batch, TEXT, 24, generator=generator),
        "encoder_attention_mask": _padded(batch),
    }


def _glyphs(generator: Generator, batch: int) -> Arguments:
    """A second text, of the letters to be drawn."""
    return {
        "encoder_hidden_states_2": torch.randn(batch, 3, 12, generator=generator),
        "encoder_attention_mask_2": torch.tensor([[1, 0, 0]] * batch),
    }


def _video(generator: Generator, batch: int, channels: int = 4) -> Arguments:
    return {"hidden_states": torch.randn(batch, channels, 3, 4, 6, generator=generator)}


def _pooled(generator: Generator, batch: int) -> Arguments:
    return {
        "pooled_projections": torch.randn(batch, 20, generator=generator),
        "guidance": torch.full((batch,), 6000.0),
    }


def _hunyuan_video(condition: str | None = None, channels: int = 4) -> nn.Module:
    return _model(
        "HunyuanVideoTransformer3DModel",
        in_channels=channels,
        num_single_layers=3,
        pooled_projection_dim=20,
        image_condition_type=condition,
    )


def _video_inputs(generator: Generator, batch: int, channels: int = 4) -> Arguments:
    video = _video(generator, batch, channels)
    return video | _text(generator, batch) | _pooled(generator, batch)


def _concat_inputs(generator: Generator, batch: int) -> Arguments:
    """The latents, the image's, and a mask, in one another's channels."""
    return _video_inputs(generator, batch, 9)


def _framepack() -> nn.Module:
    return _model(
        "HunyuanVideoFramepackTransformer3DModel",
        num_single_layers=3,
        pooled_projection_dim=20,
        has_image_proj=True,
        image_proj_dim=12,
        has_clean_x_embedder=True,
    )


def _framepack_inputs(generator: Generator, batch: int) -> Arguments:
    """Earlier frames at three resolutions stand before the window to be made."""
    frames = {"latents_clean": 2, "latents_history_2x": 2, "latents_history_4x": 5}
    history = {
        name: torch.randn(batch, 4, count, 4, 6, generator=generator)
        for name, count in frames.items()
    }
    names = ("indices_latents", *(f"indices_{name}" for name in frames))
    indices = torch.arange(12).split([3, *frames.values()])
    return (
        _video_inputs(generator, batch)
        | {"image_embeds": torch.randn(batch, 4, 12, generator=generator)}
        | history
        | dict(zip(names, indices, strict=True))
    )


def _hunyuan_video15(meanflow: bool = False) -> nn.Module:
    return _model(
        "HunyuanVideo15Transformer3DModel",
        in_channels=9,
        num_layers=3,
        text_embed_2_dim=12,
        image_embed_dim=12,
        use_meanflow=meanflow,
    )


def _video15_inputs(generator: Generator, batch: int) -> Arguments:
    """Text to video: the image's embedding is zero."""
    return (
        _video(generator, batch, 9)
        | _text(generator, batch)
        | _glyphs(generator, batch)
        | {"image_embeds": torch.zeros(batch, 4, 12)}
    )


def _image_video15(generator: Generator, batch: int) -> Arguments:
    image = torch.randn(batch, 4, 12, generator=generator)
    return _video15_inputs(generator, batch) | {"image_embeds": image}


def _hunyuan_image(**config: object) -> nn.Module:
    defaults = {
        "num_single_layers": 3,
        "patch_size": (1, 1),
        "text_embed_2_dim": 12,
        "rope_axes_dim": (8, 8),
    }
    return _model("HunyuanImageTransformer2DModel", **defaults | config)


def _distilled_image() -> nn.Module:
    return _hunyuan_image(guidance_embeds=True, use_meanflow=True)


def _refiner() -> nn.Module:
    """Refines an image, as a video of some frames; knows no glyphs."""
    return _hunyuan_image(
        in_channels=8, patch_size=(1, 2, 2), text_embed_2_dim=None, rope_axes_dim=(4, 6, 6)
    )


def _image_inputs(generator: Generator, batch: int) -> Arguments:
    return (
        {"hidden_states": torch.randn(batch, 4, 3, 5, generator=generator)}
        | _text(generator, batch)
        | _glyphs(generator, batch)
    )


def _distilled_inputs(generator: Generator, batch: int) -> Arguments:
    return _image_inputs(generator, batch) | {"guidance": torch.full((batch,), 3500.0)}


def _refiner_inputs(generator: Generator, batch: int) -> Arguments:
    return _video(generator, batch, 8) | _text(generator, batch)


def _jump_time(sigma: float, batch: int) -> Arguments:
    """A mean-flow model is told where the step leads, too."""
    return {
        "timestep": torch.full((batch,), 1000 * sigma),
        "timestep_r": torch.full((batch,), max(1000 * sigma - 100, 0)),
    }


MODELS = available(
    Tiny("HunyuanVideoTransformer3DModel", _hunyuan_video, _video_inputs),
    Tiny(
        "HunyuanVideoTransformer3DModel+latent_concat",
        lambda: _hunyuan_video("latent_concat", 9),
        _concat_inputs,
    ),
    Tiny(
        "HunyuanVideoTransformer3DModel+token_replace",
        lambda: _hunyuan_video("token_replace"),
        _video_inputs,
    ),
    Tiny("HunyuanVideoFramepackTransformer3DModel", _framepack, _framepack_inputs),
    Tiny("HunyuanVideo15Transformer3DModel", _hunyuan_video15, _video15_inputs),
    Tiny(
        "HunyuanVideo15Transformer3DModel+image",
        lambda: _hunyuan_video15(True),
        _image_video15,
        _jump_time,
    ),
    Tiny("HunyuanImageTransformer2DModel", _hunyuan_image, _image_inputs),
    Tiny(
        "HunyuanImageTransformer2DModel+distilled", _distilled_image, _distilled_inputs, _jump_time
    ),
    Tiny("HunyuanImageTransformer2DModel+refiner", _refiner, _refiner_inputs),
)

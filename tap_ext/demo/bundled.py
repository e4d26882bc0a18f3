"""The bundled model behind the unchanged `diffusers.FluxPipeline`.

There is no autoencoder and no text encoder: the "latent" of a picture is its `pixel_unshuffle`
by two, which the pipeline packs into tokens of 4 x 4 pixels, and the caption of a class is a few
learned embeddings, saved beside the transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from tap_ext.demo.scenes import CLASSES, SIZE

__all__ = ["CLASSES", "MODEL", "embed", "generate", "load_pipeline", "pack", "unpack"]

# The names that diffusers imports lazily have no usable types.
_diffusers: Any = diffusers

MODEL = Path(__file__).parent / "model"
"""The bundled checkpoint, in diffusers' own layout."""

EMBEDDINGS = "embeddings.safetensors"

_UNSHUFFLE = 2
# The pipeline believes that an autoencoder shrank the picture eight times; here only the
# unshuffle did, by two.
_PIPELINE_SIDE = SIZE // _UNSHUFFLE * 8
# FLUX.1-dev's shift of the noise levels at 1024 x 1024, whatever the number of tokens is here.
_SHIFT = 1.15


def pack(pictures: torch.Tensor) -> torch.Tensor:
    """Turns pictures (B, 3, SIZE, SIZE) in [0, 1] into the tokens (B, N, 48) of a clean sample."""
    latents = pixel_unshuffle(2 * pictures - 1, _UNSHUFFLE)
    packed: torch.Tensor = _diffusers.FluxPipeline._pack_latents(latents, *latents.shape)
    return packed


def unpack(tokens: torch.Tensor) -> torch.Tensor:
    """Turns tokens (B, N, 48) back into float32 pictures (B, 3, SIZE, SIZE), clamped to [0, 1]."""
    latents: torch.Tensor = _diffusers.FluxPipeline._unpack_latents(
        tokens.float(), _PIPELINE_SIDE, _PIPELINE_SIDE, 8
    )
    return (pixel_shuffle(latents, _UNSHUFFLE) / 2 + 0.5).clamp(0, 1)


def load_pipeline(
    path: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Loads a checkpoint into a `FluxPipeline` that has a transformer and a scheduler only.

    Args:
        path: A folder in the layout of `MODEL`; None loads the bundled model.
        device: Where to run.
        dtype: The dtype of the weights and of the sampling.
    """
    transformer = _diffusers.FluxTransformer2DModel.from_pretrained(
        path or MODEL, torch_dtype=dtype, use_safetensors=True
    )
    scheduler = _diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=_SHIFT, max_shift=_SHIFT
    )
    pipe = _diffusers.FluxPipeline(
        scheduler=scheduler,
        vae=None,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer.eval(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def embed(labels: Sequence[str], path: str | None = None) -> dict[str, torch.Tensor]:
    """Looks up the learned captions of some classes.

    Args:
        labels: Names out of `CLASSES`; B of them.
        path: The checkpoint's folder; None reads the bundled one.

    Returns:
        The pipeline's arguments `prompt_embeds` (B, T, 32) and `pooled_prompt_embeds` (B, 32).

    Raises:
        ValueError: A label is not a class.
    """
    unknown = sorted(set(labels) - set(CLASSES))
    if unknown:
        raise ValueError(f"labels must be among {CLASSES}, got {unknown}")
    numbers = torch.tensor([CLASSES.index(label) for label in labels], dtype=torch.long)
    tables = load_file(Path(path or MODEL) / EMBEDDINGS)
    return {name: table[numbers] for name, table in tables.items()}


def generate(
    pipe: Any,
    labels: Sequence[str],
    steps: int = 50,
    seed: int | Sequence[int] = 0,
    callback: Callable[..., dict[str, Any]] | None = None,
    path: str | None = None,
) -> torch.Tensor:
    """Generates one picture per label through the pipeline's own call.

    Args:
        pipe: From `load_pipeline`.
        labels: Names out of `CLASSES`; B of them.
        steps: Euler steps.
        seed: Picture i starts from the noise of seed + i, or of seed[i] where there is one for
            each; whatever else is in the batch.
        callback: The pipeline's `callback_on_step_end`.
        path: The folder that `pipe` was loaded from; None is the bundled one.

    Returns:
        Float32 pictures (B, 3, SIZE, SIZE) in [0, 1], on the pipeline's device.

    Raises:
        ValueError: A label is not a class.
    """
    captions = {
        name: table.to(pipe.device, pipe.dtype) for name, table in embed(labels, path).items()
    }
    seeds = [seed + i for i in range(len(labels))] if isinstance(seed, int) else seed
    tokens = pipe(
        **captions,
        height=_PIPELINE_SIDE,
        width=_PIPELINE_SIDE,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(one) for one in seeds],
        output_type="latent",
        callback_on_step_end=callback,
    ).images
    return unpack(tokens)

"""The second bundled model, which draws digits, behind the unchanged `PixArtSigmaPipeline`.

It differs from the first in everything that a claim about quality could depend on: cross-attention
and one shared modulation instead of joint attention, twice as many blocks, velocities on the
cosine schedule sampled by DDIM instead of rectified flow, classifier-free guidance with both
branches in one call, other pictures. There is no autoencoder (the "latent" is the picture) and no
text encoder: the caption of a digit is a few learned embeddings, saved beside the transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load_file

from tap_ext.demo.handwriting import CLASSES, SIZE

__all__ = [
    "CLASSES",
    "EMBEDDINGS",
    "GUIDANCE",
    "MODEL",
    "embed",
    "generate",
    "load_pipeline",
    "make_scheduler",
]

# The names that diffusers imports lazily have no usable types.
_diffusers: Any = diffusers

MODEL = Path(__file__).parent / "digits_model"
"""The checkpoint, in diffusers' own layout."""

EMBEDDINGS = "embeddings.safetensors"
"""The captions: `prompt_embeds` (11, T, 32), the last of them that of no class."""

GUIDANCE = 3.0
"""The guidance scale that the samples and measurements use."""

# The pipeline believes that an autoencoder shrank the picture eight times.
_PIPELINE_SIDE = SIZE * 8


def make_scheduler() -> Any:
    """The schedule that the model was trained on, sampled by DDIM from pure noise down to zero."""
    return _diffusers.DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )


def load_pipeline(
    path: str | Path | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Loads a checkpoint into a `PixArtSigmaPipeline` with a transformer and a scheduler only.

    Args:
        path: A folder in the layout of `MODEL`; None loads the bundled model.
        device: Where to run.
        dtype: The dtype of the weights and of the sampling.
    """
    transformer = _diffusers.PixArtTransformer2DModel.from_pretrained(
        path or MODEL, torch_dtype=dtype, use_safetensors=True
    )
    pipe = _diffusers.PixArtSigmaPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=transformer.eval(),
        scheduler=make_scheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def embed(labels: Sequence[str], path: str | Path | None = None) -> dict[str, torch.Tensor]:
    """Looks up the learned captions of some digits.

    Args:
        labels: Names out of `CLASSES`; B of them.
        path: The checkpoint's folder; None reads the bundled one.

    Returns:
        The pipeline's arguments `prompt_embeds` and `negative_prompt_embeds` (B, T, 32), and their
        masks of ones (B, T).

    Raises:
        ValueError: A label is not a class.
    """
    unknown = sorted(set(labels) - set(CLASSES))
    if unknown:
        raise ValueError(f"labels must be among {CLASSES}, got {unknown}")
    table = load_file(Path(path or MODEL) / EMBEDDINGS)["prompt_embeds"].float()
    wanted = table[torch.tensor([CLASSES.index(label) for label in labels], dtype=torch.long)]
    mask = torch.ones(wanted.shape[:2], dtype=torch.long)
    return {
        "prompt_embeds": wanted,
        "prompt_attention_mask": mask,
        "negative_prompt_embeds": table[len(CLASSES)].expand_as(wanted).clone(),
        "negative_prompt_attention_mask": mask.clone(),
    }


def generate(
    pipe: Any,
    labels: Sequence[str],
    steps: int = 50,
    seed: int = 0,
    guidance: float = GUIDANCE,
    callback: Callable[[int, int, torch.Tensor], None] | None = None,
    path: str | Path | None = None,
) -> torch.Tensor:
    """Generates one picture per label through the pipeline's own call.

    Args:
        pipe: From `load_pipeline`.
        labels: Names out of `CLASSES`; B of them.
        steps: DDIM steps.
        seed: Picture i starts from the noise of seed + i, whatever else is in the batch.
        guidance: Classifier-free guidance scale; 1 and less is none.
        callback: The pipeline's `callback`: step, timestep, latents.
        path: The folder that `pipe` was loaded from; None is the bundled one.

    Returns:
        Float32 pictures (B, 3, SIZE, SIZE) in [0, 1], on the pipeline's device.

    Raises:
        ValueError: A label is not a class.
    """
    captions = {
        name: table.to(pipe.device, pipe.dtype if table.is_floating_point() else None)
        for name, table in embed(labels, path).items()
    }
    latents: torch.Tensor = pipe(
        **captions,
        negative_prompt=None,
        guidance_scale=guidance,
        height=_PIPELINE_SIDE,
        width=_PIPELINE_SIDE,
        use_resolution_binning=False,
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(labels))],
        output_type="latent",
        callback=callback,
    ).images
    return (latents.float() / 2 + 0.5).clamp(0, 1)

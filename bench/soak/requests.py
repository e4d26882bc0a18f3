"""Requests of many shapes, prompts and lengths to one FLUX transformer."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

import tap_ext
from bench.soak.subjects import to_device
from tests.pipelines import builders as flux

SIDES = (8, 12, 16, 20, 24, 28, 32, 40)
"""Pixels; four of them are one token."""

SHAPES = tuple(product(SIDES, repeat=2))
PROMPTS = 6
LENGTHS = (4, 5, 6)


@dataclass(frozen=True)
class Request:
    """One picture asked for.

    Attributes:
        height: in pixels.
        width: in pixels.
        steps: how many.
        prompt: its number.
        seed: of the noise.
        kind: ``"pipeline"``; ``"guided"``, two branches; or ``"bare"``, a loop in a ``run()``.
    """

    height: int
    width: int
    steps: int
    prompt: int
    seed: int
    kind: str


def pool(count: int, seed: int = 0) -> list[Request]:
    """``count`` different requests, over all shapes in turn."""
    chance = random.Random(seed)
    found: dict[Request, None] = {}
    while len(found) < count:
        height, width = SHAPES[len(found) % len(SHAPES)]
        kind = chance.choices(("pipeline", "guided", "bare"), (7, 1, 2))[0]
        steps, prompt = chance.choice(LENGTHS), chance.randrange(PROMPTS)
        found[Request(height, width, steps, prompt, chance.randrange(1000), kind)] = None
    return list(found)


def build(device: str) -> Any:
    """A pipeline of as few blocks as there are kinds of them, the same weights every time."""
    torch.manual_seed(0)
    whole = flux.make_transformer()
    config = {**whole.config, "num_layers": 1, "num_single_layers": 1}
    return flux.build(transformer=type(whole).from_config(config).eval()).to(device)


def own(pipe: Any) -> Any:
    """A pipeline for one request: its own scheduler, the same models."""
    copied = copy.copy(pipe)
    copied.scheduler = flux.make_scheduler()
    return copied


def answer(pipe: Any, request: Request, device: str) -> Tensor:
    """What a request gets, by a pipeline of its own."""
    if request.kind == "bare":
        return _bare(pipe.transformer, request, device)
    given = {**flux.prompt(100 * request.prompt), "output_type": "latent"}
    if request.kind == "guided":
        given |= flux.negative(flux.prompt(100 * request.prompt + 50))
    return pipe(
        **to_device(given, device),
        height=request.height,
        width=request.width,
        num_inference_steps=request.steps,
        generator=torch.Generator().manual_seed(request.seed),
    ).images.cpu()


@torch.no_grad()
def _bare(model: Any, request: Request, device: str) -> Tensor:
    high, wide = request.height // 4, request.width // 4
    ids = torch.zeros(high, wide, 3)
    ids[..., 1] += torch.arange(high)[:, None]
    ids[..., 2] += torch.arange(wide)
    embeds = flux.prompt(100 * request.prompt)
    given = {
        "encoder_hidden_states": embeds["prompt_embeds"],
        "pooled_projections": embeds["pooled_prompt_embeds"],
        "guidance": torch.full((1,), 3.5),
        "img_ids": ids.view(-1, 3),
        "txt_ids": torch.zeros(flux.TEXT, 3),
    }
    given = to_device(given, device)
    latents = flux.noise(1, high * wide, 16, seed=request.seed).to(device)
    with tap_ext.run():
        for step in range(request.steps):
            time = torch.full((1,), 1 - step / request.steps, device=device)
            made = model(hidden_states=latents, timestep=time, **given, return_dict=False)[0]
            latents = latents - made / request.steps
    return latents.cpu()

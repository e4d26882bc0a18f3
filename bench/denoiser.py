"""A transformer of a real configuration with random weights, and the loop that calls it.

Speed does not depend on the values of weights, so none are downloaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tap_ext.flops import WORKLOADS, Size, Workload, build

TINY = dataclasses.replace(
    WORKLOADS["flux.1-dev"],
    config={
        "guidance_embeds": True,
        "num_layers": 2,
        "num_single_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "axes_dims_rope": (8, 12, 12),
    },
    size=Size(256, 256, text=16),
)
MODELS: dict[str, Workload] = {
    "tiny": TINY,
    **{name: WORKLOADS[name] for name in ("flux.1-dev", "qwen-image", "hunyuan-video")},
}


class Denoiser:
    """One model on one device, and what its pipeline would call it with.

    Attributes:
        model: the transformer.
        branches: calls per step.
        begin: called with the number of every step that begins.
    """

    def __init__(self, name: str, device: str) -> None:
        workload = MODELS[name]
        self.branches = workload.branches
        self.device = device
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            self.model: Any = build(workload, device)
            with torch.device("meta"):
                given = workload.inputs(workload.size)
        finally:
            torch.set_default_dtype(before)
        given = {key: self._filled(key, value) for key, value in given.items()}
        # its pipeline passes no mask where no prompt is padded
        given = {k: v for k, v in given.items() if k != "encoder_hidden_states_mask"}
        self.latents: Tensor = given.pop("hidden_states")
        given.pop("timestep")
        given.pop("txt_seq_lens", None)
        self.prompts = [
            given | {"encoder_hidden_states": torch.randn_like(given["encoder_hidden_states"])}
            for _ in range(self.branches)
        ]
        self.scale = 1000 if "hunyuan" in name else 1
        self.begin: Callable[[int], object] = lambda step: None

    def _filled(self, name: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if name.endswith("_ids"):
            return torch.zeros(value.shape, device=self.device, dtype=value.dtype)
        if not value.is_floating_point() or name == "guidance":
            return torch.ones(value.shape, device=self.device, dtype=value.dtype)
        return torch.randn(value.shape, device=self.device).to(value.dtype)

    @torch.no_grad()
    def call(self, latents: Tensor, sigma: Tensor, branch: int = 0) -> Tensor:
        """One call of the model at noise level ``sigma``, shape (1,)."""
        output: Tensor = self.model(
            hidden_states=latents,
            timestep=sigma * self.scale,
            **self.prompts[branch],
            return_dict=False,
        )[0]
        return output

    def steps(self, count: int) -> Iterator[Tensor]:
        """Euler's method from noise to picture; yields the latents after every step."""
        dtype = self.latents.dtype
        sigmas = torch.linspace(1, 0, count + 1, device=self.device, dtype=dtype)
        latents = self.latents
        if getattr(self.model, "is_cache_enabled", False):
            self.model._reset_stateful_cache()  # as a pipeline does
        for step, (now, after) in enumerate(pairwise(sigmas.split(1))):
            self.begin(step)
            outputs = []
            for branch in range(self.branches):
                with self._context(f"branch {branch}"):
                    outputs.append(self.call(latents, now, branch))
            output = outputs[0] if len(outputs) == 1 else outputs[1].lerp(outputs[0], 4.0)
            latents = latents + (after - now) * output
            yield latents

    def _context(self, name: str) -> AbstractContextManager[Any]:
        """What diffusers' pipelines tell its caches."""
        known = getattr(self.model, "cache_context", None)
        return nullcontext() if known is None else known(name)

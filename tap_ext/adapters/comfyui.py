"""ComfyUI: a node that patches a clone of a model.

Two wrappers of ``comfy/patcher_extension.py`` in comfyanonymous/ComfyUI (commit 06ce62d):
OUTER_SAMPLE marks a run, DIFFUSION_MODEL stands around the whole model. The arguments and
``transformer_options`` (``uuids``, ``sigmas``, ``sample_sigmas``) are used as in its own
``comfy_extras/nodes_easycache.py`` (commit 0f548d2). Models of ComfyUI are no modules that can be
entered by a spec, so here the *whole model* is what a skip step does without: latents are the
tokens and the probe, what the model returns is predicted. One history per ``uuid``, that is, per
condition. A sampler that calls the model twice per step has more calls than were announced: those
beyond run in full. In ``custom_nodes/tap/__init__.py``: ``from tap_ext.adapters.comfyui import
NODE_CLASS_MAPPINGS``.
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from torch import Tensor

from tap_ext.batch import Batch
from tap_ext.config import Config
from tap_ext.state import State

__all__ = ["NODE_CLASS_MAPPINGS", "TapNode"]

_logger = logging.getLogger("tap_ext")


class _Sampling:
    """The wrappers of one patched model; histories live as long as one run."""

    def __init__(self, config: Config) -> None:
        self.config, self.states = config, dict[Any, State]()

    def outer_sample(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        self.states = {}
        try:
            return executor(*args, **kwargs)
        finally:
            for uuid, state in self.states.items():
                skipped, full = len(state.log.skip_steps), len(state.log.full_steps)
                _logger.info("condition %s: skipped %d/%d steps", uuid, skipped, skipped + full)
            self.states = {}

    def diffusion_model(self, executor: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        options = kwargs.get("transformer_options") or next(
            value for value in reversed(args) if isinstance(value, dict) and "uuids" in value
        )
        if not isinstance(x, Tensor):  # several latents, of video and sound
            return executor(x, *args, **kwargs)
        steps = len(options["sample_sigmas"]) - 1 if "sample_sigmas" in options else None
        for uuid in options["uuids"]:
            if uuid not in self.states:
                self.states[uuid] = State(self.config.plan(steps), self.config)
        batch, tokens = Batch([self.states[uuid] for uuid in options["uuids"]]), _tokens(x)
        batch.begin()
        output, full = batch.predict(tokens, tokens)
        if full:  # a call has one set of conditions, so all of its rows run
            whole = executor(x, *args, **kwargs)
            output[full] = _tokens(whole)[full]
            batch.record(tokens, output, tokens)
        return output.transpose(1, 2).reshape(x.shape).contiguous()


def _tokens(latents: Tensor) -> Tensor:
    """(B, C, ...) as (B, N, C)."""
    return latents.flatten(2).transpose(1, 2).contiguous()


class TapNode:
    """Model in, patched clone out."""

    RETURN_TYPES: ClassVar = ("MODEL",)
    FUNCTION: ClassVar = "patch"
    CATEGORY: ClassVar = "advanced/model"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What the node asks."""
        window = ("INT", {"default": 4, "min": 1, "max": 100})
        return {"required": {"model": ("MODEL",), "window": window}}

    def patch(self, model: Any, window: int) -> tuple[Any]:
        """A clone of ``model`` that runs in full once per ``window`` steps."""
        patched, sampling = model.clone(), _Sampling(Config(window=window))
        patched.add_wrapper_with_key("outer_sample", "tap_ext", sampling.outer_sample)
        patched.add_wrapper_with_key("diffusion_model", "tap_ext", sampling.diffusion_model)
        return (patched,)


NODE_CLASS_MAPPINGS = {"TAP": TapNode}

"""SGLang-Diffusion: a ``DiffusionCache``.

The contract is that of ``python/sglang/multimodal_gen/runtime/cache/base.py`` in sgl-project/sglang
(commit 28726e2): a model calls ``maybe_reset`` and ``should_skip(modulated_input)`` at every step,
then ``read`` or ``write``. Where a request is comes from ``runtime/managers/forward_context.py``:
``current_timestep`` (an index), ``forward_batch.num_inference_steps`` and ``.is_cfg_negative``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor

from tap_ext.config import Config
from tap_ext.state import State, Step

__all__ = ["TapCache"]

_CONTEXT = "sglang.multimodal_gen.runtime.managers.forward_context"


class TapCache:
    """One request at a time; one history per guidance branch."""

    def __init__(
        self, config: Config | None = None, context: Callable[[], Any] | None = None
    ) -> None:
        """A cache; ``context`` gives the forward context, by default sglang's own."""
        self.config = Config() if config is None else config
        if self.config.plan(50).follow() is not None:
            raise ValueError(
                "config must know its full steps beforehand, since should_skip() cannot be taken "
                f"back; got schedule={self.config.schedule!r}"
            )
        self._context = context or importlib.import_module(_CONTEXT).get_forward_context
        self._states: dict[bool, State] = {}
        self._probes: dict[bool, Tensor] = {}
        self._branch = False

    def maybe_reset(self, **_: Any) -> None:
        """Note the step; one that is not later than the last begins another generation."""
        now = self._context()
        self._branch, self._step = bool(now.forward_batch.is_cfg_negative), now.current_timestep
        state = self._states.setdefault(self._branch, State(config=self.config))
        if self._step <= state.step:
            state.reset()
        if state.step < 0:
            state.plan = self.config.plan(int(now.forward_batch.num_inference_steps))

    def should_skip(self, modulated_input: Tensor, **_: Any) -> bool:
        """Whether the blocks need not run; ``modulated_input`` (B, N, D) is the probe."""
        last = self._probes.get(self._branch, modulated_input)
        changed = (last.shape, last.dtype) != (modulated_input.shape, modulated_input.dtype)
        self._probes[self._branch] = modulated_input
        return self._states[self._branch].begin(self._step, full=changed) is Step.SKIP

    def write(self, hidden_states: Tensor, original_hidden_states: Tensor, **_: Any) -> None:
        """Remember what left the blocks, and what had entered them."""
        output = hidden_states.view_as(original_hidden_states)
        probe = self._probes[self._branch]
        self._states[self._branch].record(original_hidden_states, output, probe)

    def read(self, hidden_states: Tensor, **_: Any) -> Tensor:
        """What would leave the blocks; overwritten by the branch's next ``read``."""
        return self._states[self._branch].predict(hidden_states, self._probes[self._branch])

    def calibrate(self, **_: Any) -> None:
        """Nothing is learnt."""

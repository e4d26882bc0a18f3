"""SGLang-Diffusion: what a ``CachableDiT`` asks of its cache, answered by TAP.

Of sglang 0.5.23: a model that can be cached (``runtime/models/dits``: Wan, HunyuanVideo, Hunyuan-
Image 3) calls ``should_skip_forward_for_cached_states(...)`` at every step, then
``retrieve_cached_states(hidden)``, or its blocks and ``maybe_cache_states(output, hidden)``. These
are methods of the model itself, TeaCache's (``runtime/cache/teacache.py``), so a cache of one's own
takes their place on the instance: ``TapCache(Config()).install(model)``. Where a request is comes
from ``runtime/managers/forward_context.py``: ``current_timestep`` (an index) and
``forward_batch.num_inference_steps`` and ``.is_cfg_negative``. HunyuanVideo asks only if the
request has ``enable_teacache``. (Proposals of a ``DiffusionCache`` class were not taken up.)
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
_ASKED = ("should_skip_forward_for_cached_states", "retrieve_cached_states", "maybe_cache_states")


class TapCache:
    """One request at a time; one history per guidance branch."""

    def __init__(
        self,
        config: Config | None = None,
        context: Callable[[], Any] | None = None,
        probe: Callable[..., Tensor] | None = None,
    ) -> None:
        """A cache, not installed yet.

        Args:
            config: what ``State`` is to do.
            context: gives the forward context, by default sglang's own.
            probe: ``(hidden, **asked)`` to (B, N, D), where ``asked`` is what the model asks with,
                such as ``temb``; by default what enters the blocks, unmodulated.

        Raises:
            ValueError: the full steps of ``config`` are not known beforehand.
        """
        self.config = Config() if config is None else config
        if self.config.plan(50).follow() is not None:
            raise ValueError(
                "config must know its full steps beforehand, since a step that is skipped cannot "
                f"be taken back; got schedule={self.config.schedule!r}"
            )
        self._context = context or importlib.import_module(_CONTEXT).get_forward_context
        self._probe = probe or (lambda hidden, **_: hidden)
        self._states: dict[bool, State] = {}
        self._now: State | None = None
        self._asked: dict[str, Any] = {}

    def install(self, model: Any) -> Callable[[], None]:
        """Have ``model`` ask this cache; returns a function that undoes it."""
        before = {name: vars(model).get(name) for name in (*_ASKED, "enable_teacache")}
        for name in _ASKED:
            setattr(model, name, getattr(self, name))
        model.enable_teacache = True  # else the model does not tell what its blocks gave

        def undo() -> None:
            for name, value in before.items():
                delattr(model, name) if value is None else setattr(model, name, value)
            self._states.clear()

        return undo

    def should_skip_forward_for_cached_states(self, **asked: Any) -> bool:
        """Whether the blocks need not run; an earlier step than the last begins a generation."""
        now = self._context()
        if now.forward_batch is None:  # a call outside of any request
            self._now = None
            return False
        branch, step = bool(now.forward_batch.is_cfg_negative), int(now.current_timestep)
        state = self._now = self._states.setdefault(branch, State(config=self.config))
        if step <= state.step:
            state.reset()
        if state.step < 0:
            state.plan = self.config.plan(int(now.forward_batch.num_inference_steps))
        self._asked = asked
        return state.begin(step) is Step.SKIP

    def retrieve_cached_states(self, hidden_states: Tensor) -> Tensor:
        """What would leave the blocks; overwritten by the branch's next one."""
        assert self._now is not None
        return self._now.predict(hidden_states, self._probe(hidden_states, **self._asked))

    def maybe_cache_states(self, hidden_states: Tensor, original_hidden_states: Tensor) -> None:
        """Remember what left the blocks, and what had entered them."""
        if self._now is not None:
            probe = self._probe(original_hidden_states, **self._asked)
            output = hidden_states.view_as(original_hidden_states)
            self._now.record(original_hidden_states, output, probe)

"""Requests at different steps in one batch: each row follows its own state.

The embedder, the head and whatever else is cheap run on the whole batch; the blocks run on the rows
whose step is full, and the others are predicted. A request may come and go at any step, since
nothing in here outlives one::

    batch = Batch([request.state for request in present])
    batch.begin()
    output, full = batch.predict(hidden, probe)
    if full:
        output[full] = blocks(hidden[full])
        batch.record(hidden, output, probe)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tap_ext.state import FullStepWanted, State, Step

__all__ = ["Batch"]


class Batch:
    """One step of several requests. Each row is bit-equal to what its state does alone.

    Attributes:
        states: one per request, in the order of the rows; each has as many rows as the others.
    """

    def __init__(self, states: Sequence[State]) -> None:
        """A batch of these requests.

        Raises:
            ValueError: there is none, or one is there twice.
        """
        self.states = tuple(states)
        if not self.states or len(set(map(id, self.states))) != len(self.states):
            raise ValueError(f"states must be distinct and at least one, got {len(self.states)}")
        self._due: list[Step] = []

    def begin(
        self, steps: Sequence[int] | None = None, positions: Sequence[float] | None = None
    ) -> list[Step]:
        """Begin a step of every request. Host arithmetic only.

        Args:
            steps: each request's step index; default: the one after its last.
            positions: each request's abscissa; default: its step index.

        Returns:
            What each request's step is, by its own plan.

        Raises:
            ValueError: there are not as many steps or positions as states.
        """
        count = len(self.states)
        given: list[Sequence[int] | Sequence[float] | None] = [steps, positions]
        for name, values in zip(("steps", "positions"), given, strict=True):
            if values is not None and len(values) != count:
                raise ValueError(f"{name} must be one per state ({count}), got {len(values)}")
        self._due = [
            state.begin(
                None if steps is None else steps[i], None if positions is None else positions[i]
            )
            for i, state in enumerate(self.states)
        ]
        return list(self._due)

    def predict(self, hidden: Tensor, probe: Tensor) -> tuple[Tensor, list[int]]:
        """Predict the rows whose step is skipped.

        A row whose history is of another shape, or whose plan wants the step in full now that it
        has seen the probe, becomes full.

        Args:
            hidden: (B, ..., N, D), what would enter the blocks.
            probe: (B, ..., N, Dp), the probe of ``hidden``.

        Returns:
            output: (B, ..., N, D), new; rows of full steps are not set.
            full: the rows that the blocks have to run on, rising.
        """
        output = torch.empty_like(hidden)
        full: list[int] = []
        for i, (state, rows) in enumerate(zip(self.states, self._rows(hidden, probe), strict=True)):
            if self._due[i] is Step.SKIP:
                try:
                    if state.fits(hidden[rows], probe[rows]):
                        output[rows] = state.predict(hidden[rows], probe[rows])
                        continue
                except FullStepWanted:
                    pass
                self._due[i] = state.begin(state.step, state.position, full=True)
            full.extend(range(rows.start, rows.stop))
        return output, full

    def record(self, hidden: Tensor, output: Tensor, probe: Tensor) -> None:
        """Remember the full steps.

        Args:
            hidden: as given to ``predict``.
            output: as ``predict`` returned it, its full rows set to what leaves the blocks.
            probe: as given to ``predict``.
        """
        for i, (state, rows) in enumerate(zip(self.states, self._rows(hidden, probe), strict=True)):
            if self._due[i] is Step.FULL:
                state.record(hidden[rows], output[rows], probe[rows])

    def _rows(self, hidden: Tensor, probe: Tensor) -> list[slice]:
        """The rows of each request."""
        if not self._due:
            raise RuntimeError("begin() must come first, got no begin()")
        count, each = len(self.states), len(hidden) // len(self.states)
        if len(hidden) != len(probe) or each * count != len(hidden) or hidden.dim() < 3:
            raise ValueError(
                f"hidden and probe must be (B, ..., N, D) with B a multiple of {count} states, "
                f"got {tuple(hidden.shape)} and {tuple(probe.shape)}"
            )
        return [slice(i * each, (i + 1) * each) for i in range(count)]

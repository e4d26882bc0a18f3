"""Buffers at fixed addresses: what a step changes in them comes in two halves.

The first half depends on the host (which positions, which candidates) and copies a few numbers to
the device. The second is work on the device alone, always at the same addresses, so that it can be
captured as part of a CUDA graph and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tap_ext import ops
from tap_ext.predictors import Predictor, Rows, gaps
from tap_ext.uploads import Uploads, upload

__all__ = ["NOTHING", "Beside", "Candidates", "Remembered", "Stack", "alike"]

Beside = tuple[float, float, float]
"""Numbers that are sent along with the rows of a skip step, for whoever needs them."""

NOTHING: Beside = (0.0, 0.0, 0.0)
"""Where nobody does."""


@dataclass(frozen=True)
class Remembered:
    """One feature's divided differences.

    Attributes:
        planes: (S, B, N, D); None: nothing was recorded.
        past: positions of the full steps they stand for, newest first.
    """

    planes: Tensor | None
    past: tuple[float, ...]

    def to(self, device: torch.device | str) -> Remembered:
        """The same on ``device``."""
        return self if self.planes is None else replace(self, planes=self.planes.to(device))


class Stack:
    """The divided differences of a feature over its last S full steps, newest first.

    Attributes:
        planes: (S, B, N, D), in the feature's dtype; None before the first ``fit``.
        past: positions of the full steps that the planes stand for, newest first.
        moves: how often the buffer was allocated; who has recorded work on it records it again.
    """

    def __init__(self, depth: int) -> None:
        """A stack of ``depth`` planes (S)."""
        self.depth = depth
        self.moves = 0
        self.planes: Tensor | None = None
        self.past: tuple[float, ...] = ()
        self._gaps: Tensor | None = None

    def fit(self, feature: Tensor) -> None:
        """Make the buffer one for features like this, (B, N, D).

        It keeps its address as long as they have the same shape, dtype and device; one that has
        not begins the history anew.
        """
        if self.planes is None or not alike(self.planes[0], feature):
            self.past = ()
            self.moves += 1
            with torch.inference_mode(False):
                self.planes = feature.new_empty((self.depth, *feature.shape))
                self._gaps = feature.new_empty(self.depth - 1, dtype=torch.float32)

    def aim(self, position: float) -> None:
        """First half of a push into the same buffer: what depends on the host."""
        assert self._gaps is not None
        self.past = (position, *self.past)[: self.depth]
        distances = np.array(gaps(self.past, self.depth), dtype=np.float32)
        self._gaps.copy_(upload(distances, self._gaps.device))

    def update(self, feature: Tensor, minus: Tensor | None) -> None:
        """Second half of a push, ``feature - minus``: work on the device, at fixed addresses."""
        assert self.planes is not None and self._gaps is not None
        ops.stack_update_(self.planes, feature, self._gaps, minus)

    def clear(self) -> None:
        """Forget the history; the buffer is kept."""
        self.past = ()

    def detach(self, device: torch.device | str | None) -> Remembered:
        """Take the history out: the buffer itself, or, to ``device``, a copy of what it holds."""
        planes, past = self.planes if self.past else None, self.past
        if planes is not None and device is not None:
            planes = planes.to(device, copy=True)
        elif planes is not None:
            self.planes = self._gaps = None
        self.clear()
        return Remembered(planes, past)

    def attach(self, kept: Remembered, device: torch.device | str | None) -> None:
        """Put a copy of ``kept`` in, into the buffer at hand where that is of its shape."""
        if kept.planes is not None:
            like = self.planes if device is None else None
            if like is None or like.shape != kept.planes.shape or like.dtype != kept.planes.dtype:
                like = torch.empty_like(kept.planes[:1], device=device)
            self.fit(like[0])
            assert self.planes is not None
            self.planes.copy_(kept.planes)
        self.past = kept.past

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self.planes is None else self.planes.nbytes


class Candidates:
    """The rows of a skip step, and how many tokens took each predictor.

    There are always as many rows as predictors: where fewer are told apart, the first fills up, of
    equals the first being taken. So every skip step of a run is the same work.

    Attributes:
        weights: (M, S) float32, one row of weights per candidate; None: no skip step yet.
        beside: (3,) float32, what else the step needs of the host; None likewise.
        counts: (len(family),) int64, tokens per predictor since ``clear``; None likewise.
    """

    def __init__(self, family: tuple[Predictor, ...], planes: int) -> None:
        """No rows yet, for stacks of so many planes (S)."""
        self._shape = len(family), planes
        self._device: torch.device | None = None
        self.weights: Tensor | None = None
        self.beside: Tensor | None = None
        self.counts: Tensor | None = None
        self._counts: Tensor | None = None
        self._owners: Tensor | None = None
        self._numbers: Tensor | None = None
        self._sent: Tensor | None = None
        self._uploads: Uploads | None = None

    def aim(
        self,
        where: Hashable,
        find: Callable[[], tuple[Rows, float]],
        device: torch.device,
        *,
        counted: bool = True,
        beside: Beside = NOTHING,
    ) -> Rows:
        """First half of a skip step: which rows there are.

        All that is sent lies in one buffer, since every copy costs the host as much as a kernel's
        launch. Nothing is found or made twice.

        Args:
            where: what the rows depend on.
            find: gives them, and how far positions are apart where theirs are 1 apart.
            device: where they are needed.
            counted: whether the choices are to be counted.
            beside: what else is to be sent.

        Returns:
            The rows.
        """
        if self._device != device:
            self._allocate(device)
        assert self._sent is not None and self._uploads is not None
        rows, packed = self._uploads.get(
            (where, counted, beside), lambda: self._pack(*find(), counted, beside)
        )
        self._sent.copy_(packed)
        return rows

    def _pack(
        self, table: Rows, unit: float, counted: bool, beside: Beside
    ) -> tuple[Rows, npt.NDArray[np.uint8]]:
        """The rows; and owners, what lies beside, and weights, as they lie in the buffer."""
        size, planes = self._shape
        # D_i has the unit of the feature over position^i: bring the weights from steps to that
        difference = table.difference * unit ** np.arange(planes)
        missing = size - len(table)
        weights = np.concatenate([difference, *([difference[:1]] * missing)])
        owners = np.array([*table.source, *([table.source[0]] * missing)], dtype=np.int64)
        if not counted:  # by a number, so that the second half is the same work
            owners[:] = size
        numbers = np.concatenate([beside, weights.reshape(-1)]).astype(np.float32)
        return table, np.concatenate([owners.view(np.uint8), numbers.view(np.uint8)])

    def _allocate(self, device: torch.device) -> None:
        size, planes = self._shape
        with torch.inference_mode(False):
            self._counts = torch.zeros(size + 1, dtype=torch.int64, device=device)
            self._numbers = torch.arange(size, dtype=torch.int32, device=device)
            owned, others = 8 * size, len(NOTHING)  # bytes, first, so that they are aligned
            sent = torch.empty(
                owned + 4 * (others + size * planes), dtype=torch.uint8, device=device
            )
            numbers = sent[owned:].view(torch.float32)
            self._sent, self._owners = sent, sent[:owned].view(torch.int64)
            self.beside, self.weights = numbers[:others], numbers[others:].view(self._shape)
        self.counts = self._counts[:size]
        self._device, self._uploads = device, Uploads(device)

    def count(self, index: Tensor) -> None:
        """Second half: add the choices of one skip step, ``index`` (B, N) into the rows."""
        assert self._owners is not None and self._counts is not None and self._numbers is not None
        self._counts.index_add_(0, self._owners, (index.reshape(-1, 1) == self._numbers).sum(0))

    def clear(self) -> Tensor | None:
        """Begin to count anew; returns what was counted."""
        if self.counts is None:
            return None
        counted = self.counts.clone()
        self.counts.zero_()
        return counted

    def resume(self, counts: Tensor, device: torch.device) -> Tensor:
        """Count on from ``counts``; returns the buffer that does."""
        if self._device != device:
            self._allocate(device)
        assert self.counts is not None
        self.counts.copy_(counts)
        return self.counts


def alike(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors agree in shape, dtype and device."""
    return (left.shape, left.dtype, left.device) == (right.shape, right.dtype, right.device)

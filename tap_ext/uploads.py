"""Small arrays of the host on a device, each copied there once.

What a step needs of the host, a few weights, recurs from window to window and from run to run. A
copy from pageable memory would make every step wait for the device.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tap_ext.locks import Lock

__all__ = ["Uploads", "stream_of", "type_of", "upload"]

T = TypeVar("T")

CAPACITY = 1024
"""Arrays kept, least recently used first to go; each is of some hundred bytes."""

_kept: OrderedDict[Any, tuple[Tensor, Tensor]] = OrderedDict()
_lock = Lock()


def stream_of(device: torch.device) -> int:
    """The present stream: another would not know when a copy is done."""
    if type_of(device) != "cuda":
        return 0
    index = torch.cuda.current_device() if device.index is None else device.index
    stream: int = torch._C._cuda_getCurrentRawStream(index)  # without making a Stream of it
    return stream


@functools.cache
def type_of(device: torch.device) -> str:
    """``device.type``, which is a string made anew at every look."""
    return device.type


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """``array`` on ``device``, not to be written to. Never waits for the device."""
    if device.type != "cuda":
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)
    key = (array.tobytes(), array.shape, array.dtype.str, device, stream_of(device))
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key][1]
    with torch.inference_mode(False):
        pinned = torch.from_numpy(np.ascontiguousarray(array)).pin_memory()
        value = pinned.to(device, non_blocking=True)
    with _lock:
        _kept[key] = pinned, value  # the source stays until the copy is surely done
        while len(_kept) > CAPACITY:
            _kept.popitem(last=False)
    return value


MAX_UPLOADS = 256
"""Steps whose numbers one buffer remembers, by a few hundred bytes each; a run has some forty."""


class Uploads:
    """What was uploaded for a buffer, by what it was made of: nothing is made twice."""

    def __init__(self, device: torch.device) -> None:
        """Nothing yet."""
        self._device = device
        self._kept: dict[Any, tuple[Any, Tensor]] = {}

    def __len__(self) -> int:
        """How much is kept."""
        return len(self._kept)

    def get(
        self, key: Hashable, make: Callable[[], tuple[T, npt.NDArray[Any]]]
    ) -> tuple[T, Tensor]:
        """What ``make`` makes, its array on the device, not to be written to.

        Args:
            key: what it is made of.
            make: called where this was not made yet; gives something else along with the array.
        """
        known = key, stream_of(self._device)
        kept = self._kept.get(known)
        if kept is None:
            if len(self._kept) >= MAX_UPLOADS:
                self._kept.clear()
            made, array = make()
            kept = self._kept[known] = made, upload(array, self._device)
        return kept

"""Small arrays on a device, and what tells one of its streams from another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tap_ext import uploads
from tap_ext.uploads import Uploads, stream_of

CPU = torch.device("cpu")


def test_the_present_stream_is_asked_for_by_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    present = {0: 7, 3: 11}
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", present.get, raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert [stream_of(torch.device("cuda", index)) for index in (0, 3)] == [7, 11]
    assert stream_of(torch.device("cuda")) == 11 and stream_of(CPU) == 0


def test_nothing_is_made_twice_but_for_another_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, made, sent = 0, [], Uploads(CPU)
    monkeypatch.setattr(uploads, "stream_of", lambda device: stream)

    def make() -> tuple[Any, Any]:
        made.append(object())
        return made[-1], np.arange(3)

    for stream in (1, 2, 1, 2):
        with_it, array = sent.get(("a", 1.5), make)
        assert with_it is made[stream - 1] and array.tolist() == [0, 1, 2]
    assert len(made) == len(sent) == 2
    sent.get(("a", 2.5), make)
    assert len(made) == len(sent) == 3

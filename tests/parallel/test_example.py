"""examples/serving/context_parallel.py, which measures what docs/scale.md says of ranks."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import pytest
import torch

from tests.regressions.ranks import on_every_rank
from tests.versions import DIFFUSERS_VERSION

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo"),
    pytest.mark.skipif(DIFFUSERS_VERSION < (0, 42), reason="shares no tokens on the CPU"),
]

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "serving"


def test_ranks_say_what_the_page_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    example = importlib.import_module("context_parallel")
    small = argparse.Namespace(steps=8, width=64, depth=1, side=8)
    made = {}
    for world in (1, 2):
        (folder := tmp_path / str(world)).mkdir()
        made[world] = on_every_rank(lambda: example.measure(small), folder, world)
    (alone,), (first, second) = made[1], made[2]
    assert first["chosen"] == second["chosen"] == alone["chosen"]
    assert alone["full_said"] == alone["skip_said"] == (0, 0)
    assert first["full_said"] == first["untouched_said"]
    count, size = first["skip_said"]
    # how many tokens a rank has, and what it made of them: 64 / 2 tokens of 64 numbers
    assert (count, size) == (2, 8 + 32 * 64 * 4)
    # three outputs and two numbers of the blend, which every rank has whole
    whole = 4 * (3 * 64 * 64 + 2)
    assert (first["history_bytes"] - whole) * 2 == alone["history_bytes"] - whole

"""The scripts that trained the bundled models."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize(
    ("script", "data"),
    [("train_demo_model", "--per-class=2"), ("train_digits_model", "--pictures=8")],
)
def test_a_resumed_training_takes_the_steps_of_an_uninterrupted_one(
    script: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module(script)
    steady = module.learning_rate

    def train(folder: str, *more: str) -> None:
        asked = [data, "--steps=3", "--batch=2", "--warm-up=1", "--save-every=1", "--seed=4"]
        monkeypatch.setattr(sys, "argv", [script, f"--out={tmp_path / folder}", *asked, *more])
        module.main()

    def stop_at_the_last(step: int, *rest: Any) -> float:
        if step == 2:
            raise KeyboardInterrupt
        return float(steady(step, *rest))

    train("whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "learning_rate", stop_at_the_last)
        train("parts")
    assert '"steps": 2' in (tmp_path / "parts" / "training.json").read_text()
    train("parts", "--resume")
    for name in ("diffusion_pytorch_model.safetensors", module.EMBEDDINGS):
        expected, found = (load_file(tmp_path / folder / name) for folder in ("whole", "parts"))
        assert all(torch.equal(tensor, found[key]) for key, tensor in expected.items())
    assert '"steps": 3' in (tmp_path / "parts" / "training.json").read_text()

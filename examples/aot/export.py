"""Compile a skip step ahead of time, for a program without Python.

    python examples/aot/export.py FOLDER

writes to FOLDER ``skip_step.pt2`` (embedder, probe, ``tap_ext::skip_step_`` and head of the model
of ``examples/embed_plain_dit.py``, exported by ``torch.export`` and compiled by AOTInductor) and
``sample.pt``: the full steps of a run, the tables of its skip steps, and what Python makes of
them, for ``run.cpp`` to compare with. Which rows a skip step weighs is known before a run begins,
so the tables are plain numbers and C++ needs no predictor.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from tap_ext import Config, Plan, State, Step, ops
from tap_ext.predictors import gaps, rows

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from embed_plain_dit import DiT

STEPS, WINDOW, BATCH, TOKENS, CHANNELS = 8, 6, 2, 64, 8


class SkipStep(nn.Module):
    """What runs on a skip step; all its state comes in as arguments."""

    def __init__(self, model: DiT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, time: Tensor, probes: Tensor, residuals: Tensor, table: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The velocity (B, N, C), and the row that each token took (B, N)."""
        hidden, _, probe = self.model.before(x, time)
        output = torch.empty_like(hidden)
        index = hidden.new_empty(hidden.shape[:-1], dtype=torch.int32)
        ops.skip_step_(output, index, probes, probe, residuals, hidden, table)
        return self.model.after(output), index


def compile_skip_step(model: DiT, config: Config, package: Path) -> None:
    """Export and compile; the batch may have any size."""
    planes, width = config.planes, model.embedder.out_features
    sample = (
        torch.randn(BATCH, TOKENS, CHANNELS),
        torch.rand(BATCH),
        torch.randn(planes, BATCH, TOKENS, width),
        torch.randn(planes, BATCH, TOKENS, width),
        torch.randn(len(config.family()), planes),
    )
    batch, candidates = torch.export.Dim("batch", min=1), torch.export.Dim("candidates", min=1)
    shapes = ({0: batch}, {0: batch}, {1: batch}, {1: batch}, {0: candidates})
    program = torch.export.export(SkipStep(model).eval(), sample, dynamic_shapes=shapes)
    torch._inductor.aoti_compile_and_package(program, package_path=str(package))


@torch.inference_mode()
def record_run(model: DiT, config: Config) -> dict[str, Tensor]:
    """A run through ``State``, as tensors: what each kind of step is given, and what it gives."""
    plan = Plan(WINDOW, num_steps=STEPS)
    state, x = State(plan, config), torch.randn(BATCH, TOKENS, CHANNELS)
    kept: dict[str, Tensor] = {}
    past: tuple[float, ...] = ()
    for step in range(STEPS):
        time = torch.full((BATCH,), 1 - step / STEPS)
        hidden, conditioning, probe = model.before(x, time)
        if state.begin() is Step.FULL:
            output = model.middle(hidden, conditioning)
            state.record(hidden, output, probe)
            past = (float(step), *past)[: config.planes]
            kept |= {f"{step}.hidden": hidden, f"{step}.output": output, f"{step}.probe": probe}
            kept[f"{step}.gaps"] = torch.tensor(gaps(past, config.planes))
        else:
            output = state.predict(hidden, probe)
            table = rows(config.family(), past, float(step), config.planes)
            kept |= {f"{step}.x": x, f"{step}.time": time}
            kept[f"{step}.table"] = torch.tensor(table.difference)
            kept[f"{step}.velocity"] = model.after(output)
        x = x - model.after(output) / STEPS
    return {name: value.clone().float() for name, value in kept.items()}


def main() -> None:
    """Write both files."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model, config = DiT(CHANNELS).eval(), Config()
    torch.save(record_run(model, config), folder / "sample.pt")
    compile_skip_step(model, config, folder / "skip_step.pt2")


if __name__ == "__main__":
    main()

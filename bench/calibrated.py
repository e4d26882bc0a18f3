"""Calibrated, paced and even full steps on a bundled model, paired, in PSNR to its untouched run.

    python -m bench.calibrated --model digits --full-steps 14,12,10,8,7 --samples 20

Calibrated on eight pictures of seeds 100 to 107, compared on those from 6000 on.
"""

from __future__ import annotations

import argparse
import math
import statistics

import torch

import tap_ext
from tap_ext.evaluate.models import Model, open_model
from tap_ext.integrations.diffusers import PipelineClock
from tap_ext.plan import Even, Paced, Schedule

STEPS = 50


def main() -> None:
    """Prints one line per budget and placement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="digits", choices=("bundled", "digits"))
    parser.add_argument("--full-steps", default="14,12,10,8,7")
    parser.add_argument("--samples", type=int, default=12)
    arguments = parser.parse_args()
    model = open_model(arguments.model, torch.device("cpu"))
    found = tap_ext.calibrate(model.pipe, lambda: _generate(model, model.pipe, range(100, 108)))
    seeds = range(6000, 6000 + arguments.samples)
    reference = _generate(model, model.pipe, seeds)
    angles = PipelineClock(model.pipe).angles()
    assert angles is not None
    fast = model.twin()
    for count in map(int, arguments.full_steps.split(",")):
        ways: dict[str, Schedule] = {
            "even": Even(count),
            "paced": Paced(count, angles),
            "calibrated": found.schedule(count),
        }
        base: list[float] = []
        for name, schedule in ways.items():
            tap_ext.accelerate(fast, preset="paper", forecast="hidden", schedule=schedule)
            errors = (_generate(model, fast, seeds) - reference).square().flatten(1).mean(1)
            values = (-10 * errors.log10()).tolist()
            base = base or values
            gains = [value - other for value, other in zip(values, base, strict=True)]
            error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
            print(
                f"{count:3d} {name:11s} {statistics.fmean(values):6.2f} dB, worst "
                f"{min(values):6.2f}, over even {statistics.fmean(gains):+6.2f} ± {error:.2f}, "
                f"least {min(gains):+.1f}, steps {schedule.full_steps(STEPS)}",  # type: ignore[attr-defined]
                flush=True,
            )


def _generate(model: Model, pipe: object, seeds: range) -> torch.Tensor:
    prompts = model.prompts or ("",)
    return torch.cat(
        [
            model.generate(pipe, [prompts[s % len(prompts)] for s in part], list(part), STEPS)
            for part in (seeds[i : i + 16] for i in range(0, len(seeds), 16))
        ]
    )


if __name__ == "__main__":
    main()

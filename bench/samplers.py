"""What corrector and blend are worth with other samplers: paired, in dB of PSNR.

    python -m bench.samplers --part corrector --model digits --full-steps 14,10,7 --samples 16

Each run is compared with the untouched run of the same sampler and seed, from seed 9000 on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import diffusers
from torch import Tensor

import tap_ext
from tap_ext.demo import bundled, digits
from tap_ext.evaluate.metrics import psnr

FLOW: dict[str, Callable[[], Any]] = {
    "euler": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "shift 6": lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
    "karras": lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True),
    "beta": lambda: diffusers.FlowMatchEulerDiscreteScheduler(use_beta_sigmas=True),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
    ),
    "stochastic": lambda: diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, stochastic_sampling=True
    ),
}

_COSINE: dict[str, Any] = {
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}

COSINE: dict[str, Callable[[], Any]] = {
    "ddim": digits.make_scheduler,
    "euler": lambda: diffusers.EulerDiscreteScheduler(**_COSINE),
    "dpm++ 2": lambda: diffusers.DPMSolverMultistepScheduler(**_COSINE),
    "dpm++ 3": lambda: diffusers.DPMSolverMultistepScheduler(**_COSINE, solver_order=3),
    "unipc": lambda: diffusers.UniPCMultistepScheduler(**_COSINE),
    "deis": lambda: diffusers.DEISMultistepScheduler(**_COSINE),
    "pndm": lambda: diffusers.PNDMScheduler(**_COSINE, skip_prk_steps=True),
    "lms": lambda: diffusers.LMSDiscreteScheduler(**_COSINE),
    "sa": lambda: diffusers.SASolverScheduler(**_COSINE),
    "euler ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(**_COSINE),
    "ddpm": lambda: diffusers.DDPMScheduler(**_COSINE, clip_sample=False),
    "sde-dpm++": lambda: diffusers.DPMSolverMultistepScheduler(
        **_COSINE, algorithm_type="sde-dpmsolver++"
    ),
}

PARTS: dict[str, tuple[dict[str, bool], dict[str, bool]]] = {
    "corrector": ({"corrector": False, "blend": False}, {"blend": False}),
    "blend": ({"blend": False}, {}),
}
"""What is left out of the default, without the part and with it."""

MODELS: dict[str, tuple[Any, dict[str, Callable[[], Any]]]] = {
    "bundled": (bundled, FLOW),
    "digits": (digits, COSINE),
}


def main() -> None:
    """Prints one line per sampler and budget."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", default="blend", choices=tuple(PARTS))
    parser.add_argument("--model", default="digits", choices=tuple(MODELS))
    parser.add_argument("--full-steps", default="14,10,7")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--samplers", help="default: all of the model's")
    arguments = parser.parse_args()
    module, samplers = MODELS[arguments.model]
    labels = [module.CLASSES[i % len(module.CLASSES)] for i in range(arguments.samples)]
    wanted = arguments.samplers.split(",") if arguments.samplers else samplers
    for name in wanted:
        pipe = module.load_pipeline()
        pipe.scheduler = samplers[name]()

        def generate(pipe: Any = pipe) -> Tensor:
            made: Tensor = module.generate(pipe, labels, steps=arguments.steps, seed=9000)
            return made

        reference = generate()
        for count in map(int, arguments.full_steps.split(",")):
            without, with_it = (
                _psnr(pipe, count, less, generate, reference) for less in PARTS[arguments.part]
            )
            gain = [b - a for a, b in zip(without, with_it, strict=True)]
            print(
                f"{arguments.model} {name}, {count} of {arguments.steps}: "
                f"{statistics.mean(without):.1f} -> {statistics.mean(with_it):.1f}, "
                f"{statistics.mean(gain):+.1f} ± {statistics.stdev(gain) / len(gain) ** 0.5:.1f}, "
                f"worst {min(without):.1f} -> {min(with_it):.1f}",
                flush=True,
            )


def _psnr(
    pipe: Any,
    count: int,
    less: dict[str, bool],
    generate: Callable[[], Tensor],
    reference: Tensor,
) -> list[float]:
    tap_ext.accelerate(pipe, full_steps=count, **less)
    try:
        return psnr(generate(), reference)
    finally:
        tap_ext.restore(pipe)


if __name__ == "__main__":
    main()

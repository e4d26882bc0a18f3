"""What the training scripts share: their command line, and the loop with its checkpoints.

Every step draws from a generator seeded by (seed, step), so a training that was interrupted and
resumed takes the same steps as an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

STATE = "state.pt"
"""Within the folder that is written: what ``--resume`` goes on from."""


def arguments(about: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The command line; ``defaults`` gives each of its first six options one."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, help="folder to write")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--peak", type=float, help="highest learning rate")
    parser.add_argument("--warm-up", type=int, help="steps")
    parser.add_argument("--save-every", type=int, help="steps between checkpoints")
    parser.set_defaults(**defaults)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line and set the process up as it says."""
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def train(
    trainee: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    rate_of: Callable[[int], float],
    save: Callable[[dict[str, Tensor]], None],
    args: argparse.Namespace,
) -> None:
    """Train, keeping an average of the weights.

    Args:
        trainee: what is trained, on ``args.device``.
        loss_of: the loss of one batch that is drawn from a generator.
        rate_of: the learning rate at a step.
        save: writes averaged weights, by name, into ``args.out``.
        args: of the command line.
    """
    average = {name: tensor.detach().clone() for name, tensor in trainee.state_dict().items()}
    optimizer = torch.optim.AdamW(
        trainee.parameters(), lr=args.peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    first, seconds, smooth = 0, 0.0, 0.0
    if args.resume:
        state = torch.load(args.out / STATE, map_location=args.device, weights_only=True)
        trainee.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
        seconds, smooth = state["seconds"], state["loss"]

    start = time.monotonic() - seconds
    for step in range(first, args.steps):
        loss = loss_of(torch.Generator().manual_seed(args.seed * 1_000_003 + step))
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
        optimizer.step()
        # The horizon grows with the step, so that the first weights are soon forgotten.
        decay = min(0.998, (1 + step) / (10 + step))
        weights = trainee.state_dict()
        with torch.no_grad():
            for name, tensor in average.items():
                tensor.lerp_(weights[name], 1 - decay)
        done = step + 1
        smooth += (loss.item() - smooth) * max(0.01, 1 / done)
        if done % 50 == 0:
            print(f"{done:6d}  loss {smooth:.4f}  {time.monotonic() - start:7.0f} s", flush=True)
        if done % args.save_every == 0 or done == args.steps:
            seconds = time.monotonic() - start
            log = {"steps": done, "loss": smooth, "seconds": round(seconds), "seed": args.seed}
            save(average)
            (args.out / "training.json").write_text(json.dumps(log, indent=2) + "\n")
            state = {"model": trainee.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"average": average, "step": done, "seconds": seconds, "loss": smooth}
            torch.save(state, args.out / STATE)

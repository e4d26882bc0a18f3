"""One picture on several devices: diffusers' context parallelism, and what a step costs with it.

    torchrun --standalone --nproc-per-node 2 examples/serving/context_parallel.py

The ranks share the tokens. tap_ext needs nothing for that: it skips the same steps on each, chooses
for each token what one process would choose, and says nothing between ranks. On a machine without
an accelerator it runs on the CPU, with gloo. Printed are, as JSON, times as ratios, how often and
how many bytes a rank hands to collectives in a step, and a digest of what was chosen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import tap_ext

WINDOW = 6


def parallelise(model: Any) -> None:
    """Divide the tokens of each call between the ranks."""
    if not torch.accelerator.is_available():  # diffusers asks for one, whatever the backend
        torch.accelerator.device_count = lambda: 1
        torch._C._get_accelerator = lambda *_: torch.device("cpu")
    config = ContextParallelConfig(ulysses_degree=dist.get_world_size(), ulysses_anything=True)
    model.enable_parallelism(config=config)


def flux(width: int, depth: int) -> Any:
    """A FLUX of random weights; its blocks are what a trained one's are."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(
        num_layers=depth,
        num_single_layers=2 * depth,
        num_attention_heads=width // 32,
        attention_head_dim=32,
        axes_dims_rope=(4, 14, 14),
        joint_attention_dim=64,
        pooled_projection_dim=64,
    ).eval()


def inputs(side: int, text: int) -> dict[str, Any]:
    """One call's arguments, for side x side tokens of a picture."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(side, side, 3)
    ids[..., 1] += torch.arange(side)[:, None]
    ids[..., 2] += torch.arange(side)
    return {
        "hidden_states": torch.randn(1, side * side, 64, generator=generator),
        "encoder_hidden_states": torch.randn(1, text, 64, generator=generator),
        "pooled_projections": torch.randn(1, 64, generator=generator),
        "img_ids": ids.view(-1, 3),
        "txt_ids": torch.zeros(text, 3),
    }


class Said(TorchDispatchMode):
    """Bytes handed to collectives, and how many of those there were."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count an op of torch.distributed."""
        name = op.__name__
        if "c10d" in op.namespace and not name.startswith(("wait_tensor", "_wrap")):
            given = args[1] if name.startswith("allgather") else args[0]
            given = given if isinstance(given, (list, tuple)) else [given]
            self.count += 1
            self.bytes += sum(t.nbytes for t in given if isinstance(t, Tensor))
        return op(*args, **(kwargs or {}))


@torch.inference_mode()
def walk(model: nn.Module, given: dict[str, Any], steps: int) -> list[tuple[float, int, int]]:
    """Euler steps from noise; seconds, collectives and their bytes of each."""
    given, seen = dict(given), []
    for step in range(steps):
        with Said() as said:
            begin = time.perf_counter()
            now = torch.full((1,), 1 - step / steps)
            velocity = model(**given, timestep=now, return_dict=False)[0]
            seen.append((time.perf_counter() - begin, said.count, said.bytes))
        given["hidden_states"] = given["hidden_states"] - velocity / steps
    return seen


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """What rank 0 prints."""
    model, given = flux(arguments.width, arguments.depth), inputs(arguments.side, 64)
    if dist.get_world_size() > 1:
        parallelise(model)
    walk(model, given, 1)
    untouched = walk(model, given, arguments.steps)
    tap_ext.accelerate(model, window=WINDOW, trace=True)
    made = walk(model, given, arguments.steps)
    stats = tap_ext.stats(model)
    full = set(stats.models[0].branches[0].full_steps) - {0}  # the first one checks itself
    kinds = {True: [seen for step, seen in enumerate(made) if step in full]}
    kinds[False] = [made[step] for step in stats.models[0].branches[0].skip_steps]
    # the least of many: whatever else the machine does only adds to a step
    plain = min(seconds for seconds, _, _ in untouched)
    chosen = _joined([choice.index for choice in stats.trace])
    return {
        "ranks": dist.get_world_size(),
        "untouched_ms": 1e3 * plain,
        "untouched_said": untouched[1][1:],
        "full_over_untouched": min(s for s, _, _ in kinds[True]) / plain,
        "full_said": kinds[True][0][1:],
        "skip_over_untouched": min(s for s, _, _ in kinds[False]) / plain,
        "skip_said": kinds[False][0][1:],
        "history_bytes": stats.models[0].nbytes,
        "chosen": hashlib.sha256(chosen.numpy().tobytes()).hexdigest()[:16],
    }


def _joined(choices: list[Tensor]) -> Tensor:
    """The ranks' parts of each step's choices, in order; a collective of this script."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, torch.stack(choices))
    return torch.cat(parts, -1)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=1)
    parser.add_argument("--side", type=int, default=16)
    arguments = parser.parse_args()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is not None:
        torch.accelerator.set_device_index(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("gloo" if device is None else None)
    result = measure(arguments)
    if dist.get_rank() == 0:
        print(json.dumps(result, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Two processes that share the tokens of one transformer, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 2


def on_every_rank(work: Callable[[], Any], folder: Path) -> list[Any]:
    """What ``work`` returns on each of ``WORLD`` ranks, joined by gloo.

    The processes are forked: what is imported stays imported, and ``work`` may be a closure.
    """
    mp.start_processes(_rank, args=(work, folder), nprocs=WORLD, join=True, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(WORLD)]


def _rank(rank: int, work: Callable[[], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), WORLD)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    try:
        torch.save(work(), folder / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def shard(model: Any) -> None:
    """Share the tokens of a model's calls between the ranks, by Ulysses.

    diffusers asks for the accelerator that a rank is to use; on a machine without one, and in a
    process that may not touch one, it is the CPU.
    """
    from diffusers import ContextParallelConfig

    torch.accelerator.device_count = lambda: 1
    torch._C._get_accelerator = lambda *_: torch.device("cpu")
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=WORLD))

"""Processes that share the tokens of one transformer, on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

PATIENCE = timedelta(seconds=120)
"""After it a rank that waits for one which will not come fails."""


def on_every_rank(work: Callable[[], Any], folder: Path, world: int = 2) -> list[Any]:
    """What ``work`` returns on each of ``world`` ranks, joined by gloo.

    The processes are forked: what is imported stays imported, and ``work`` may be a closure.
    """
    mp.start_processes(
        _rank, args=(world, work, folder), nprocs=world, join=True, start_method="fork"
    )
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _rank(rank: int, world: int, work: Callable[[], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        torch.save(work(), folder / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def shard(model: Any, **config: Any) -> None:
    """Share the tokens of a model's calls between the ranks, by Ulysses.

    diffusers asks for the accelerator that a rank is to use; on a machine without one, and in a
    process that may not touch one, it is the CPU.
    """
    from diffusers import ContextParallelConfig
    from diffusers.hooks import context_parallel

    torch.accelerator.device_count = lambda: 1
    torch._C._get_accelerator = lambda *_: torch.device("cpu")
    context_parallel._all_gather_anything = _gather_uneven
    chosen = ContextParallelConfig(**{"ulysses_degree": dist.get_world_size(), **config})
    model.enable_parallelism(config=chosen)


def _gather_uneven(tensor: Tensor, dim: int, group: Any) -> Tensor:
    """As diffusers', with as many collectives; gloo, unlike NCCL, gathers equal shapes only."""
    from diffusers.hooks.context_parallel import gather_size_by_comm

    sizes = gather_size_by_comm(tensor.shape[dim], group)
    shape = list(tensor.shape)
    shape[dim] = max(sizes)
    padded = tensor.new_zeros(shape)
    padded.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    cut = [part.narrow(dim, 0, size) for part, size in zip(parts, sizes, strict=True)]
    return torch.cat(cut, dim)

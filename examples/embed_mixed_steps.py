"""Requests that join and leave at any step share a batch, each at its own step.

The model is that of ``embed_plain_dit.py``. The embedder and the head run on the whole batch, the
blocks on those rows only whose step is full. Waiting requests keep their history in host memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from embed_plain_dit import DiT
from torch import Tensor

from tap_ext import Config, Plan, State
from tap_ext.batch import Batch


@dataclass(eq=False)
class Request:
    """One generation: its latents (N, C), its length, how far it is, its state."""

    x: Tensor
    steps: int
    state: State
    step: int = 0


@torch.inference_mode()
def advance(model: DiT, requests: list[Request]) -> None:
    """One step of each of these requests."""
    x = torch.stack([request.x for request in requests])
    time = torch.tensor([1 - request.step / request.steps for request in requests])
    hidden, conditioning, probe = model.before(x, time)
    batch = Batch([request.state for request in requests])
    batch.begin([request.step for request in requests])
    output, full = batch.predict(hidden, probe)
    if full:
        output[full] = model.middle(hidden[full], conditioning[full])
        batch.record(hidden, output, probe)
    for request, velocity in zip(requests, model.after(output), strict=True):
        request.x = request.x - velocity / request.steps
        request.step += 1


def main() -> None:
    """Serve six requests of different lengths, at most three at a time."""
    torch.manual_seed(0)
    model, config = DiT().eval(), Config()
    lengths = (20, 30, 25, 20, 30, 25)
    waiting = [
        Request(torch.randn(64, 8), steps, State(Plan(window=6, num_steps=steps), config))
        for steps in lengths
    ]
    running: list[Request] = []
    while waiting or running:
        while waiting and len(running) < 3:
            running.append(waiting.pop(0))
        advance(model, running)
        for request in [request for request in running if request.step == request.steps]:
            running.remove(request)
            log = request.state.log
            print(f"{request.steps} steps: {len(log.full_steps)} full")
    paused = Request(torch.randn(64, 8), 20, State(Plan(window=6, num_steps=20), config))
    for _ in range(10):
        advance(model, [paused])
    history = paused.state.detach("cpu")  # room on the device for another one
    print(f"a paused request holds {history.nbytes} bytes in host memory")
    paused.state.attach(history)
    advance(model, [paused])


if __name__ == "__main__":
    main()

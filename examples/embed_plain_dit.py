"""A diffusion transformer in plain PyTorch, accelerated through ``State`` alone.

What an inference stack of its own has to do: take the model apart into what comes before its
blocks, its blocks, and its head; hand out the probe; ask ``State`` what each step does. Nothing of
diffusers is imported. ``python examples/embed_plain_dit.py`` compares with the untouched model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tap_ext import Config, Plan, State, Step


class Block(nn.Module):
    """Attention and MLP, both modulated by the conditioning (adaLN)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)

    def modulated(self, hidden: Tensor, conditioning: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the attention reads; of the first block it is the probe."""
        shift, scale, *rest = self.modulation(conditioning).chunk(6, dim=-1)
        return self.norm1(hidden) * (1 + scale) + shift, rest

    def forward(self, hidden: Tensor, conditioning: Tensor) -> Tensor:
        inputs, (gate, shift, scale, gate_mlp) = self.modulated(hidden, conditioning)
        hidden = hidden + gate * self.attention(inputs, inputs, inputs, need_weights=False)[0]
        return hidden + gate_mlp * self.mlp(self.norm2(hidden) * (1 + scale) + shift)


class DiT(nn.Module):
    """Tokens (B, N, C) and a time in [0, 1] in, a velocity (B, N, C) out."""

    def __init__(self, channels: int = 8, width: int = 64, heads: int = 4, depth: int = 6) -> None:
        super().__init__()
        self.embedder, self.time = nn.Linear(channels, width), nn.Linear(64, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, channels)

    def before(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What enters the blocks, the conditioning, and the probe."""
        angles = time[:, None, None] * torch.logspace(0, 2, 32, device=x.device)
        conditioning = self.time(torch.cat((angles.sin(), angles.cos()), dim=-1))
        hidden = self.embedder(x)
        return hidden, conditioning, self.blocks[0].modulated(hidden, conditioning)[0]

    def middle(self, hidden: Tensor, conditioning: Tensor) -> Tensor:
        """The blocks: what a skip step does without."""
        for block in self.blocks:
            hidden = block(hidden, conditioning)
        return hidden

    def after(self, hidden: Tensor) -> Tensor:
        """The head."""
        return self.head(self.norm(hidden))


@torch.inference_mode()
def generate(model: DiT, x: Tensor, steps: int, state: State | None = None) -> Tensor:
    """Euler's method from noise to data; untouched without a ``state``."""
    for step in range(steps):
        hidden, conditioning, probe = model.before(x, torch.full((len(x),), 1 - step / steps))
        if state is None:
            output = model.middle(hidden, conditioning)
        elif state.begin() is Step.FULL:
            output = model.middle(hidden, conditioning)
            state.record(hidden, output, probe)
        else:
            output = state.predict(hidden, probe)
        x = x - model.after(output) / steps
    return x


def main() -> None:
    """Generate untouched and accelerated, and print how far apart they are."""
    torch.manual_seed(0)
    model, noise, steps = DiT().eval(), torch.randn(2, 64, 8), 50
    exact = generate(model, noise, steps)
    state = State(Plan(window=6, num_steps=steps), Config())
    fast = generate(model, noise, steps, state)
    error = float((fast - exact).norm() / (exact - noise).norm())
    print(f"full steps: {len(state.log.full_steps)} of {steps}: {state.log.full_steps}")
    print(f"held: {state.nbytes} bytes; relative difference: {error:.1e}")
    print(f"tokens per predictor: {state.log.chosen()}")
    state.reset()  # the next request reuses the buffers
    assert torch.equal(generate(model, noise, steps, state), fast)


if __name__ == "__main__":
    main()

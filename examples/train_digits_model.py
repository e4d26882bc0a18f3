"""Trains the model that ships in `tap_ext/demo/digits_model`, from its data to its files.

The model predicts the velocity v = a noise - b x_0 (arXiv 2202.00512) of x_t = b x_0 + a noise,
where b^2 and a^2 = 1 - b^2 follow the cosine schedule. Every step draws from a generator seeded by
(seed, step), and the rate is constant until the last third: so a training that was interrupted and
resumed takes the same steps as an uninterrupted one, and its length may be chosen until then.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import save_file
from torch import nn

from tap_ext.demo.digits import CLASSES, EMBEDDINGS, make_scheduler
from tap_ext.demo.handwriting import SIZE, dataset

CAPTION_TOKENS, CAPTION_CHANNELS = 4, 32
NO_CLASS = len(CLASSES)
UNCONDITIONAL = 0.1
"""How often a picture is trained without its class, for classifier-free guidance."""


class Trainee(nn.Module):
    """The transformer and the captions of the digits, trained together."""

    def __init__(self) -> None:
        """Builds the shipped model's layout with fresh weights."""
        super().__init__()
        self.transformer = PixArtTransformer2DModel(
            num_attention_heads=4,
            attention_head_dim=20,
            in_channels=3,
            out_channels=3,
            num_layers=12,
            cross_attention_dim=80,
            sample_size=SIZE,
            patch_size=3,
            caption_channels=CAPTION_CHANNELS,
        )
        self.prompt_embeds = nn.Parameter(
            torch.randn(len(CLASSES) + 1, CAPTION_TOKENS, CAPTION_CHANNELS)
        )
        # As in DiT (arXiv 2212.09748): every block starts as the identity, the output as zero.
        zero = [self.transformer.proj_out, self.transformer.adaln_single.linear]
        zero += [block.attn2.to_out[0] for block in self.transformer.transformer_blocks]
        for linear in zero:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        for block in self.transformer.transformer_blocks:
            nn.init.zeros_(block.scale_shift_table)

    def forward(self, noisy: torch.Tensor, t: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """The velocity (B, 3, H, W) at timestep t (B,) of noisy pictures (B, 3, H, W)."""
        velocity: torch.Tensor = self.transformer(
            noisy,
            encoder_hidden_states=self.prompt_embeds[classes],
            timestep=t,
            return_dict=False,
        )[0]
        return velocity


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Linear warm-up, constant, and linear to zero over the last third."""
    return peak * min(1, (step + 1) / warm_up, 3 * (steps - step) / steps)


def save(
    trainee: Trainee, average: dict[str, torch.Tensor], out: Path, log: dict[str, float]
) -> None:
    """Writes the averaged weights in half precision, in the layout that `load_pipeline` reads."""
    shipped = Trainee()
    shipped.load_state_dict(average)
    shipped.half().transformer.save_pretrained(out)
    save_file({"prompt_embeds": shipped.prompt_embeds.detach()}, out / EMBEDDINGS)
    (out / "training.json").write_text(json.dumps(log, indent=2) + "\n")


def main() -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("digits_model"), help="folder to write")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--peak", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--warm-up", type=int, default=100, help="steps")
    parser.add_argument("--pictures", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    pictures, numbers = dataset(args.pictures, args.seed)
    data = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    classes = torch.from_numpy(numbers)
    signal = make_scheduler().alphas_cumprod

    trainee = Trainee().to(args.device)
    average = {name: tensor.detach().clone() for name, tensor in trainee.state_dict().items()}
    optimizer = torch.optim.AdamW(
        trainee.parameters(), lr=args.peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    state_file, first, seconds, smooth = args.out / "state.pt", 0, 0.0, 0.0
    if args.resume:
        state = torch.load(state_file, map_location=args.device, weights_only=True)
        trainee.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
        seconds, smooth = state["seconds"], state["loss"]

    start = time.monotonic() - seconds
    for step in range(first, args.steps):
        generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
        chosen = torch.randint(len(data), (args.batch,), generator=generator)
        t = torch.randint(len(signal), (args.batch,), generator=generator)
        dropped = torch.rand(args.batch, generator=generator) < UNCONDITIONAL
        labels = torch.where(dropped, NO_CLASS, classes[chosen]).to(args.device)
        clean = (data[chosen].float() / 127.5 - 1).to(args.device)
        noise = torch.randn(clean.shape, generator=generator).to(args.device)
        b2 = signal[t][:, None, None, None].to(args.device)
        noisy = b2.sqrt() * clean + (1 - b2).sqrt() * noise
        wanted = b2.sqrt() * noise - (1 - b2).sqrt() * clean
        loss = (trainee(noisy, t.to(args.device), labels) - wanted).square().mean()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps, args.peak, args.warm_up)
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
            save(trainee, average, args.out, log)
            state = {"model": trainee.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"average": average, "step": done, "seconds": seconds, "loss": smooth}
            torch.save(state, state_file)


if __name__ == "__main__":
    main()

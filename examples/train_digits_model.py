"""Trains the model that ships in `tap_ext/demo/digits_model`, from its data to its files.

The model predicts the velocity v = a noise - b x_0 (arXiv 2202.00512) of x_t = b x_0 + a noise,
where b^2 and a^2 = 1 - b^2 follow the cosine schedule. The rate is constant until the last third,
so the length of the training may be chosen until then.
"""

from __future__ import annotations

from pathlib import Path

import torch
import training
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


def save(average: dict[str, torch.Tensor], out: Path) -> None:
    """Writes the averaged weights in half precision, in the layout that `load_pipeline` reads."""
    shipped = Trainee()
    shipped.load_state_dict(average)
    shipped.half().transformer.save_pretrained(out)
    save_file({"prompt_embeds": shipped.prompt_embeds.detach()}, out / EMBEDDINGS)


def main() -> None:
    """Parses the command line and trains."""
    parser = training.arguments(
        __doc__,
        out=Path("digits_model"),
        steps=3000,
        batch=16,
        peak=1.5e-3,
        warm_up=100,
        save_every=200,
    )
    parser.add_argument("--pictures", type=int, default=40_000)
    args = training.parse(parser)

    pictures, numbers = dataset(args.pictures, args.seed)
    data = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    classes = torch.from_numpy(numbers)
    signal = make_scheduler().alphas_cumprod
    trainee = Trainee().to(args.device)

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(data), (args.batch,), generator=generator)
        t = torch.randint(len(signal), (args.batch,), generator=generator)
        dropped = torch.rand(args.batch, generator=generator) < UNCONDITIONAL
        labels = torch.where(dropped, NO_CLASS, classes[chosen]).to(args.device)
        clean = (data[chosen].float() / 127.5 - 1).to(args.device)
        noise = torch.randn(clean.shape, generator=generator).to(args.device)
        b2 = signal[t][:, None, None, None].to(args.device)
        noisy = b2.sqrt() * clean + (1 - b2).sqrt() * noise
        wanted = b2.sqrt() * noise - (1 - b2).sqrt() * clean
        return (trainee(noisy, t.to(args.device), labels) - wanted).square().mean()

    training.train(
        trainee,
        loss_of,
        lambda step: learning_rate(step, args.steps, args.peak, args.warm_up),
        lambda average: save(average, args.out),
        args,
    )


if __name__ == "__main__":
    main()

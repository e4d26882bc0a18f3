"""Trains the model that ships in `tap_ext/demo/model`, from its data to its files.

Rectified flow in FLUX's convention: x_s = (1 - s) x_0 + s noise, the model sees s and predicts
noise - x_0.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import training
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file
from torch import nn

from tap_ext.demo.bundled import EMBEDDINGS, pack
from tap_ext.demo.scenes import CLASSES, SIZE, dataset

TOKEN_PIXELS = 4
CAPTION_TOKENS, CAPTION_CHANNELS = 4, 32


class Trainee(nn.Module):
    """The transformer and the captions of the classes, trained together."""

    def __init__(self) -> None:
        """Builds the shipped model's layout with fresh weights."""
        super().__init__()
        self.transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=3 * TOKEN_PIXELS**2,
            num_layers=2,
            num_single_layers=4,
            attention_head_dim=32,
            num_attention_heads=3,
            joint_attention_dim=CAPTION_CHANNELS,
            pooled_projection_dim=CAPTION_CHANNELS,
            guidance_embeds=False,
            axes_dims_rope=(4, 14, 14),
        )
        self.prompt_embeds = nn.Parameter(
            torch.randn(len(CLASSES), CAPTION_TOKENS, CAPTION_CHANNELS)
        )
        self.pooled_prompt_embeds = nn.Parameter(torch.randn(len(CLASSES), CAPTION_CHANNELS))
        # As in DiT (arXiv 2212.09748): every block starts as the identity, the output as zero.
        for name, module in self.transformer.named_modules():
            if isinstance(module, nn.Linear) and (".norm" in name or name == "proj_out"):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        side = SIZE // TOKEN_PIXELS
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        ids = torch.stack((torch.zeros_like(rows), rows, columns), -1).reshape(-1, 3).float()
        self.register_buffer("image_ids", ids, persistent=False)
        self.register_buffer("text_ids", torch.zeros(CAPTION_TOKENS, 3), persistent=False)

    def forward(self, tokens: torch.Tensor, s: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """The velocity (B, N, C) at noise level s (B,) of noisy tokens (B, N, C)."""
        velocity: torch.Tensor = self.transformer(
            hidden_states=tokens,
            timestep=s,
            encoder_hidden_states=self.prompt_embeds[classes],
            pooled_projections=self.pooled_prompt_embeds[classes],
            img_ids=self.image_ids,
            txt_ids=self.text_ids,
            return_dict=False,
        )[0]
        return velocity


def noise_levels(batch: int, generator: torch.Generator) -> torch.Tensor:
    """Logit-normal levels, a little towards noise; a fifth of them uniform, for both ends."""
    normal = torch.sigmoid(0.3 + 1.2 * torch.randn(batch, generator=generator))
    uniform = torch.rand(batch, generator=generator)
    return torch.where(torch.rand(batch, generator=generator) < 0.2, uniform, normal)


def learning_rate(step: int, steps: int, peak: float, warm_up: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def save(trainee: Trainee, average: dict[str, torch.Tensor], out: Path) -> None:
    """Writes the averaged weights in the layout that `load_pipeline` reads."""
    live = {name: tensor.clone() for name, tensor in trainee.state_dict().items()}
    trainee.load_state_dict(average)
    trainee.transformer.save_pretrained(out)
    captions = {
        "prompt_embeds": trainee.prompt_embeds.detach().clone(),
        "pooled_prompt_embeds": trainee.pooled_prompt_embeds.detach().clone(),
    }
    save_file(captions, out / EMBEDDINGS)
    trainee.load_state_dict(live)


def main() -> None:
    """Parses the command line and trains."""
    parser = training.arguments(
        __doc__,
        out=Path("demo_model"),
        steps=3400,
        batch=24,
        peak=2e-3,
        warm_up=150,
        save_every=400,
    )
    parser.add_argument("--per-class", type=int, default=1500, help="pictures of each class")
    args = training.parse(parser)

    pictures, numbers = dataset(args.per_class, args.seed)
    channels_first = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    # Packing only moves values, so the data set stays in bytes.
    data = torch.cat(
        [(pack(part / 255) * 127.5 + 127.5).round().byte() for part in channels_first.split(1000)]
    )
    classes = torch.from_numpy(numbers)
    trainee = Trainee().to(args.device)

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(data), (args.batch,), generator=generator)
        s = noise_levels(args.batch, generator).to(args.device)
        clean = (data[chosen].float() / 127.5 - 1).to(args.device)
        noise = torch.randn(clean.shape, generator=generator).to(args.device)
        level = s[:, None, None]
        noisy = (1 - level) * clean + level * noise
        velocity = trainee(noisy, s, classes[chosen].to(args.device))
        return (velocity - (noise - clean)).square().mean()

    training.train(
        trainee,
        loss_of,
        lambda step: learning_rate(step, args.steps, args.peak, args.warm_up),
        lambda average: save(trainee, average, args.out),
        args,
    )


if __name__ == "__main__":
    main()

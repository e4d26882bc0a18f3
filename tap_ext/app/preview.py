"""What a picture looks like while it is made: latents through the autoencoder, or false colours.

Nothing here reads a random number or changes a latent, so a run that is looked at makes what it
would have made.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tap_ext.plots.orders import grid

__all__ = ["Preview", "frames_of", "spread"]

LONGEST = 32
"""Latents of more rows or columns are averaged down to so many before they are decoded."""

TEMPORAL = (1, 4, 8, 6, 2)
"""How many frames of a video may be one of its latents."""


class Preview:
    """Shows the latents of one pipeline."""

    def __init__(self, pipe: Any, longest: int | None = LONGEST, **call: Any) -> None:
        """Of ``pipe``.

        Args:
            pipe: a diffusers pipeline.
            longest: see ``LONGEST``; None: whatever the size.
            call: what the pipeline is called with besides; height, width and num_frames matter.
        """
        self.pipe, self.longest = pipe, longest
        self.frames = 1
        parameters = inspect.signature(type(pipe).__call__).parameters
        self.call = {name: p.default for name, p in parameters.items()} | call
        self._decodes = getattr(pipe, "vae", None) is not None

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor | None:
        """A picture (3, H, W) in [0, 1], on the CPU, of the first of a batch; None: there is none.

        ``frames`` is then the number of latent frames. A pipeline whose latents the autoencoder
        does not take as they are is shown in false colours.
        """
        try:
            spatial = self._spatial(latents[:1])
        except Exception:  # no preview is worth a run
            return None
        self.frames = frames_of(spatial)
        small = _shrunk(_still(spatial), self.longest)
        if self._decodes:
            try:
                return self._decoded(small)
            except Exception:  # an autoencoder of another kind; it is not asked again
                self._decodes = False
        return _false_colours(small)

    def _spatial(self, latents: Tensor) -> Tensor:
        """As (1, C, H, W) or (1, C, F, H, W), as the autoencoder has them.

        Raises:
            ValueError: they are of another layout.
        """
        channels = self._channels()
        if latents.dim() == 5:
            axis = next((a for a in (1, 2, 4) if latents.shape[a] == channels), 1)
            return latents.movedim(axis, 1)
        if latents.dim() == 4:
            return latents
        if latents.dim() != 3:
            raise ValueError(f"latents must have 3 to 5 axes, got {tuple(latents.shape)}")
        packed = latents.shape[-1]
        side = math.isqrt(packed // channels) if channels else 1
        side = side if channels and channels * side**2 == packed else 1
        frames, rows, columns = self._cells(latents.shape[1])
        vae: Any = self.pipe.vae if self._decodes else None
        if isinstance(getattr(vae, "bn", None), nn.BatchNorm2d):  # FLUX.2's
            norm: Any = vae.bn
            latents = latents * (norm.running_var + norm.eps).sqrt() + norm.running_mean
        tokens = latents.reshape(1, frames, rows, columns, -1, side, side)
        spatial = tokens.permute(0, 4, 1, 2, 5, 3, 6).reshape(
            1, -1, frames, rows * side, columns * side
        )
        return spatial if frames > 1 else spatial[:, :, 0]

    def _channels(self) -> int | None:
        config = getattr(getattr(self.pipe, "vae", None), "config", {})
        return config.get("latent_channels") or config.get("z_dim")

    def _cells(self, tokens: int) -> tuple[int, int, int]:
        """Frames, rows and columns of packed tokens.

        Raises:
            ValueError: they fill no grid.
        """
        tall, wide = self.call.get("height"), self.call.get("width")
        if not (isinstance(tall, int) and isinstance(wide, int)):
            tall = wide = 1
        for frames in self._counts():
            if tokens % frames == 0 and (cells := grid(tokens // frames, tall, wide)):
                rows, columns = cells
                if abs(math.log(rows / columns * wide / tall)) < 0.25:
                    return frames, rows, columns
        raise ValueError(f"{tokens} tokens fill no grid of {tall} x {wide}")

    def _counts(self) -> Iterable[int]:
        """How many latent frames there may be, the likeliest first."""
        shown = self.call.get("num_frames")
        if isinstance(shown, int):
            yield from ((shown - 1) // ratio + 1 for ratio in reversed(TEMPORAL[:3]))
            yield from ((shown - 1) // ratio + 1 for ratio in TEMPORAL[3:])
        yield 1

    def _decoded(self, latents: Tensor) -> Tensor:
        """Through the autoencoder, (3, H, W) in [0, 1].

        Raises:
            ValueError: it does not give a picture.
        """
        vae = self.pipe.vae
        video = any(isinstance(module, nn.Conv3d) for module in vae.modules())
        given = latents[:, :, None] if video else latents
        with torch.random.fork_rng(devices=_cuda(latents)):  # some decoders draw noise
            made = vae.decode(_plain(vae, given).to(vae.dtype), return_dict=False)[0]
        made = made[:, :, made.shape[2] // 2] if made.dim() == 5 else made
        picture: Tensor = (made[0].float() / 2 + 0.5).clamp(0, 1).cpu()
        if picture.dim() != 3 or picture.shape[0] not in (1, 3) or not picture.isfinite().all():
            raise ValueError(f"the autoencoder gave {tuple(picture.shape)}")
        return picture.expand(3, -1, -1)


def frames_of(latents: Tensor) -> int:
    """How many latent frames (B, C, H, W) or (B, C, F, H, W) have."""
    return latents.shape[2] if latents.dim() == 5 else 1


def spread(latents: Tensor) -> Tensor:
    """Zero mean and unit deviation, channel by channel."""
    flat = latents.float().flatten(1)
    return (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True).clamp(min=1e-6)


def _still(latents: Tensor) -> Tensor:
    """The middle frame, (1, C, H, W)."""
    return latents[:, :, latents.shape[2] // 2] if latents.dim() == 5 else latents


def _shrunk(latents: Tensor, longest: int | None) -> Tensor:
    size = max(latents.shape[-2:])
    if longest is None or size <= longest:
        return latents
    wanted = [max(1, round(side * longest / size)) for side in latents.shape[-2:]]
    shrunk: Tensor = nn.functional.interpolate(latents.float(), wanted, mode="area")
    return shrunk.to(latents.dtype)


def _plain(vae: Any, latents: Tensor) -> Tensor:
    """As the decoder wants them: what a pipeline does before it decodes."""
    mean, std = (_of(vae, name, latents) for name in ("latents_mean", "latents_std"))
    factor = vae.config.get("scaling_factor") or 1.0
    if mean is not None and std is not None:
        return latents * std / factor + mean
    return latents / factor + (vae.config.get("shift_factor") or 0.0)


def _of(vae: Any, name: str, like: Tensor) -> Tensor | None:
    """A statistic of the latents' channels, shaped to be multiplied with ``like``."""
    found = vae.config.get(name, dict(vae.named_buffers(recurse=False)).get(name))
    if found is None:
        return None
    values = torch.as_tensor(found, dtype=like.dtype, device=like.device)
    return values.reshape(-1, *[1] * (like.dim() - 2))


def _false_colours(latents: Tensor) -> Tensor:
    """Where the latents differ most, as colours: their three principal components."""
    _, channels, rows, columns = latents.shape
    flat = spread(latents[0])
    if channels > 3:
        _, _, axes = torch.linalg.svd(flat.double().T, full_matrices=False)
        axes = axes[:3] * axes[:3].sum(1, keepdim=True).sign()  # else a sign is left to chance
        flat = spread((axes @ flat.double()).float())
    colours = (flat / 4 + 0.5).clamp(0, 1).reshape(-1, rows, columns).cpu()
    return colours if channels >= 3 else colours[:1].expand(3, -1, -1)


def _cuda(latents: Tensor) -> list[int]:
    return [latents.device.index or 0] if latents.is_cuda else []

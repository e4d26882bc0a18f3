"""Sizes of the histories of real models: the one place that knows them.

N is the number of tokens the blocks predict (image or video; text is left out), D their width.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """One model at one resolution, as its stack sees it: B batch, N tokens, D channels."""

    model: str
    sampled: str
    B: int
    N: int
    D: int

    def __str__(self) -> str:
        return f"{self.model}-{self.sampled}"


FLUX_1024 = Shape("FLUX.1-dev", "1024x1024", B=1, N=64 * 64, D=3072)
FLUX_512 = Shape("FLUX.1-dev", "512x512", B=1, N=32 * 32, D=3072)
QWEN_1328 = Shape("Qwen-Image", "1328x1328", B=1, N=83 * 83, D=3072)
SD3_1024 = Shape("SD3.5-large", "1024x1024", B=2, N=64 * 64, D=2432)
HUNYUAN_480 = Shape("HunyuanVideo", "480x640x17", B=1, N=5 * 30 * 40, D=3072)
HUNYUAN_720 = Shape("HunyuanVideo", "720x1280x129", B=1, N=33 * 45 * 80, D=3072)
WAN_480 = Shape("Wan2.1-14B", "480x832x81", B=1, N=21 * 30 * 52, D=5120)

SHAPES = (FLUX_512, FLUX_1024, QWEN_1328, SD3_1024, HUNYUAN_480, HUNYUAN_720, WAN_480)

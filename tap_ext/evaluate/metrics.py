"""How far pictures are from their references; one number per picture, or per set of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor

from tap_ext.evaluate import weighted

__all__ = ["METRICS", "Metric", "choose", "flip", "measure", "ms_ssim", "psnr", "ssim"]

EXTRA = "pip install --no-build-isolation -e '.[evaluate]'"

_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_MS_WINDOW = 11


def psnr(pictures: Tensor, reference: Tensor) -> list[float]:
    """Peak signal-to-noise ratio per picture, in dB; both (B, 3, H, W) in [0, 1]."""
    error = (pictures - reference).double().square().mean((1, 2, 3))
    decibels: list[float] = (-10 * error.log10()).tolist()
    return decibels


def ssim(pictures: Tensor, reference: Tensor) -> list[float]:
    """Structural similarity per picture, windows of 7 pixels; both (B, 3, H, W) in [0, 1]."""
    from skimage.metrics import structural_similarity

    pairs = zip(pictures.numpy(), reference.numpy(), strict=True)
    index: Any = structural_similarity
    return [float(index(a, b, win_size=7, channel_axis=0, data_range=1.0)) for a, b in pairs]


def ms_ssim(pictures: Tensor, reference: Tensor) -> list[float]:
    """Multi-scale structural similarity per picture; both (B, 3, H, W) in [0, 1].

    The five weights of Wang, Simoncelli and Bovik (2003). Five scales need more than 160 pixels;
    smaller pictures get as many of the finest scales as fit (three at 48), weights scaled to sum
    to 1.

    Raises:
        ValueError: a side is below 11 pixels.
    """
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    side = min(pictures.shape[-2:])
    if side < _MS_WINDOW:
        raise ValueError(f"ms_ssim needs {_MS_WINDOW} pixels a side, got {side}")
    # torchmetrics asks for side // max(1, scales - 1)^2 above the window less one.
    scales = max(n for n in range(1, 6) if side // max(1, (n - 1) ** 2) > _MS_WINDOW - 1)
    weights = _MS_WEIGHTS[:scales]
    values: Any = multiscale_structural_similarity_index_measure(
        pictures,
        reference,
        data_range=1.0,
        reduction="none",
        betas=tuple(weight / sum(weights) for weight in weights),
    )
    return [float(value) for value in values.reshape(-1)]


def flip(pictures: Tensor, reference: Tensor) -> list[float]:
    """Mean LDR-FLIP per picture (Andersson et al., 2020), by NVIDIA's own library.

    0 is identical; both (B, 3, H, W) in [0, 1], seen at 67 pixels per degree.
    """
    import flip_evaluator

    def error(picture: Tensor, wanted: Tensor) -> float:
        pair = (np.ascontiguousarray(p.permute(1, 2, 0).numpy()) for p in (wanted, picture))
        return float(flip_evaluator.evaluate(*pair, "LDR", True, False, True)[1])

    return [error(a, b) for a, b in zip(pictures, reference, strict=True)]


@dataclass(frozen=True)
class Metric:
    """One number per picture, or one for all.

    Attributes:
        name: the key under which it is stored.
        title: its heading, with the unit.
        digits: after the point, in tables.
        higher: whether more is better.
        needs: the module that computes it.
        of: ``(pictures, reference)``, both (B, 3, H, W) float32 in [0, 1], to B numbers; where
            ``by_prompt``, ``(pictures, prompts)``.
        by_prompt: whether a picture is compared with its prompt.
        package: what installs the module where the extra does not; its weights have to be on disk.
        of_sets: whether it compares all kept pictures of a method with all of the reference, and
            ``of`` takes two iterables of (3, H, W) bytes to one number.
    """

    name: str
    title: str
    digits: int
    higher: bool
    needs: str
    of: Callable[[Any, Any], Any]
    by_prompt: bool = False
    package: str | None = None
    of_sets: bool = False

    @property
    def missing(self) -> bool:
        """Whether its module is not installed."""
        return find_spec(self.needs) is None

    @property
    def lacks(self) -> str | None:
        """What has to be there before it can be measured; None: nothing."""
        if self.missing:
            how = EXTRA if self.package is None else f"pip install {self.package}"
            return f"metric {self.name} needs {self.needs}, which {how} installs"
        if self.package is not None and not (place := weighted.weights_of(self.name)).exists():
            return f"metric {self.name} needs its weights at {place}; nothing is downloaded"
        return None


def _of_text(
    name: str, title: str, digits: int, needs: str, of: Callable[..., list[float]], package: str
) -> Metric:
    return Metric(name, title, digits, True, needs, of, True, package)


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR dB", 2, True, "torch", psnr),
        Metric("ssim", "SSIM", 4, True, "skimage", ssim),
        Metric("ms_ssim", "MS-SSIM", 4, True, "torchmetrics", ms_ssim),
        Metric("flip", "FLIP", 4, False, "flip_evaluator", flip),
        Metric("lpips", "LPIPS", 4, False, "lpips", weighted.lpips, package="lpips"),
        Metric(
            "fid",
            "FID",
            2,
            False,
            "torch_fidelity",
            weighted.fid,
            package="torch-fidelity",
            of_sets=True,
        ),
        _of_text("clip_score", "CLIPScore", 2, "transformers", weighted.clip_score, "transformers"),
        _of_text(
            "image_reward", "ImageReward", 3, "ImageReward", weighted.image_reward, "image-reward"
        ),
        _of_text("vqa_score", "VQAScore %", 2, "t2v_metrics", weighted.vqa_score, "t2v-metrics"),
    )
}


def choose(names: Sequence[str] | None) -> list[Metric]:
    """The metrics of these names; None: every one without weights whose module is installed.

    Raises:
        ValueError: a name is unknown, or a metric's weights are not on disk; the message says
            where they are looked for.
        ModuleNotFoundError: a named metric's module is not installed; the message says what does.
    """
    if names is None:
        return [m for m in METRICS.values() if m.package is None and not m.missing]
    for name in names:
        if name == "vbench":
            raise ValueError(
                "metric vbench is measured by its own command, on the videos that tap_ext generate "
                "writes with and without acceleration"
            )
        if name not in METRICS:
            raise ValueError(f"metrics must be among {', '.join(METRICS)}, got {name!r}")
        metric = METRICS[name]
        if (lacks := metric.lacks) is not None:
            if metric.missing:
                raise ModuleNotFoundError(lacks, name=metric.needs)
            raise ValueError(lacks)
    return [METRICS[name] for name in dict.fromkeys(names)]


def measure(
    metric: Metric, outputs: Tensor, reference: Tensor, prompts: Sequence[str] = ()
) -> list[float]:
    """One number per output: pictures (B, 3, H, W), or videos (B, F, 3, H, W), by mean frame.

    ``prompts``, one per output, are what some metrics compare with instead of the reference.

    Raises:
        ValueError: the two differ in shape.
    """
    if outputs.shape != reference.shape:
        raise ValueError(f"outputs must be {tuple(reference.shape)}, got {tuple(outputs.shape)}")
    frames = 1 if outputs.dim() == 4 else outputs.shape[1]
    flat = [t.flatten(0, -4) if t.dim() > 4 else t for t in (outputs, reference)]
    if metric.by_prompt:
        repeated = [prompt for prompt in prompts for _ in range(frames)]
        values = np.asarray(metric.of(flat[0], repeated))
    else:
        values = np.asarray(metric.of(*flat))
    return [float(value) for value in values.reshape(-1, frames).mean(1)]

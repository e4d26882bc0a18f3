"""What is evaluated: the bundled models, or a diffusers pipeline in a local folder."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tap_ext.evaluate.checkpoint import own_code

__all__ = ["MODELS", "Model", "from_folder", "open_model", "twin"]

_HASHED = 2**26
"""Files of up to so many bytes are known by their content, larger ones by their date."""

Generate = Callable[[Any, Sequence[str], Sequence[int], int], Tensor]


@dataclass(frozen=True)
class Model:
    """A pipeline, and how pictures are asked of it.

    Attributes:
        name: as in the results.
        pipe: the pipeline, untouched.
        generate: ``(pipe, prompts, seeds, steps)``, B of each, to float32 pictures (B, 3, H, W) or
            videos (B, F, 3, H, W) in [0, 1] on the CPU; picture i starts from the noise of
            ``seeds[i]`` whatever else is in the batch. ``pipe`` is this one or a ``twin`` of it.
        prompts: all that it understands; None: any text.
        batch: how many pictures to generate at once unless the user says otherwise.
        settings: whatever else the pictures depend on, as plain values.
    """

    name: str
    pipe: Any
    generate: Generate
    prompts: tuple[str, ...] | None = None
    batch: int = 1
    settings: dict[str, Any] = field(default_factory=dict)

    def twin(self) -> Any:
        """Another pipeline over the same weights, to be accelerated by itself."""
        return twin(self.pipe)

    def check(self, prompts: Sequence[str]) -> None:
        """Refuses prompts that the model does not understand.

        Raises:
            ValueError: there are some; the message names the first.
        """
        for prompt in prompts:
            if self.prompts is not None and prompt not in self.prompts:
                known = ", ".join(self.prompts)
                raise ValueError(f"prompts of {self.name} must be among {known}, got {prompt!r}")


def twin(pipe: Any) -> Any:
    """A pipeline over the same weights whose transformers can be accelerated by themselves."""
    parts = {
        name: copy.copy(part)
        if isinstance(part, nn.Module) and name.startswith("transformer")
        else copy.deepcopy(part)
        if name == "scheduler"
        else part
        for name, part in pipe.components.items()
    }
    wanted = inspect.signature(type(pipe).__init__).parameters
    flags = {k: v for k, v in pipe.config.items() if k in wanted and k not in parts}
    other = type(pipe)(**parts, **flags)
    other.set_progress_bar_config(disable=True)
    return other


def open_model(
    name: str,
    device: torch.device,
    dtype: torch.dtype | None = None,
    size: int | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Model:
    """The model of this name, or the pipeline in the folder of this name.

    Args:
        name: out of ``MODELS``, or a folder with a ``model_index.json``.
        device: where it runs.
        dtype: of weights and sampling; None: float32 for bundled models, bfloat16 for others.
        size: height and width in pixels; None: the pipeline's own. Bundled models have one only.
        extra: further arguments of the pipeline's call, not of bundled models.

    Raises:
        ValueError: there is no such model, or it cannot be loaded; the message says why.
    """
    if name in MODELS:
        if size is not None:
            raise ValueError(f"size must not be given for {name}, whose pictures have one size")
        if extra:
            raise ValueError(f"{next(iter(extra))} must not be given for {name}, which takes none")
        return MODELS[name](device, dtype or torch.float32)
    return from_folder(Path(name), device, dtype or torch.bfloat16, size, extra)


def from_folder(
    path: Path,
    device: torch.device,
    dtype: torch.dtype,
    size: int | None,
    extra: Mapping[str, Any] | None = None,
) -> Model:
    """A diffusers pipeline in a local folder; nothing is downloaded.

    Raises:
        ValueError: it cannot be loaded, or takes no prompt.
    """
    import diffusers

    try:
        index = json.loads((path / "model_index.json").read_text())
        name = index["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"model must be {' or '.join(MODELS)} or a folder with a model_index.json of "
            f"diffusers, got {path}"
        ) from None
    if (code := own_code(path, index)) is not None:
        raise ValueError(f"model must not bring code of its own, got {code} in {path}")
    if not hasattr(diffusers, name):
        raise ValueError(
            f"model must be of a pipeline class that diffusers {diffusers.__version__} has, got "
            f"{name} in {path}"
        )
    more = {} if size is None else {"height": size, "width": size}
    more |= extra or {}
    _check_call(getattr(diffusers, name), more)  # before minutes of loading
    kind: Any = diffusers.DiffusionPipeline
    try:
        with warnings.catch_warnings():
            # Its successor "dtype" is unknown to releases that are still in use.
            warnings.filterwarnings("ignore", "`torch_dtype` is deprecated", FutureWarning)
            pipe = kind.from_pretrained(
                path, torch_dtype=dtype, local_files_only=True, use_safetensors=True
            ).to(device)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever is in the folder, and all that reads it, is not ours
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"model cannot be loaded from {path}: {reason}") from error
    _check_call(type(pipe), more)
    pipe.set_progress_bar_config(disable=True)

    def generate(pipe: Any, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> Tensor:
        output = pipe(
            prompt=list(prompts),
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
            **more,
        )
        made = getattr(output, "frames", getattr(output, "images", None))
        if made is None:
            raise ValueError(f"model must make pictures or videos, {type(pipe).__name__} does not")
        return torch.as_tensor(made).float().cpu()

    settings = _settings(device, dtype) | {"size": size, "weights": fingerprint(path)}
    if extra:
        settings["extra"] = {key: str(value) for key, value in extra.items()}
    return Model(path.resolve().name, pipe, generate, settings=settings)


def _check_call(kind: Any, given: Mapping[str, Any]) -> None:
    """Refuses a class of pipelines whose call does not take what it will be given."""
    takes = set(inspect.signature(kind.__call__).parameters)
    if not {"prompt", "num_inference_steps", "generator", "output_type"} <= takes:
        raise ValueError(f"model must take prompts and seeds, {kind.__name__} does not")
    if strange := sorted(set(given) - takes):
        raise ValueError(f"model must take {strange[0]}, {kind.__name__} does not")


def _bundled(device: torch.device, dtype: torch.dtype) -> Model:
    from tap_ext.demo import bundled

    def generate(pipe: Any, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> Tensor:
        return bundled.generate(pipe, prompts, steps, seeds).float().cpu()

    settings = _settings(device, dtype) | {"weights": fingerprint(bundled.MODEL)}
    pipe = bundled.load_pipeline(None, device, dtype)
    return Model("bundled", pipe, generate, bundled.CLASSES, 16, settings)


def _digits(device: torch.device, dtype: torch.dtype) -> Model:
    from tap_ext.demo import digits

    if not digits.MODEL.is_dir():
        raise ValueError("the digits model is not part of this installation")

    def generate(pipe: Any, prompts: Sequence[str], seeds: Sequence[int], steps: int) -> Tensor:
        # It counts seeds up from the first.
        if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
            return digits.generate(pipe, prompts, steps, seeds[0]).float().cpu()
        pairs = zip(prompts, seeds, strict=True)
        return torch.cat([generate(pipe, [prompt], [seed], steps) for prompt, seed in pairs])

    settings = _settings(device, dtype) | {"weights": fingerprint(digits.MODEL)}
    pipe = digits.load_pipeline(None, device, dtype)
    return Model("digits", pipe, generate, digits.CLASSES, 16, settings)


MODELS: dict[str, Callable[[torch.device, torch.dtype], Model]] = {
    "bundled": _bundled,
    "digits": _digits,
}
"""Models by name, each opened from a device and a dtype."""


def fingerprint(folder: Path) -> str:
    """What is in a folder, in a few letters."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        status = os.stat(path)
        known = path.read_bytes() if status.st_size <= _HASHED else str(status.st_mtime_ns).encode()
        found.update(f"{path.relative_to(folder)} {status.st_size} ".encode() + known)
    return found.hexdigest()[:16]


def _settings(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    return {"device": device.type, "dtype": str(dtype).removeprefix("torch.")}

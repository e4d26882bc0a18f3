"""Tiny random FLUX.1 pipelines, what to call them with, and how to look at what they did."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxTransformer2DModel,
)
from torch import Tensor, nn

import tap_ext
from tests.versions import DIFFUSERS_VERSION

SIDE = 16
"""Pixels along each side of a picture; the autoencoder makes 4 x 4 tokens of them."""

TEXT = 5
"""Tokens of a prompt."""

STEPS = 8
"""Steps that the model is called in."""

WINDOWED: dict[str, Any] = {"window": 3, "warmup": 3}
"""The configuration of nearly every test here, and what it must do in ``STEPS`` steps."""
FULL = (0, 1, 2, 5)
SKIP = (3, 4, 6, 7)

CLOSE = 0.05
"""Relative error of an accelerated picture, in norm; 0.008 to 0.024 was measured."""

CFG = 2.0
"""Scale of true classifier-free guidance, where it is on."""

_SIZES: dict[str, Any] = {
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
    "axes_dims_rope": (4, 4, 8),
}


@dataclass(frozen=True)
class Case:
    """A pipeline class and how to call it.

    Attributes:
        name: its name in diffusers.
        pictures: the pictures that it takes, by argument.
        guided: call it with true classifier-free guidance.
        in_channels: of its transformer; 16 plus what is concatenated to the latents.
        partial: it takes ``strength``; then ``STEPS`` of 10 steps are left of 0.8.
        kontext: it would choose its own resolution.
    """

    name: str
    pictures: tuple[str, ...] = ()
    guided: bool = False
    in_channels: int = 16
    partial: bool = False
    kontext: bool = False

    def __str__(self) -> str:
        return self.name + ("+cfg" if self.guided else "")

    @property
    def branches(self) -> int:
        return 2 if self.guided else 1


_CASES = (
    Case("FluxPipeline"),
    Case("FluxImg2ImgPipeline", ("image",), partial=True),
    Case("FluxInpaintPipeline", ("image", "mask_image"), partial=True),
    Case("FluxFillPipeline", ("image", "mask_image"), in_channels=48),
    Case("FluxControlPipeline", ("control_image",), in_channels=32),
    Case("FluxControlImg2ImgPipeline", ("image", "control_image"), in_channels=32, partial=True),
    Case(
        "FluxControlInpaintPipeline",
        ("image", "mask_image", "control_image"),
        in_channels=32,
        partial=True,
    ),
    Case("FluxControlNetPipeline", ("control_image",)),
    Case("FluxControlNetImg2ImgPipeline", ("image", "control_image"), partial=True),
    Case("FluxControlNetInpaintPipeline", ("image", "mask_image", "control_image"), partial=True),
    Case("FluxKontextPipeline", ("image",), kontext=True),
    Case("FluxKontextInpaintPipeline", ("image", "mask_image"), partial=True, kontext=True),
)
_GUIDABLE = {"FluxPipeline", "FluxKontextPipeline", "FluxKontextInpaintPipeline"}
if DIFFUSERS_VERSION >= (0, 39):  # earlier, only by the text of a prompt
    _GUIDABLE |= {"FluxImg2ImgPipeline", "FluxInpaintPipeline", "FluxControlNetPipeline"}

PLAIN = {case.name: case for case in _CASES}
GUIDED = {
    case.name: Case(**{**vars(case), "guided": True}) for case in _CASES if case.name in _GUIDABLE
}
CASES = (*PLAIN.values(), *GUIDED.values())
CONTROLNETS = tuple(case for case in PLAIN.values() if "ControlNet" in case.name)
FLUX = PLAIN["FluxPipeline"]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_transformer(
    in_channels: int = 16, *, guidance_embeds: bool = True, seed: int = 0
) -> FluxTransformer2DModel:
    torch.manual_seed(seed)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=in_channels,
        out_channels=16,
        num_layers=2,
        num_single_layers=1,
        guidance_embeds=guidance_embeds,
        **_SIZES,
    ).eval()


def make_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.1,
        scaling_factor=0.4,
        sample_size=SIDE,
    ).eval()


@functools.cache
def _vae() -> AutoencoderKL:
    """Shared: the tests that change it bring their own."""
    return make_vae()


@functools.cache
def _controlnet() -> FluxControlNetModel:
    """Shared: no test changes it. What is zero in a new one is not zero in this one."""
    torch.manual_seed(2)
    model = FluxControlNetModel(
        in_channels=16, num_layers=1, num_single_layers=1, guidance_embeds=True, **_SIZES
    ).eval()
    for layer in (
        model.controlnet_x_embedder,
        *model.controlnet_blocks,
        *model.controlnet_single_blocks,
    ):
        nn.init.normal_(layer.weight, std=0.1)
    return model


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def build(case: Case = FLUX, **components: Any) -> Any:
    """A new pipeline; its transformer always has the same weights."""
    cls: type[DiffusionPipeline] = getattr(diffusers, case.name)
    parts = {
        "scheduler": make_scheduler(),
        "vae": _vae(),
        "text_encoder": None,
        "tokenizer": None,
        "text_encoder_2": None,
        "tokenizer_2": None,
        "transformer": make_transformer(case.in_channels),
    }
    if "ControlNet" in case.name:
        parts["controlnet"] = _controlnet()
    pipe = cls(**{**parts, **components})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def accelerated(case: Case = FLUX, **components: Any) -> Any:
    """The same, accelerated and never called."""
    return tap_ext.accelerate(build(case, **components), **WINDOWED)


def prompt(seed: int) -> dict[str, Any]:
    return {
        "prompt_embeds": noise(1, TEXT, 32, seed=seed),
        "pooled_prompt_embeds": noise(1, 24, seed=seed + 1),
    }


def negative(positive: dict[str, Any]) -> dict[str, Any]:
    """A prompt as the one to steer away from."""
    return {f"negative_{name}": value for name, value in positive.items()} | {"true_cfg_scale": CFG}


def arguments(case: Case = FLUX) -> dict[str, Any]:
    """What to call a pipeline with, less the generator."""
    given: dict[str, Any] = {
        **prompt(10),
        "height": SIDE,
        "width": SIDE,
        "num_inference_steps": STEPS,
        "output_type": "latent",
    }
    for seed, name in enumerate(case.pictures):
        picture = noise(1, 1 if "mask" in name else 3, SIDE, SIDE, seed=seed).sigmoid()
        given[name] = picture.round() if "mask" in name else picture
    if case.guided:
        given |= negative(prompt(20))
    if case.partial:
        given |= {"num_inference_steps": 10, "strength": 0.8}
    if case.kontext:
        given |= {"max_area": SIDE**2, "_auto_resize": False}
    return given


def read_prompts(pipe: Any) -> Any:
    """Give a pipeline something to read prompts with: one token per word."""

    def encode(
        *, prompt: str | list[str], num_images_per_prompt: int, **_: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        texts = [prompt] if isinstance(prompt, str) else prompt
        length = len(texts[0].split())
        tokens = torch.cat([noise(1, length, 32, seed=len(text)) for text in texts])
        pooled = torch.cat([noise(1, 24, seed=len(text)) for text in texts])
        copies = num_images_per_prompt
        return (
            tokens.repeat_interleave(copies, dim=0),
            pooled.repeat_interleave(copies, dim=0),
            torch.zeros(length, 3),
        )

    pipe.encode_prompt = encode
    return pipe


def spoken(**prompts: Any) -> dict[str, Any]:
    """What to call FluxPipeline with, prompts in words."""
    given = arguments()
    return {name: value for name, value in given.items() if name not in prompt(0)} | prompts


def generate(pipe: Any, given: dict[str, Any] | None = None, **changes: Any) -> Tensor:
    """One picture, from the same noise every time."""
    given = arguments() if given is None else given
    picture = pipe(**{**given, **changes}, generator=torch.Generator().manual_seed(0)).images
    assert isinstance(picture, Tensor)
    return picture


@functools.cache
def _untouched(case: Case) -> tuple[Tensor, dict[str, Any]]:
    pipe = build(case)
    return generate(pipe, arguments(case)), marks(pipe)


def untouched(case: Case = FLUX) -> Tensor:
    """What the pipeline makes without tap_ext."""
    return _untouched(case)[0]


def unmarked(case: Case = FLUX) -> dict[str, Any]:
    """The marks of a pipeline that was called without tap_ext."""
    return _untouched(case)[1]


@functools.cache
def expected(case: Case = FLUX, *, corrector: bool = True) -> Tensor:
    """What a pipeline just accelerated makes."""
    pipe = tap_ext.accelerate(build(case), corrector=corrector, **WINDOWED)
    return generate(pipe, arguments(case))


def error(picture: Tensor, truth: Tensor) -> float:
    return float((picture - truth).norm() / truth.norm())


def steps(target: Any) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The full and the skip steps of each branch of the last run."""
    (model,) = tap_ext.stats(target).models
    return [(branch.full_steps, branch.skip_steps) for branch in model.branches]


def marks(pipe: Any) -> dict[str, Any]:
    """What could be left behind on a pipeline and its modules: classes, attributes and hooks."""

    def mark(thing: Any) -> tuple[Any, ...]:
        hooks = [value for name, value in vars(thing).items() if name.endswith("_hooks")]
        return type(thing), sorted(vars(thing)), [len(held) for held in hooks if held is not None]

    modules = pipe.transformer.named_modules()
    return {"pipeline": mark(pipe)} | {name: mark(module) for name, module in modules}


@contextmanager
def counted(block: nn.Module) -> Iterator[list[int]]:
    """How often a block really ran, in an element that grows."""
    calls = [0]

    def count(*_: Any) -> None:
        calls[0] += 1

    handle = block.register_forward_hook(count)
    try:
        yield calls
    finally:
        handle.remove()


def at_step(step: int, act: Callable[..., dict[str, Any] | None]) -> dict[str, Any]:
    """The argument that makes a pipeline call ``act(pipe, tensors)`` after one step."""

    def callback(pipe: Any, now: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        return (act(pipe, tensors) if now == step else None) or tensors

    return {"callback_on_step_end": callback}

"""What a picture looks like while it is made, beside what the pipelines themselves decode."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")
pytest.importorskip("matplotlib")

from tap_ext.app.preview import LONGEST, Preview
from tap_ext.app.watch import watched
from tests.zoo import CASES
from tests.zoo.base import generate

SIZES = ("height", "width", "num_frames")

PACKED = "ChromaPipeline"
DECODED = (
    PACKED,  # tokens of 2 x 2 latents
    "StableDiffusion3Pipeline",  # (B, C, H, W), scaled and shifted
    "QwenImagePipeline",  # tokens, and an autoencoder of videos with statistics per channel
    "Flux2Pipeline",  # tokens that were normalised by the autoencoder
)


def _case(name: str) -> Any:
    return CASES.get(name) or pytest.skip(f"this diffusers has no {name}")


def _run(case: Any, pipe: Any, **changes: Any) -> tuple[Tensor, list[Tensor]]:
    seen: list[Tensor] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tiny pipelines
        made = generate(case, watched(pipe, seen.append), output_type="pt", **changes)
    return made, seen


def _preview(case: Any, pipe: Any, longest: int | None = None, **changes: Any) -> Preview:
    called = case.arguments() | changes
    return Preview(pipe, longest, **{k: v for k, v in called.items() if k in SIZES})


@pytest.mark.parametrize("name", DECODED)
def test_the_last_preview_is_the_picture(name: str) -> None:
    case = _case(name)
    pipe = case.make()
    if hasattr(pipe.vae, "bn"):  # others share it
        pipe.vae = copy.deepcopy(pipe.vae)
        pipe.vae.bn.running_mean.uniform_(-0.5, 0.5)
        pipe.vae.bn.running_var.uniform_(0.5, 2)
    made, seen = _run(case, pipe)
    assert len(seen) == case.steps
    shown = _preview(case, pipe)(seen[-1])
    assert shown is not None
    picture = made.reshape(-1, *made.shape[-3:])[0]
    torch.testing.assert_close(shown, picture, atol=0.01, rtol=0)


def test_of_a_video_it_is_the_middle_frame() -> None:
    case = _case("WanPipeline")
    pipe = case.make()
    made, seen = _run(case, pipe, num_frames=1)
    shown = _preview(case, pipe, num_frames=1)(seen[-1])
    assert shown is not None
    torch.testing.assert_close(shown, made[0, 0], atol=0.01, rtol=0)
    _, seen = _run(case, pipe)
    preview = _preview(case, pipe)
    middle = seen[-1][:, :, seen[-1].shape[2] // 2][:, :, None]
    assert torch.equal(preview(seen[-1]), preview(middle))
    preview(seen[-1])
    assert preview.frames == seen[-1].shape[2] > 1


def test_a_video_of_tokens_is_laid_out() -> None:
    """As LTX packs them; the sizes of the call tell frames from rows."""

    class Pipe:
        def __call__(self, height: int = 64, width: int = 96, num_frames: int = 17) -> None: ...

    frames, rows, columns = 3, 2, 3
    latents = torch.arange(frames * rows * columns, dtype=torch.float32).reshape(1, -1, 1)
    preview = Preview(Pipe())
    shown = preview(latents)
    assert preview.frames == frames and shown is not None and shown.shape == (3, rows, columns)
    middle = latents.reshape(frames, rows, columns)[1]
    assert torch.equal(shown[0].flatten().argsort(), middle.flatten().argsort())


def test_looking_changes_nothing() -> None:
    case = _case(PACKED)
    pipe = case.make()
    truth = generate(case, pipe)
    preview, looks = _preview(case, pipe), []

    def see(latents: Tensor) -> None:
        before, state = latents.clone(), torch.get_rng_state()
        looks.append(preview(latents))
        assert torch.equal(latents, before) and torch.equal(torch.get_rng_state(), state)

    made = generate(case, watched(pipe, see))
    assert torch.equal(made, truth)
    assert all(look is not None and look.isfinite().all() for look in looks)
    assert len({look.numpy().tobytes() for look in looks}) == case.steps
    assert "step" not in vars(pipe.scheduler)


def test_a_pipeline_without_the_callback_is_followed_by_its_scheduler() -> None:
    case = _case("PixArtSigmaPipeline")
    pipe = case.make()
    truth, seen = generate(case, pipe), []
    assert torch.equal(generate(case, watched(pipe, seen.append)), truth)
    assert len(seen) == case.steps and torch.equal(seen[-1], truth)
    assert "step" not in vars(pipe.scheduler)

    def fail(_: Tensor) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        generate(case, watched(pipe, fail))
    assert "step" not in vars(pipe.scheduler)


class Decoder(nn.Module):
    """Notes what it is given; fails if it is told to, and draws a number as some do."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.config, self.given, self.fails = {"latent_channels": 4}, [], fails
        self.dtype = torch.float32

    def decode(self, latents: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        self.given.append(latents)
        torch.rand(1)
        if self.fails:
            raise RuntimeError("no")
        return (latents[:, :3] * 2 - 1,)


class Plain:
    def __init__(self, vae: Any) -> None:
        self.vae = vae

    def __call__(self) -> None: ...


def test_large_latents_are_averaged_before_they_are_decoded() -> None:
    vae = Decoder()
    latents = torch.full((2, 4, 4 * LONGEST, 2 * LONGEST), 0.25)
    latents[0, 0, :, ::2], latents[0, 0, :, 1::2] = 0.2, 0.6
    state = torch.get_rng_state()
    shown = Preview(Plain(vae))(latents)
    assert torch.equal(torch.get_rng_state(), state)  # others may draw from it meanwhile
    assert shown is not None and shown.shape == (3, LONGEST, LONGEST // 2)
    torch.testing.assert_close(shown[0], torch.full_like(shown[0], 0.4))
    torch.testing.assert_close(shown[1], torch.full_like(shown[1], 0.25))


def test_without_an_autoencoder_that_works_it_is_false_colours() -> None:
    latents = torch.randn(1, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    latents[0, :, :, 4:] += torch.linspace(3, 5, 6)[:, None, None]
    vae = Decoder(fails=True)
    preview = Preview(Plain(vae))
    shown = preview(latents)
    assert shown is not None and shown.shape == (3, 8, 8)
    left, right = shown[0, :, :4].mean(), shown[0, :, 4:].mean()
    assert abs(float(right - left)) > 0.3  # the halves, which differ most
    assert torch.equal(shown, preview(latents)) and len(vae.given) == 1  # asked once only
    assert torch.equal(shown, Preview(Plain(None))(latents))


@pytest.mark.parametrize("shape", [(1, 7, 16), (4,), (1, 2, 3, 4, 5, 6)])
def test_what_has_no_known_layout_is_not_shown(shape: tuple[int, ...]) -> None:
    assert Preview(Plain(None))(torch.zeros(shape)) is None


def test_what_is_watched_is_called_and_named_as_itself() -> None:
    class Some:
        scheduler = SimpleNamespace(step=lambda: None)
        device = "here"

        def __call__(self, callback_on_step_end: Any = None) -> Any:
            assert callback_on_step_end(self, 0, 0, {}) == {}
            return callback_on_step_end(self, 0, 0, {"latents": torch.ones(1)})

    seen: list[Tensor] = []
    shown = watched(Some(), seen.append)
    assert type(shown).__name__ == "Some" and shown.device == "here"
    assert shown(callback_on_step_end=None) == {}
    assert len(seen) == 1

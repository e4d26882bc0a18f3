"""The digits model: loads, samples deterministically, draws what is asked, can be accelerated."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("sklearn")

import tap_ext
from tap_ext.demo.digits import CLASSES, MODEL, embed, generate, load_pipeline, make_scheduler
from tap_ext.demo.handwriting import HELD_OUT, SIZE, dataset


@pytest.fixture(scope="module")
def pipe() -> Any:
    return load_pipeline()


@pytest.fixture(scope="module")
def generated(pipe: Any) -> torch.Tensor:
    """Six pictures of each digit, (6 * 10, 3, SIZE, SIZE); their classes run fastest."""
    return generate(pipe, CLASSES * 6, steps=25, seed=100)


def drawn(count: int, seed: int, held_out: bool) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = dataset(count, seed, held_out)
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255, torch.from_numpy(labels)


def brightness(pictures: torch.Tensor) -> Any:
    """The stroke without its colour: ink is bright and ground dark in some channel."""
    return pictures.amax(1).flatten(1).numpy()


@pytest.fixture(scope="module")
def reader() -> Any:
    """Reads digits; trained on drawn pictures only, it knows nothing of the model."""
    from sklearn.svm import SVC

    pictures, labels = drawn(2500, 1, held_out=False)
    return SVC(C=10).fit(brightness(pictures), labels.numpy())


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 5_000_000


def test_the_data_is_balanced_reproducible_and_split_by_digit() -> None:
    pictures, labels = dataset(60, 3)
    again, _ = dataset(60, 3)
    other, _ = dataset(60, 3, held_out=True)
    assert pictures.shape == (60, SIZE, SIZE, 3) and (pictures == again).all()
    assert [int((labels == number).sum()) for number in range(10)] == [6] * 10
    assert (pictures != other).any()
    assert 0 < HELD_OUT < 1797


def test_sampling_starts_from_pure_noise_and_ends_without_any() -> None:
    scheduler = make_scheduler()
    scheduler.set_timesteps(50)
    steps = scheduler.timesteps.tolist()
    assert (len(steps), steps[0], steps[-1]) == (50, 999, 19)
    assert scheduler.alphas_cumprod[999] < 1e-6
    # The last step returns the predicted picture itself: x_0 = sqrt(a) x_t - sqrt(1 - a) v.
    x, v = torch.randn(2, 1, 3, 4, 4)
    a = scheduler.alphas_cumprod[19]
    torch.testing.assert_close(
        scheduler.step(v, 19, x).prev_sample, a.sqrt() * x - (1 - a).sqrt() * v
    )


def test_the_same_seed_gives_the_same_bits_and_another_does_not(pipe: Any) -> None:
    first, again, other = (generate(pipe, ["3", "8"], steps=3, seed=s) for s in (5, 5, 6))
    assert first.shape == (2, 3, SIZE, SIZE)
    assert torch.equal(first, again)
    assert (first - other).abs().mean() > 0.01


def test_a_picture_does_not_depend_on_its_batch(pipe: Any) -> None:
    batch = generate(pipe, ["3", "8", "1"], steps=3, seed=5)
    alone = generate(pipe, ["8"], steps=3, seed=6)
    torch.testing.assert_close(batch[1:2], alone, rtol=0, atol=1e-5)


def test_guidance_is_the_difference_of_the_two_branches(pipe: Any) -> None:
    """One step from pure noise gives x_0 = -v, which is linear in the scale."""

    def one(guidance: float, label: str = "4") -> torch.Tensor:
        return generate(pipe, [label], steps=1, seed=2, guidance=guidance)

    captions = embed(["4"])
    noise = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        with_class, without = (
            pipe.transformer(
                noise,
                encoder_hidden_states=captions[name],
                timestep=torch.tensor([999]),
                return_dict=False,
            )[0]
            for name in ("prompt_embeds", "negative_prompt_embeds")
        )
    for guidance in (1.0, 2.0, 4.0):
        velocity = without + guidance * (with_class - without)
        torch.testing.assert_close(
            one(guidance), (0.5 - velocity / 2).clamp(0, 1), rtol=0, atol=2e-4
        )
    assert (with_class - without).abs().max() > 0.01


def test_the_callback_sees_every_step(pipe: Any) -> None:
    seen: list[int] = []
    generate(pipe, ["2"], steps=3, callback=lambda step, *_: seen.append(step))
    assert seen == [0, 1, 2]


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(ValueError, match=r"labels must be among .*'9'.*got \['ten'\]"):
        embed(["1", "ten"])


def test_the_reader_reads_digits_of_writers_it_never_saw(reader: Any) -> None:
    pictures, labels = drawn(500, 2, held_out=True)
    assert reader.score(brightness(pictures), labels.numpy()) > 0.85


def test_the_digits_are_readable(reader: Any, generated: torch.Tensor) -> None:
    wanted = torch.arange(10).repeat(6).numpy()
    assert reader.score(brightness(generated), wanted) >= 0.85


def test_the_digits_are_new_and_vary(generated: torch.Tensor) -> None:
    """No two of a digit alike: neither in colour nor in the shape of the stroke."""
    strokes = torch.from_numpy(brightness(generated)).unflatten(0, (6, 10))
    for number in range(10):
        assert torch.pdist(strokes[:, number]).min() > 1
    means = generated.mean((2, 3))
    assert (means.std(0) > 0.03).all()


def test_it_can_be_accelerated(pipe: Any) -> None:
    labels = ["0", "5", "7"]
    reference = generate(pipe, labels, steps=20, seed=9)
    try:
        tap_ext.accelerate(pipe, window=1)
        assert torch.equal(generate(pipe, labels, steps=20, seed=9), reference)
        tap_ext.accelerate(pipe, window=3)
        skipped = generate(pipe, labels, steps=20, seed=9)
        model = tap_ext.stats(pipe).models[0]
    finally:
        tap_ext.restore(pipe)
    (branch,) = model.branches  # both halves of the guidance are in one call
    assert branch.full_steps == (0, 1, 2, 5, 8, 11, 14, 17)
    assert len(branch.full_steps) + len(branch.skip_steps) == 20
    squared = (skipped - reference).square().flatten(1).mean(1)
    assert (squared > 0).all()
    # Closer than leaving the skipped steps out of the sampling altogether.
    fewer = generate(pipe, labels, steps=8, seed=9)
    assert squared.mean() < (fewer - reference).square().mean()
    assert torch.equal(generate(pipe, labels, steps=20, seed=9), reference)

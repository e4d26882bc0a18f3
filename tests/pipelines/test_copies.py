"""Pipelines and transformers that are copied, saved, shared, or used by several threads."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxImg2ImgPipeline, FluxPipeline, FluxTransformer2DModel
from torch import Tensor

import tap_ext
from tests.pipelines.builders import (
    FULL,
    PLAIN,
    SKIP,
    WINDOWED,
    accelerated,
    arguments,
    build,
    expected,
    generate,
    make_scheduler,
    make_vae,
    negative,
    prompt,
    steps,
    untouched,
)

pytestmark = pytest.mark.filterwarnings("error:tap_ext")

IMAGE = PLAIN["FluxImg2ImgPipeline"]


@pytest.fixture
def pipe() -> Any:
    """An accelerated pipeline that has run."""
    pipe = accelerated()
    generate(pipe)
    return pipe


def is_plain(transformer: Any) -> bool:
    try:
        tap_ext.stats(transformer)
    except ValueError:
        return torch.equal(generate(build(transformer=transformer)), untouched())
    return False


def request(pipe: Any) -> Any:
    """A copy for one request: its own scheduler, the same models."""
    own = copy.copy(pipe)
    own.scheduler = make_scheduler()
    return own


class TestTransformer:
    def test_a_deep_copy_is_a_plain_one(self, pipe: Any) -> None:
        assert is_plain(copy.deepcopy(pipe.transformer))
        assert torch.equal(generate(pipe), expected())

    def test_a_deep_copy_runs_its_own_weights(self, pipe: Any) -> None:
        copied = copy.deepcopy(pipe.transformer)
        torch.nn.init.zeros_(copied.proj_out.weight)
        torch.nn.init.zeros_(copied.proj_out.bias)
        start = torch.ones(1, 16, 16)
        assert torch.equal(generate(build(transformer=copied), latents=start), start)
        assert torch.equal(generate(pipe), expected())

    def test_a_deep_copy_can_be_accelerated(self, pipe: Any) -> None:
        copied = copy.deepcopy(pipe.transformer)
        assert torch.equal(generate(accelerated(transformer=copied)), expected())

    def test_a_pickled_one_is_a_plain_one(self, pipe: Any) -> None:
        assert is_plain(pickle.loads(pickle.dumps(pipe.transformer)))

    def test_a_saved_one_is_the_same_on_disk(self, pipe: Any, tmp_path: Path) -> None:
        pipe.transformer.save_pretrained(tmp_path / "accelerated")
        build().transformer.save_pretrained(tmp_path / "plain")
        assert files(tmp_path / "accelerated") == files(tmp_path / "plain")
        assert is_plain(FluxTransformer2DModel.from_pretrained(tmp_path / "accelerated"))

    def test_its_weights_keep_their_names(self, pipe: Any) -> None:
        plain = build().transformer
        assert pipe.transformer.state_dict().keys() == plain.state_dict().keys()
        assert dict(pipe.transformer.named_modules()).keys() == dict(plain.named_modules()).keys()

    def test_new_weights_are_used(self, pipe: Any) -> None:
        weights = {name: 0.9 * value for name, value in pipe.transformer.state_dict().items()}
        fresh = build()
        for target in (pipe, fresh):
            target.transformer.load_state_dict(weights)
        assert torch.equal(generate(pipe), generate(tap_ext.accelerate(fresh, **WINDOWED)))

    def test_it_is_not_kept_alive(self) -> None:
        pipe = accelerated()
        generate(pipe)
        transformer = weakref.ref(pipe.transformer)
        del pipe
        gc.collect()
        assert transformer() is None

    def test_it_is_not_kept_alive_by_a_pipeline_that_has_another(self, pipe: Any) -> None:
        transformer = weakref.ref(pipe.transformer)
        pipe.transformer = None
        gc.collect()
        assert transformer() is None


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


class TestPipeline:
    def test_a_deep_copy_is_a_plain_one(self, pipe: Any) -> None:
        copied = copy.deepcopy(pipe)
        assert type(copied) is FluxPipeline
        assert torch.equal(generate(copied), untouched())
        assert torch.equal(generate(pipe), expected())

    def test_a_copy_is_accelerated_too(self, pipe: Any) -> None:
        copied = request(pipe)
        assert copied.transformer is pipe.transformer
        assert torch.equal(generate(copied), expected())

    def test_a_copy_tells_branches_of_equal_prompts_apart(self, pipe: Any) -> None:
        given = arguments()
        generate(request(pipe), given, **negative({name: given[name] for name in prompt(0)}))
        assert steps(pipe) == [(FULL, SKIP)] * 2

    def test_restoring_a_copy_leaves_the_other_one_right(self, pipe: Any) -> None:
        tap_ext.restore(request(pipe))
        assert torch.equal(generate(pipe), untouched())

    def test_a_pickled_one_is_a_plain_one(self) -> None:
        pipe = accelerated(vae=make_vae())
        generate(pipe)
        loaded = pickle.loads(pickle.dumps(pipe))
        assert type(loaded) is FluxPipeline
        assert torch.equal(generate(loaded), untouched())

    def test_a_saved_one_is_the_same_on_disk(self, pipe: Any, tmp_path: Path) -> None:
        pipe.save_pretrained(tmp_path / "accelerated")
        build().save_pretrained(tmp_path / "plain")
        assert files(tmp_path / "accelerated") == files(tmp_path / "plain")
        loaded = FluxPipeline.from_pretrained(
            tmp_path / "accelerated",
            text_encoder=None,
            tokenizer=None,
            text_encoder_2=None,
            tokenizer_2=None,
        )
        loaded.set_progress_bar_config(disable=True)
        assert torch.equal(generate(loaded), untouched())

    def test_its_class_looks_as_before(self, pipe: Any) -> None:
        cls = type(pipe)
        assert isinstance(pipe, FluxPipeline)
        assert (cls.__name__, cls.__qualname__) == ("FluxPipeline", "FluxPipeline")
        assert (cls.__module__, cls.__doc__) == (FluxPipeline.__module__, FluxPipeline.__doc__)
        assert repr(pipe) == repr(build())

    def test_its_components_are_its_own(self, pipe: Any) -> None:
        assert pipe.components.keys() == build().components.keys()
        assert pipe.components["transformer"] is pipe.transformer


class TestSharedTransformer:
    def test_a_pipeline_made_from_an_accelerated_one_skips_too(self, pipe: Any) -> None:
        other = FluxImg2ImgPipeline.from_pipe(pipe)
        other.set_progress_bar_config(disable=True)
        assert other.transformer is pipe.transformer
        # nobody tells the other's noise levels
        assert torch.equal(generate(other, arguments(IMAGE)), expected(IMAGE, corrector=False))
        assert steps(other) == [(FULL, SKIP)]

    def test_runs_of_both_may_follow_each_other(self, pipe: Any) -> None:
        other = FluxImg2ImgPipeline.from_pipe(pipe)
        other.set_progress_bar_config(disable=True)
        given = arguments(IMAGE)
        for _ in range(2):
            assert torch.equal(generate(other, given), expected(IMAGE, corrector=False))
            assert torch.equal(generate(pipe), expected())

    def test_another_configuration_for_both_is_told(self, pipe: Any) -> None:
        """A transformer has one, so the second accelerate() is felt by the first pipeline."""
        other = FluxImg2ImgPipeline.from_pipe(pipe)
        other.set_progress_bar_config(disable=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tap_ext.accelerate(other, **WINDOWED)  # the same: nobody feels it
            tap_ext.accelerate(other.transformer, **WINDOWED)
            tap_ext.accelerate(build(), window=2)  # a transformer of its own
        words = "FluxPipeline shares a transformer with the FluxImg2ImgPipeline"
        with pytest.warns(UserWarning, match=words) as caught:
            tap_ext.accelerate(other, window=2, warmup=1)
        assert [warning.filename for warning in caught] == [__file__]
        generate(pipe)
        assert steps(pipe)[0][0] == (0, 2, 4, 6)
        tap_ext.restore(pipe)
        tap_ext.accelerate(other, **WINDOWED)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tap_ext.accelerate(other, window=2)  # the first is accelerated no more

    def test_a_pipeline_made_from_an_accelerated_one_forgets_its_last_prompt(
        self, pipe: Any
    ) -> None:
        other = FluxImg2ImgPipeline.from_pipe(pipe)
        other.set_progress_bar_config(disable=True)
        held = set()
        for seed in range(3):
            generate(other, arguments(IMAGE), **prompt(seed))
            held.add(tap_ext.stats(other).models[0].nbytes)
            assert steps(other) == [(FULL, SKIP)]
        assert len(held) == 1

    def test_both_accelerated_and_one_restored(self, pipe: Any) -> None:
        other = tap_ext.accelerate(FluxImg2ImgPipeline.from_pipe(pipe), **WINDOWED)
        other.set_progress_bar_config(disable=True)
        assert torch.equal(generate(other, arguments(IMAGE)), expected(IMAGE))
        tap_ext.restore(pipe)
        assert torch.equal(generate(other, arguments(IMAGE)), untouched(IMAGE))
        assert torch.equal(generate(pipe), untouched())

    def test_two_threads_get_what_they_would_get_alone(self, pipe: Any) -> None:
        prompts = [prompt(seed) for seed in (70, 80)]
        alone = [generate(request(pipe), **each) for each in prompts]
        made: list[list[Tensor]] = [[], []]
        # Both reach the end of each step before either goes on: their steps truly interleave.
        barrier = threading.Barrier(2, timeout=60)

        def wait(_pipe: Any, _step: int, _time: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
            barrier.wait()
            return tensors

        def work(index: int) -> None:
            for _ in range(2):
                own = request(pipe)
                made[index].append(generate(own, **prompts[index], callback_on_step_end=wait))

        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for index in range(2):
            assert len(made[index]) == 2
            assert all(torch.equal(picture, alone[index]) for picture in made[index])

    def test_two_threads_skip_what_they_would_skip_alone(self, pipe: Any) -> None:
        before = tap_ext.stats(pipe)
        barrier = threading.Barrier(2, timeout=60)

        def work(seed: int) -> None:
            own = request(pipe)
            barrier.wait()
            generate(own, **prompt(seed))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in (70, 80)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = tap_ext.stats(pipe)
        assert after.full - before.full == 2 * len(FULL)
        assert after.skip - before.skip == 2 * len(SKIP)
        assert after.models[0].runs - before.models[0].runs == 2

    def test_the_transformer_of_a_pipeline_may_be_accelerated_alone(self) -> None:
        pipe = build()
        tap_ext.accelerate(pipe.transformer, **WINDOWED)
        assert type(pipe) is FluxPipeline
        given = arguments()
        for _ in range(2):
            assert torch.equal(generate(pipe, given), expected(corrector=False))
            assert steps(pipe.transformer) == [(FULL, SKIP)]

    def test_another_transformer_in_an_accelerated_pipeline_is_not_passed_over_in_silence(
        self, pipe: Any
    ) -> None:
        pipe.transformer = build().transformer
        with pytest.warns(UserWarning, match="tap_ext"):
            assert torch.equal(generate(pipe), untouched())

"""Nothing is off in silence, and nothing that is wrong goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import tap_ext
from tap_ext import Config
from tap_ext.backbones import SPECS, Stream
from tests import tiny
from tests.models import MODELS
from tests.models.base import build, inputs, sample
from tests.pipelines import builders
from tests.regressions.helpers import FLUX, STEPS, bare, branches, fresh, silent

pytestmark = pytest.mark.filterwarnings("error:tap_ext")


def test_a_run_that_skips_nothing_says_so() -> None:
    """vllm-project/vllm-omni#7335: as slow as no cache, and no word of it

    On Wan 2.2 the cache was on and nothing was ever skipped. Here a prompt that changes at every
    step is what forbids to skip.
    """
    pipe = builders.accelerated()

    def other(_: Any, step: int, __: Any, ___: Any) -> dict[str, Any]:
        return {"prompt_embeds": builders.prompt(100 + step)["prompt_embeds"]}

    given = {
        "callback_on_step_end": other,
        "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"],
    }
    with pytest.warns(UserWarning, match="made 8 steps and skipped none"):
        builders.generate(pipe, **given)
    assert tap_ext.stats(pipe).skip == 0
    assert "0 skip steps" in tap_ext.explain(pipe)


@pytest.mark.parametrize(
    "field", ["cache_backend", "cache_config", "residual_diff_threshold", "Window", "speed_up"]
)
def test_a_setting_that_nobody_reads_is_refused(field: str) -> None:
    """vllm-project/vllm-omni#4621: the cache asked for in a file of settings is left out in silence

    A key that was read by nobody switched nothing on and raised nothing.
    """
    pipe = builders.build()
    before = builders.marks(pipe)
    with pytest.raises(TypeError, match=field):
        tap_ext.accelerate(pipe, **{field: 4})
    with pytest.raises(TypeError, match=field):
        Config(**{field: 4})
    with pytest.raises(TypeError, match=field):
        Config().replace(**{field: 4})
    assert builders.marks(pipe) == before


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("MiniMaxH3")])
def test_minimax_h3_is_really_skipped(name: str) -> None:
    """sgl-project/sglang#33827: make the cache actually cache on MiniMax-H3

    It was switched on for that model without any effect.
    """
    case = MODELS[name]
    model = tap_ext.accelerate(build(case), window=4)
    with silent():
        sample(case, model, inputs(case), STEPS)
    (stats,) = tap_ext.stats(model).models
    main = stats.branches[0]
    assert (main.full_steps, len(main.skip_steps)) == ((0, 1, 2, 6, 10), 7)
    assert stats.fallbacks == {}


@pytest.mark.parametrize("preset", ["default", "quality", "balanced", "fast", "paper"])
def test_every_preset_engages(preset: str) -> None:
    """utensils/mold#939: a careful default that never fired

    At a threshold of 0.05 no step of 20 was skipped, and the checks made the run slower.
    """
    model = tap_ext.accelerate(tiny.build(FLUX), preset=preset)
    with builders.counted(model.transformer_blocks[0]) as blocks:
        tiny.sample(model, tiny.inputs(FLUX), 20)
    full = tap_ext.stats(model).full
    assert blocks == [full] and full <= 20 / 2


def test_a_wrong_description_does_not_go_on_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """kijai/ComfyUI-KJNodes#344: goes on with an error

    The node failed inside the sampling and left the model patched, so what came next was wrong too.
    """
    name = "FluxTransformer2DModel"
    truth = tiny.sample(tiny.build(FLUX), tiny.inputs(FLUX), STEPS)
    with monkeypatch.context() as patch:
        patch.setitem(SPECS, name, replace(SPECS[name], streams=(Stream("proj_out"),)))
        model = tap_ext.accelerate(tiny.build(FLUX), window=4)
    with pytest.warns(UserWarning, match="untouched: the self-check failed"):
        assert torch.equal(tiny.sample(model, tiny.inputs(FLUX), STEPS), truth)
    (stats,) = tap_ext.stats(model).models
    assert stats.skip == 0 and sum(stats.fallbacks.values()) == STEPS - 1
    tap_ext.restore(model)
    assert torch.equal(tiny.sample(model, tiny.inputs(FLUX), STEPS), truth)


def test_an_error_of_the_model_is_the_users_and_leaves_nothing() -> None:
    """kijai/ComfyUI-KJNodes#344: the same, where the model itself fails

    It must reach the caller as it is, and the next run must be as if nothing had been.
    """
    model = bare()

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("of the model")

    for stop, module in ((5, model.norm_out), (6, model.single_transformer_blocks[1])):
        tiny.sample(model, tiny.inputs(FLUX, seed=5), STEPS, stop=stop)
        handle = module.register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError, match="of the model"):
            tiny.sample(model, tiny.inputs(FLUX, seed=5), STEPS)
        handle.remove()
        with torch.no_grad():  # and what goes on where it failed begins anew
            model(**tiny.inputs(FLUX, seed=5), timestep=torch.tensor([0.001]))
        assert branches(model) == [[((0,), ())]]
        assert torch.equal(tiny.sample(model, tiny.inputs(FLUX), STEPS), fresh())

"""LoRA and IP-Adapters that come, change and go while a pipeline is accelerated."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import tap_ext
from tests.pipelines.builders import (
    CLOSE,
    FULL,
    SKIP,
    STEPS,
    WINDOWED,
    accelerated,
    arguments,
    build,
    error,
    expected,
    generate,
    make_transformer,
    negative,
    noise,
    prompt,
    steps,
    untouched,
)

pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("error:tap_ext"),
    # peft on a second adapter, loaded on purpose
    pytest.mark.filterwarnings("ignore:Already found a `peft_config`"),
    pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters"),
]


ADAPTED = (
    "x_embedder",
    "context_embedder",
    "time_text_embed.text_embedder.linear_1",
    "transformer_blocks.0.norm1.linear",
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.1.ff.net.2",
    "single_transformer_blocks.0.attn.to_v",
    "norm_out.linear",
    "proj_out",
)
"""Layers inside the blocks, before, between and behind them."""


@functools.cache
def lora(seed: int, rank: int = 2) -> dict[str, Tensor]:
    weights = {}
    for name in ADAPTED:
        layer = make_transformer().get_submodule(name)
        down = noise(rank, layer.in_features, seed=seed) / layer.in_features**0.5
        weights[f"transformer.{name}.lora_A.weight"] = down
        weights[f"transformer.{name}.lora_B.weight"] = (
            noise(layer.out_features, rank, seed=seed) / 4
        )
    return weights


def load(pipe: Any, seed: int = 5, name: str = "first") -> Any:
    pipe.load_lora_weights(dict(lora(seed)), adapter_name=name)
    return pipe


@functools.cache
def truth(scale: float = 1.0) -> Tensor:
    """What a pipeline with the first one makes without tap_ext."""
    return generate(load(build()), joint_attention_kwargs={"scale": scale})


@functools.cache
def adapted() -> Tensor:
    """What one makes that was accelerated with it."""
    return generate(tap_ext.accelerate(load(build()), **WINDOWED))


class TestLora:
    def test_loaded_into_an_accelerated_pipeline(self) -> None:
        pipe = accelerated()
        generate(pipe)
        assert torch.equal(generate(load(pipe)), adapted())
        assert steps(pipe) == [(FULL, SKIP)]

    def test_it_has_an_effect(self) -> None:
        assert error(adapted(), expected()) > CLOSE

    def test_the_picture_is_close_to_the_untouched_one(self) -> None:
        assert 0 < error(adapted(), truth()) < CLOSE

    def test_removed_again(self) -> None:
        pipe = load(accelerated())
        generate(pipe)
        pipe.unload_lora_weights()
        assert torch.equal(generate(pipe), expected())

    def test_rescaled_and_exchanged_between_runs(self) -> None:
        pipe, fresh = load(accelerated()), load(accelerated())
        generate(pipe)
        pipe.set_adapters("first", 0.25)
        fresh.set_adapters("first", 0.25)
        picture = generate(fresh)
        assert not torch.equal(picture, adapted())
        assert torch.equal(generate(pipe), picture)
        load(pipe, seed=7, name="second").set_adapters("second")
        assert error(generate(pipe), picture) > CLOSE
        pipe.set_adapters("first", 1.0)
        assert torch.equal(generate(pipe), adapted())

    def test_fused_and_unfused_between_runs(self) -> None:
        pipe = load(accelerated())
        for change in (pipe.fuse_lora, pipe.unfuse_lora):
            change()
            assert error(generate(pipe), adapted()) < 1e-4

    @pytest.mark.parametrize("scale", [0.0, 0.5])
    def test_its_scale_in_the_call_reaches_every_layer_of_a_full_step(self, scale: float) -> None:
        pipe = tap_ext.accelerate(load(build()), warmup=STEPS)
        assert torch.equal(generate(pipe, joint_attention_kwargs={"scale": scale}), truth(scale))

    def test_a_scale_of_zero_in_the_call_is_no_lora_at_all(self) -> None:
        pipe = load(accelerated())
        assert error(generate(pipe, joint_attention_kwargs={"scale": 0.0}), expected()) < 1e-5
        assert steps(pipe) == [(FULL, SKIP)]

    def test_its_scale_in_one_call_is_forgotten_by_the_next(self) -> None:
        pipe = load(accelerated())
        generate(pipe, joint_attention_kwargs={"scale": 0.5})
        assert torch.equal(generate(pipe), adapted())

    def test_restore_with_one_loaded(self) -> None:
        pipe = load(accelerated())
        generate(pipe)
        tap_ext.restore(pipe)
        assert torch.equal(generate(pipe), truth())
        pipe.unload_lora_weights()
        assert torch.equal(generate(pipe), untouched())


def ip_adapter(transformer: Any, seed: int = 0) -> dict[str, dict[str, Tensor]]:
    """Weights of an IP-Adapter that reads image embeddings of 32 channels as 4 tokens."""
    width, text = transformer.inner_dim, transformer.config.joint_attention_dim
    attention = {
        f"{block}.{name}_ip.{kind}": noise(*shape, seed=seed + block) / 16
        for block in range(len(transformer.transformer_blocks))
        for name in ("to_k", "to_v")
        for kind, shape in (("weight", (width, text)), ("bias", (width,)))
    }
    projection = {
        "proj.weight": noise(4 * text, 32, seed=seed) / 4,
        "proj.bias": noise(4 * text, seed=seed),
        "norm.weight": torch.ones(text),
        "norm.bias": torch.zeros(text),
    }
    return {"ip_adapter": attention, "image_proj": projection}


def with_ip_adapter(pipe: Any) -> Any:
    pipe.transformer._load_ip_adapter_weights([ip_adapter(pipe.transformer)])
    return pipe


def looking(*, guided: bool = False) -> dict[str, Any]:
    """What to call a pipeline with an IP-Adapter with."""
    given = arguments() | {
        "ip_adapter_image_embeds": [noise(1, 1, 32, seed=60)],
        "negative_ip_adapter_image_embeds": [noise(1, 1, 32, seed=61)],
    }
    if guided:
        given |= negative({name: given[name] for name in prompt(0)})
    return given


class TestIPAdapter:
    def test_it_has_an_effect(self) -> None:
        assert error(generate(with_ip_adapter(build()), looking()), untouched()) > CLOSE

    def test_full_steps_alone_are_bit_equal_to_the_untouched_pipeline(self) -> None:
        pipe = with_ip_adapter(tap_ext.accelerate(build(), warmup=STEPS))
        assert torch.equal(generate(pipe, looking()), generate(with_ip_adapter(build()), looking()))

    @pytest.mark.parametrize("guided", [False, True], ids=["plain", "cfg"])
    def test_skip_steps_follow_the_plan(self, guided: bool) -> None:
        pipe = with_ip_adapter(accelerated())
        truth = generate(with_ip_adapter(build()), looking(guided=guided))
        assert 0 < error(generate(pipe, looking(guided=guided)), truth) < CLOSE
        assert steps(pipe) == [(FULL, SKIP)] * (2 if guided else 1)

    def test_branches_may_differ_in_their_pictures_alone(self) -> None:
        pipe, same = with_ip_adapter(accelerated()), looking(guided=True)
        copies = {
            name: value.clone()
            for name, value in same.items()
            if name.startswith("negative_") and isinstance(value, Tensor)
        }
        assert len(copies) == 2
        assert torch.equal(generate(pipe, same), generate(pipe, same | copies))

    def test_loaded_into_an_accelerated_pipeline(self) -> None:
        pipe = accelerated()
        generate(pipe)
        fresh = tap_ext.accelerate(with_ip_adapter(build()), **WINDOWED)
        assert torch.equal(generate(with_ip_adapter(pipe), looking()), generate(fresh, looking()))

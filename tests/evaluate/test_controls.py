"""TaylorSeer in every block against diffusers' own; the oracle against all candidates by hand."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel, WanTransformer3DModel
from diffusers.hooks import HookRegistry
from scipy.fft import dctn, idctn
from torch import Tensor, nn

import tap_ext
from tap_ext.evaluate.blocks import BlockForecast
from tap_ext.evaluate.freqca import FreqCa, HighBand, _low_band
from tap_ext.evaluate.methods import METHODS
from tap_ext.evaluate.oracle import Oracle
from tap_ext.plan import Listed
from tap_ext.predictors import candidates, rows, to_raw
from tests import tiny

FLUX = tiny.MODELS[0]
STEPS = 14


def _run(model: nn.Module, control: Any = None, known: tiny.Tiny = FLUX) -> Tensor:
    arguments = tiny.inputs(known, batch=2)
    if control is None:
        return tiny.sample(model, arguments, STEPS)
    with control.around(model):
        return tiny.sample(model, arguments, STEPS)


@pytest.mark.parametrize("order", [1, 2])
def test_blocks_are_forecast_as_diffusers_does(order: int) -> None:
    taylor = pytest.importorskip("diffusers.hooks.taylorseer_cache")
    model = tiny.build(FLUX)
    theirs = taylor.TaylorSeerCacheConfig(
        cache_interval=4,
        disable_cache_before_step=3,
        max_order=order,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[
            r"transformer_blocks\.\d+\.(attn|ff|ff_context)",
            r"single_transformer_blocks\.\d+\.proj_out",
        ],
        skip_predict_identifiers=[r"single_transformer_blocks\.\d+\.(attn|proj_mlp)"],
    )
    taylor.apply_taylorseer_cache(model, theirs)
    with model.cache_context("one"):
        wanted = _run(model)
    for module in model.modules():
        HookRegistry.check_if_exists_or_initialize(module).remove_hook("taylorseer_cache")
    # its phase is not the published one: 4 is full, 5 is not
    ours = BlockForecast((0, 1, 2, 4, 8, 12), order, first_enhance=None)
    torch.testing.assert_close(_run(model, ours), wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(wanted, _run(model), atol=1e-3)


def test_the_guard_of_the_start() -> None:
    """With it no difference is formed at steps 0 and 1, so order 2 waits for the fourth."""
    model = tiny.build(FLUX)
    full = (0, 1, 2, 6, 10)
    made = {
        (order, guard): _run(model, BlockForecast(full, order, guard))
        for order, guard in product((1, 2), (3, None))
    }
    assert not torch.allclose(made[2, 3], made[2, None], atol=1e-4)
    assert torch.equal(made[1, 3], made[1, None]), "of order 1 the last two full steps are enough"
    first = (0, 1, 2)
    torch.testing.assert_close(
        _run(model, BlockForecast(first, 2, 3)), _run(model, BlockForecast(first, 1, None))
    )


def test_full_steps_are_the_model_s_own_and_nothing_stays() -> None:
    model = tiny.build(FLUX)
    plain = _run(model)
    control = BlockForecast(tuple(range(STEPS)))
    assert torch.equal(_run(model, control), plain)
    with pytest.raises(RuntimeError, match="stop"), BlockForecast((0,)).around(model):
        raise RuntimeError("stop")
    assert torch.equal(_run(model), plain)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_skip_step_runs_no_attention_and_no_mlp() -> None:
    model = tiny.build(FLUX)
    seen: list[str] = []
    for name, module in model.named_modules():
        if name.startswith(("transformer_blocks.0.", "single_transformer_blocks.0.")):
            module.register_forward_pre_hook(lambda *_, name=name: seen.append(name))
    _run(model, BlockForecast((0,)))
    inner = [name for name in seen if name.endswith((".to_q", ".net.0"))]
    assert len(inner) == len(set(inner)) >= 4, "once each, at the full step"


def test_branches_have_pasts_of_their_own() -> None:
    model = tiny.build(FLUX)
    one, two = (tiny.inputs(FLUX, seed, batch=1) for seed in (1, 2))
    control = BlockForecast((0, 1, 2, 6, 10))

    def steps(*branches: dict[str, Any]) -> list[Tensor]:
        made = []
        with control.around(model), torch.no_grad():
            for step in range(STEPS):
                time = torch.tensor([1 - step / STEPS])
                made += [model(**b, timestep=time, return_dict=False)[0] for b in branches]
        return made

    both = steps(one, two)
    assert all(map(torch.equal, both[::2], steps(one)))
    assert all(map(torch.equal, both[1::2], steps(two)))


def _pixart() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model = PixArtTransformer2DModel(
        sample_size=8, num_layers=2, attention_head_dim=8, num_attention_heads=2, in_channels=4,
        out_channels=4, cross_attention_dim=16, caption_channels=16, patch_size=2,
    )  # fmt: skip
    return model.eval(), {
        "hidden_states": torch.randn(1, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 5, 16),
        "added_cond_kwargs": {"resolution": None, "aspect_ratio": None},
    }


def _wan() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4,
        out_channels=4, text_dim=16, freq_dim=16, ffn_dim=32, num_layers=2, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    )  # fmt: skip
    return model.eval(), {
        "hidden_states": torch.randn(1, 4, 2, 8, 8),
        "encoder_hidden_states": torch.randn(1, 5, 16),
    }


@pytest.mark.parametrize("name", ["sd3", "qwen", "pixart", "wan"])
def test_other_classes_of_blocks(name: str) -> None:
    known = {model.name: model for model in tiny.MODELS}.get(name)
    if known is None:
        model, arguments = {"pixart": _pixart, "wan": _wan}[name]()
    else:
        model, arguments = tiny.build(known), tiny.inputs(known)
    plain = tiny.sample(model, arguments, 6)
    with BlockForecast(tuple(range(6))).around(model):
        assert torch.equal(tiny.sample(model, arguments, 6), plain)
    with BlockForecast((0, 1, 2, 4)).around(model) as held:
        fast = tiny.sample(model, arguments, 6)
        assert held.nbytes > 0
    assert not torch.equal(fast, plain)
    assert (fast - plain).norm() < 0.2 * plain.norm()


def test_a_model_whose_blocks_are_not_known() -> None:
    with (
        pytest.raises(ValueError, match="taylorseer-blocks knows the blocks Flux"),
        BlockForecast((0,)).around(nn.Sequential(nn.Linear(2, 2))),
    ):
        pass


@pytest.mark.parametrize("forecast", ["residual", "hidden"])
def test_the_oracle_takes_every_token_s_nearest_candidate(forecast: Any) -> None:
    model = tiny.build(FLUX)
    arguments = tiny.inputs(FLUX, batch=2)
    seen: list[dict[str, Tensor]] = []
    handles = (
        model.x_embedder.register_forward_hook(lambda *a: seen.append({"hidden": a[2].clone()})),
        model.norm_out.register_forward_pre_hook(
            lambda _, args: seen[-1].update(output=args[0].clone())
        ),
    )
    first = 3
    tiny.sample(model, arguments, STEPS, stop=first + 1)
    config = tap_ext.Config(
        preset="paper", window=STEPS, metric="l2", forecast=forecast, self_check=False
    )
    truth = list(seen)
    tap_ext.accelerate(model, config)
    with Oracle().around(model):
        tiny.sample(model, arguments, STEPS, stop=first + 1)
    made = seen[-1]
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(made["hidden"], truth[first]["hidden"], msg="the same way so far")
    base = 0.0 if forecast == "hidden" else 1.0
    targets = [step["output"] - base * step["hidden"] for step in truth]
    table = rows(candidates(), [2, 1, 0], first, 3)
    weights = [to_raw(row, np.array([2.0, 1.0, 0.0])) for row in table.difference]
    forecasts = torch.stack(
        [sum(float(w) * targets[2 - i] for i, w in enumerate(ws)) for ws in weights]
    )
    errors = (forecasts - targets[first]).square().sum(-1)
    assert len(set(errors.argmin(0).flatten().tolist())) > 1, "tokens differ in what is best"
    wanted = errors.amin(0)
    got = (made["output"] - base * made["hidden"] - targets[first]).square().sum(-1)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-7)


def test_the_oracle_leaves_nothing_behind() -> None:
    model = tiny.build(FLUX)
    tap_ext.accelerate(model, preset="paper", window=4)
    before = _run(model)
    with Oracle().around(model):
        _run(model)
    assert torch.equal(_run(model), before)
    assert torch.equal(_run(tap_ext.restore(model)), _run(tiny.build(FLUX)))


def _published_forecast(values: dict[int, np.ndarray[Any, Any]], step: int) -> Any:
    """The Hermite formula of FreqCa's code: recursive differences, guarded, sigma 0.71."""
    factors: list[Any] = []
    last = 0
    for at, value in sorted(values.items()):
        made = [value]
        if at > 1:
            for old in factors[:2]:
                made.append((made[-1] - old) / (at - last))
        factors, last = made, at
    x = 0.71 * (step - last)
    polynomials = (1.0, 2 * x, 4 * x * x - 2)
    return sum(
        h / (1, 1, 2)[k] * 0.71**k * f
        for k, (h, f) in enumerate(zip(polynomials, factors, strict=False))
    )


def test_freqca_reuses_low_and_extrapolates_high_frequencies() -> None:
    model = tiny.build(FLUX)
    seen: list[np.ndarray[Any, Any]] = []
    handle = model.norm_out.register_forward_pre_hook(
        lambda _, args: seen.append(args[0].double().numpy())
    )
    full, cutoff = [0, 1, 2, 6, 10], 0.4
    config = tap_ext.Config(
        preset="paper", schedule=Listed(full), forecast="hidden", predictors=(HighBand(),),
        self_check=False,
    )  # fmt: skip
    tap_ext.accelerate(model, config)
    _run(model, FreqCa(cutoff))
    handle.remove()
    side = tiny.GRID
    size = np.hypot(*np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    low = size <= cutoff * size.max()
    assert 1 < low.sum() < side**2
    for step in sorted(set(range(STEPS)) - set(full)):
        known = {at: seen[at] for at in full if at < step}
        grids = [
            value.reshape(2, side, side, -1)
            for value in (known[max(known)], _published_forecast(known, step))
        ]
        reused, ahead = (dctn(grid, axes=(1, 2), norm="ortho") for grid in grids)
        mixed = np.where(low[None, :, :, None], reused, ahead)
        wanted = idctn(mixed, axes=(1, 2), norm="ortho").reshape(seen[step].shape)
        np.testing.assert_allclose(seen[step], wanted, rtol=1e-4, atol=1e-4)


def test_freqca_needs_a_square_grid() -> None:
    with pytest.raises(ValueError, match="square grid of tokens, got 15"):
        _low_band(15, 0.1, torch.device("cpu"))


def test_the_methods_of_the_tables() -> None:
    way = METHODS["taylorseer-blocks"].way(8, 50)
    assert way.control is not None
    assert way.control.full_steps == (0, 1, 2, 10, 18, 26, 34, 42)  # type: ignore[attr-defined]
    oracle, plain = (METHODS[name].way(8, 50) for name in ("paper-oracle", "paper"))
    assert oracle.config is not None and plain.config is not None
    assert oracle.config.family() == plain.config.family()
    assert oracle.config.plan(50) == plain.config.plan(50)
    assert "control" in oracle.settings() and "control" not in plain.settings()
    assert METHODS["adaptive-residual"].way(8, 50).alone and not plain.alone

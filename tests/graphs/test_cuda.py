"""Steps captured as real CUDA graphs."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

import tap_ext
from bench.clock import Clock
from tap_ext import runtime
from tap_ext.graphs import CudaRecorder
from tests.graphs.test_steps import WINDOWED, _call
from tests.pipelines.builders import make_transformer, noise

pytestmark = pytest.mark.cuda


def _on_device(value: Any, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to("cuda", dtype if value.is_floating_point() else None)


def _model(graphs: str, dtype: torch.dtype = torch.float32) -> Any:
    return tap_ext.accelerate(make_transformer().to("cuda", dtype), graphs=graphs, **WINDOWED)


@torch.no_grad()
def _outputs(model: Any, dtype: torch.dtype = torch.float32, count: int = 12) -> list[Tensor]:
    given = {name: _on_device(value, dtype) for name, value in _call(0, torch.ones(1)).items()}
    times = torch.linspace(1, 0.1, count, device="cuda", dtype=dtype)
    hidden = [noise(1, 16, 16, seed=step).to("cuda", dtype) for step in range(count)]
    with tap_ext.run():
        return [
            model(**given | {"hidden_states": now, "timestep": time[None]})[0]
            for now, time in zip(hidden, times, strict=True)
        ]


def _equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("graphs", ["skip", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_replays_are_bit_equal(graphs: str, dtype: torch.dtype) -> None:
    model, wanted = _model(graphs, dtype), _outputs(_model("off", dtype), dtype)
    for _ in range(3):
        assert _equal(_outputs(model, dtype), wanted)
    (stats,) = tap_ext.stats(model).models
    assert stats.uncaptured == {} and stats.captured == (2 if graphs == "all" else 1)
    assert stats.branches == tap_ext.stats(_model_run(dtype)).models[0].branches


def _model_run(dtype: torch.dtype) -> Any:
    model = _model("off", dtype)
    _outputs(model, dtype)
    return model


def test_a_replayed_step_never_waits_for_the_device() -> None:
    model = _model("skip")
    _outputs(model)  # captures, and uploads every table
    given = {n: _on_device(v, torch.float32) for n, v in _call(0, torch.ones(1)).items()}
    clock = Clock()  # without one the timesteps are read
    try:
        with torch.no_grad(), runtime.run(clock):
            for clock.step in range(12):
                given["timestep"] = torch.full((1,), 1 - clock.step / 20, device="cuda")
                model(**given)
                torch.cuda.set_sync_debug_mode("error")  # a branch that begins may wait
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert tap_ext.stats(model).models[0].replayed > 0


@pytest.mark.filterwarnings("ignore:tap_ext:UserWarning")  # another thread may be capturing
def test_on_a_side_stream_and_in_threads() -> None:
    model, wanted = _model("all"), _outputs(_model("off"))

    def work(_: int) -> bool:
        with torch.cuda.stream(torch.cuda.Stream()):
            equal = [_equal(_outputs(model), wanted) for _ in range(3)]
            torch.cuda.current_stream().synchronize()
        return all(equal)

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(work, range(3)))


class _Waits(torch.nn.Module):
    def __init__(self, real: torch.nn.Module) -> None:
        super().__init__()
        self.real = real

    def forward(self, hidden: Tensor) -> Tensor:
        return self.real(hidden) * (1 + 0 * hidden.max().item())


def test_a_capture_that_fails_leaves_the_process_well() -> None:
    wanted = _outputs(_model("off"))
    model = _model("skip")
    model.x_embedder = _Waits(model.x_embedder)
    with pytest.warns(UserWarning, match="a step runs eagerly"):
        outputs = _outputs(model)
    assert torch.randn(8, device="cuda").isfinite().all()  # the generator knows that it is over
    assert _equal(outputs, wanted)
    assert _equal(_outputs(model), wanted)
    assert _equal(_outputs(_model("skip")), wanted)


def test_no_capture_within_a_capture() -> None:
    recorder = CudaRecorder(torch.device("cuda", torch.cuda.current_device()))
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.ones(1, device="cuda")
        assert recorder.busy() == "a capture is already under way around this step"
    assert recorder.busy() is None


@pytest.mark.parametrize("graphs", ["skip", "all"])
def test_what_was_dropped_is_captured_again(graphs: str) -> None:
    model, wanted = _model(graphs), _outputs(_model("off"))
    assert _equal(_outputs(model), wanted)
    (before,) = tap_ext.stats(model).models
    model.proj_out.weight.data = model.proj_out.weight.data.clone()  # lies elsewhere now
    assert _equal(_outputs(model), wanted)
    (after,) = tap_ext.stats(model).models
    assert after.captured > before.captured > 0 and after.uncaptured == {}


def test_the_kernels_of_a_skip_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in the captured graph itself: the fused op once, and no copy from the host."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python")
    driver = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-python")
    kinds: list[Counter[str]] = []
    names: list[str] = []
    record = CudaRecorder._record

    def note_kernel(node: Any) -> None:
        _, kernel = driver.cuGraphKernelNodeGetParams(node)
        _, name = (
            driver.cuFuncGetName(kernel.func)
            if int(kernel.func)
            else driver.cuKernelGetName(kernel.kern)
        )
        names.append(name.decode())

    def kept(self: CudaRecorder, function: Any) -> Any:
        made = torch.cuda.CUDAGraph
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made(keep_graph=True))
        graph, result = record(self, function)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", made)
        raw = runtime.cudaGraph_t(graph.raw_cuda_graph())
        _, _, count = runtime.cudaGraphGetNodes(raw)
        _, nodes, _ = runtime.cudaGraphGetNodes(raw, count)
        seen: Counter[str] = Counter()
        for node in nodes:
            _, kind = runtime.cudaGraphNodeGetType(node)
            seen[kind.name] += 1
            if kind == runtime.cudaGraphNodeType.cudaGraphNodeTypeKernel:
                note_kernel(node)
            if kind == runtime.cudaGraphNodeType.cudaGraphNodeTypeMemcpy:
                _, copy = runtime.cudaGraphMemcpyNodeGetParams(node)
                seen[copy.kind.name] += 1
        kinds.append(seen)
        graph.instantiate()
        return graph, result

    monkeypatch.setattr(CudaRecorder, "_record", kept)
    _outputs(_model("skip"))
    (seen,) = kinds
    assert seen["cudaMemcpyHostToDevice"] == seen["cudaMemcpyDeviceToHost"] == 0
    assert seen["cudaGraphNodeTypeHost"] == 0
    assert 10 <= seen["cudaGraphNodeTypeKernel"] <= 65
    assert sum("SkipStepKernel" in name for name in names) == 1, names

"""The built library keeps to the stable ABI, and the C++ sources to their layers."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "csrc"

SYSTEM_LIBRARIES = {"libc", "libdl", "libgcc_s", "libm", "libpthread", "librt", "libstdc++"}
STABLE_LIBRARIES = {"libc10", "libtorch_cpu"}


def library() -> Path:
    """The library of ops that this installation loads."""
    from tap_ext import ops

    status = ops.library_status()
    if not status.compiled:
        pytest.skip(f"no compiled library to look at: {status.reason}")
    return status.path


def run_tool(name: str, *arguments: str | Path) -> str:
    tool = shutil.which(name)
    if tool is None:
        pytest.skip(f"{name} of the GNU binutils is not installed")
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True).stdout


def includes(folder: str) -> Iterator[tuple[Path, str]]:
    """Every (file, included header) below a folder of csrc."""
    for path in sorted((SOURCES / folder).rglob("*")):
        if path.suffix in {".h", ".cpp", ".cu", ".cuh"}:
            for header in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), re.M):
                yield path, header


def test_needs_no_library_that_changes_with_torch_or_cuda() -> None:
    dynamic = run_tool("readelf", "--dynamic", "--wide", library())
    needed = {name.split(".so")[0] for name in re.findall(r"\(NEEDED\).*\[(.+)\]", dynamic)}
    assert needed, dynamic
    loaders = {name for name in needed if name.startswith("ld-linux")}
    assert needed - loaders - SYSTEM_LIBRARIES <= STABLE_LIBRARIES


def test_knows_no_path_of_the_machine_that_built_it() -> None:
    dynamic = run_tool("readelf", "--dynamic", "--wide", library())
    assert not re.findall(r"\((?:RPATH|RUNPATH)\).*", dynamic)


def test_takes_only_stable_symbols_from_torch() -> None:
    listing = run_tool("nm", "--dynamic", "--undefined-only", library())
    symbols = {line.split()[-1].split("@")[0] for line in listing.splitlines()}
    assert "torch_parallel_for" in symbols, "the listing is not what this test takes it for"
    foreign = {name for name in symbols if re.search(r"torch|c10|at3|cuda", name)}
    unstable = {name for name in foreign if not re.match(r"(aoti_torch|torch)_[a-z0-9_]+$", name)}
    assert not unstable


def test_offers_no_symbol_that_could_meet_one_of_torch() -> None:
    listing = run_tool("nm", "--dynamic", "--defined-only", "--demangle", library())
    # Weak parts of the C++ library are shared by everything in a process.
    names = [line.split(maxsplit=2)[2] for line in listing.splitlines()]
    assert not [name for name in names if re.search(r"tap|torch|cuda|c10", name)]


def test_loads_and_registers_every_op() -> None:
    torch.ops.load_library(library())
    for op in (
        "stack_update_",
        "predict",
        "cosine_argmin",
        "gather_rows",
        "select",
        "skip_step_",
    ):
        name = f"tap_ext::{op}"
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")
    assert "out" in torch.ops.tap_ext.select.overloads()


def test_core_includes_nothing_foreign() -> None:
    allowed = {"cmath", "cstdint"}
    seen = list(includes("core"))
    assert seen
    assert not [
        (path.name, header)
        for path, header in seen
        if header not in allowed and not header.startswith("core/")
    ]


@pytest.mark.parametrize("folder", ["kernels", "tests"])
def test_kernels_know_neither_torch_nor_python(folder: str) -> None:
    seen = list(includes(folder))
    assert seen
    assert not [
        (path.name, header)
        for path, header in seen
        if re.match(r"(torch|ATen|c10|pybind11|bindings)/|Python\.h", header)
    ]


def test_only_cuda_kernels_include_cuda() -> None:
    assert not [
        (path.name, header)
        for folder in ("core", "kernels", "bindings")
        for path, header in includes(folder)
        if re.match(r"(cuda|cub|cooperative_groups)", header) and "cuda" not in path.parts
    ]


def test_core_module_knows_how_it_was_built() -> None:
    core = pytest.importorskip("tap_ext._core", reason="tap_ext._core was not built")
    info = core.build_info()
    assert info["isa"] in info["isas"]
    assert info["isas"][0] == "baseline"
    library()
    has_cuda = torch._C._dispatch_has_kernel_for_dispatch_key("tap_ext::select", "CUDA")
    assert (info["cuda_archs"] is not None) == has_cuda


@pytest.mark.parametrize("planes", [1, 3, 16])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_core_module_scores_rows(planes: int, metric: str) -> None:
    core = pytest.importorskip("tap_ext._core", reason="tap_ext._core was not built")
    random = np.random.default_rng(planes)
    stack = random.normal(size=(planes, 33)).astype(np.float32)
    target = random.normal(size=33).astype(np.float32)
    rows = random.normal(size=(7, planes)).astype(np.float32)
    index, distances = core.score(stack, target, rows, metric)
    u, v = target.astype(np.float64), rows.astype(np.float64) @ stack.astype(np.float64)
    if metric == "l2":
        expected = ((u - v) ** 2).sum(-1)
    else:
        expected = 1 - v @ u / (np.linalg.norm(v, axis=-1) * np.linalg.norm(u))
    np.testing.assert_allclose(distances, expected, rtol=1e-10, atol=1e-12)
    assert index == expected.argmin()


def test_core_module_names_what_is_wrong() -> None:
    core = pytest.importorskip("tap_ext._core", reason="tap_ext._core was not built")
    with pytest.raises(
        ValueError, match=r"target must have shape \(4,\) to match stack, got \(5,\)"
    ):
        core.score(np.ones((3, 4)), np.ones(5), np.ones((2, 3)))
    with pytest.raises(ValueError, match="dtype must be float32, bfloat16 or float16, got 'int8'"):
        core.launch_plan(1, 8, "int8")

"""What the compiler made of the kernels of a step: nothing spilled, memory read 16 bytes at a time.

The sources are compiled for one architecture, without a GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "csrc"
ARCH = "sm_90"

FILES = ("skip_step", "modulated_skip_step", "stack_update")
"""What a step launches."""

NAME = re.compile(r"\d+([A-Z]\w*?)KernelI(?:NS_\d+)?(f|BFloat16|Float16)E?(?:Li(\d+)E)?E")
"""A kernel, its storage type and S, where it knows S, in a mangled name."""


@dataclass(frozen=True)
class Kernel:
    """One instantiation. S is 0 where it is known at run time only."""

    name: str
    dtype: str
    planes: int

    def __str__(self) -> str:
        return f"{self.name}<{self.dtype}, {self.planes}>"


def _kernel(mangled: str) -> Kernel:
    found = NAME.search(mangled)
    assert found, mangled
    return Kernel(found[1], found[2], int(found[3] or 0))


def spills(report: str) -> dict[Kernel, int]:
    """Bytes of local memory that each kernel uses, from what ``ptxas -v`` says."""
    pattern = r"Compiling entry function '(\w+)'(?:.*\n)+?\s*(\d+) bytes stack frame, (\d+) bytes"
    return {_kernel(name): int(a) + int(b) for name, a, b in re.findall(pattern, report)}


def accesses(listing: str) -> dict[Kernel, list[str]]:
    """The loads from and stores to memory of each kernel, as the disassembler writes them."""
    parts = re.split(r"^\.text\.(\w+):$", listing, flags=re.M)[1:]
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return {_kernel(name): re.findall(r"\b(?:LDG|STG)[.\w]*", code) for name, code in pairs}


def _tool(name: str, *folders: Path) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    tool = shutil.which(name, path=path)
    if tool is None:
        pytest.skip(f"{name} is not there")
    return tool


def _toolkits() -> list[Path]:
    named = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    installed = Path(sysconfig.get_path("purelib"), "nvidia").glob("*/bin")
    return [*(Path(toolkit) / "bin" for toolkit in named if toolkit), *installed]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Machine code of all files in one folder, and the compiler's report."""
    compiler = _tool(os.environ.get("CUDACXX", "nvcc"), *_toolkits())
    folder, report = tmp_path_factory.mktemp("code"), ""
    for name in FILES:
        source = SOURCES / "kernels" / "cuda" / f"{name}.cu"
        flags = ["-std=c++20", "-O3", f"-I{SOURCES}", f"-arch={ARCH}", "-cubin", "-Xptxas=-v"]
        target = folder / f"{name}.cubin"
        done = subprocess.run(
            [compiler, *flags, str(source), "-o", str(target)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        report += done.stderr
    return folder, report


def expected() -> set[Kernel]:
    """Every instantiation: S from 1 to 6 and any, in three dtypes."""
    dtypes = ("f", "BFloat16", "Float16")
    steps = {
        Kernel(name, dtype, planes)
        for name in ("SkipStep", "ModulatedSkipStep")
        for dtype in dtypes
        for planes in range(7)
    }
    return steps | {Kernel("StackUpdate", dtype, 0) for dtype in dtypes}


def test_nothing_is_spilled_to_local_memory(built: tuple[Path, str]) -> None:
    found = spills(built[1])
    assert set(found) == expected()
    assert {str(kernel): size for kernel, size in found.items() if size} == {}


def test_memory_is_read_and_written_16_bytes_at_a_time(built: tuple[Path, str]) -> None:
    """Where alignment allows; narrow accesses serve what it does not, and the last channels.

    A skip step with S planes reads at least S of the probe's, the probe or the hidden state, and
    S of the residual's; the modulated one its shift and scale besides. A push reads in groups of 4.
    """
    disassembler = _tool("nvdisasm", *_toolkits())
    found = {}
    for name in FILES:
        code = subprocess.run(
            [disassembler, "-c", str(built[0] / f"{name}.cubin")],
            capture_output=True,
            text=True,
            check=True,
        )
        found |= accesses(code.stdout)
    assert set(found) == expected()
    for kernel, seen in found.items():
        loads = sum(access.startswith("LDG") and ".128" in access for access in seen)
        stores = sum(access.startswith("STG") and ".128" in access for access in seen)
        fewest = {
            "StackUpdate": 4 + 2,
            "SkipStep": 2 * kernel.planes + 2,
            "ModulatedSkipStep": 2 * kernel.planes + 3,
        }[kernel.name]
        assert loads >= (fewest if kernel.planes or kernel.name == "StackUpdate" else 1), kernel
        assert stores >= 1, kernel


REPORT = """\
ptxas info    : Compiling entry function '_ZN3tap4cuda14SkipStepKernelINS_8BFloat16ELi3EEEvEvb' for
ptxas info    : Function properties for _ZN3tap4cuda14SkipStepKernelINS_8BFloat16ELi3EEEvb
    16 bytes stack frame, 32 bytes spill stores, 48 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 16 bytes cumulative stack size
ptxas info    : Compiling entry function '_ZN3tap4cuda17StackUpdateKernelIfEEvb' for 's'
ptxas info    : Function properties for _ZN3tap4cuda17StackUpdateKernelIfEEvb
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""

LISTING = """\
.text._ZN3tap4cuda17StackUpdateKernelIfEEvNS_15StackUpdateArgsEb:
        /*03b0*/                   LDG.E.128.CONSTANT R0, desc[UR6][R8.64] ;
        /*0990*/              @!P0 LDG.E.U16 R29, desc[UR6][R38.64] ;
        /*0990*/                   LDS.128 R29, [R38] ;
        /*0990*/                   STG.E.128 desc[UR6][R38.64], R4 ;
"""


def test_the_reports_are_read_as_they_are_meant() -> None:
    bfloat16, push = Kernel("SkipStep", "BFloat16", 3), Kernel("StackUpdate", "f", 0)
    assert spills(REPORT) == {bfloat16: 48, push: 0}
    assert accesses(LISTING) == {push: ["LDG.E.128.CONSTANT", "LDG.E.U16", "STG.E.128"]}

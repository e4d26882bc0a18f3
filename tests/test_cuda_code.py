"""What the compiler makes of a step's kernels: nothing spilled, memory read 16 bytes at a time.

And that the library holds them all, for every architecture. Needs nvcc, but no GPU.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import struct
import subprocess
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tap_ext import ops

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "csrc"

CMAKE = (ROOT / "CMakeLists.txt").read_text()
(ARCHS,) = (archs.split(";") for archs in re.findall(r'set\(TAP_CUDA_ARCHS "(.*?)"', CMAKE))
"""As CMake spells them: a number, then which of machine code and PTX, both if it does not say."""

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


PART = struct.pack("<IHH", 0xBA55ED50, 1, 16)
"""How a part of ``.nv_fatbin`` begins: a magic number, a version, how long this header is."""


def architectures(library: bytes) -> list[list[str]]:
    """What each part was compiled for, as CMake spells it; a part is what one source became."""
    parts, at = [], library.find(PART)
    while at >= 0:
        (size,) = struct.unpack_from("<Q", library, at + 8)
        entry, end = at + 16, at + 16 + size
        kinds: dict[int, set[int]] = {}
        while entry < end:
            kind, header, payload, arch = struct.unpack_from("<HxxIQ12xI", library, entry)
            kinds.setdefault(arch, set()).add(kind)
            entry += header + payload
        spelt = {(1,): "-virtual", (2,): "-real", (1, 2): ""}
        parts.append([f"{arch}{spelt[tuple(sorted(kinds[arch]))]}" for arch in sorted(kinds)])
        at = library.find(PART, end)
    return parts


def _tool(name: str, *folders: Path) -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)])
    tool = shutil.which(name, path=path)
    if tool is None:
        pytest.skip(f"{name} is not there, so what it makes of the CUDA kernels is not known")
    return tool


def _toolkits() -> list[Path]:
    named = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    installed = Path(sysconfig.get_path("purelib"), "nvidia").glob("*/bin")
    return [*(Path(toolkit) / "bin" for toolkit in named if toolkit), *installed]


Compile = Callable[[str], tuple[Path, str]]
"""Architecture -> machine code of all files in one folder, and the compiler's report."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    compiler = _tool(os.environ.get("CUDACXX", "nvcc"), *_toolkits())

    @functools.cache
    def compiled(arch: str) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp(arch)
        flags = ["-std=c++20", "-O3", f"-I{SOURCES}", f"-arch=sm_{arch}", "-cubin", "-Xptxas=-v"]

        def report(name: str) -> str:
            files = [str(SOURCES / "kernels/cuda" / f"{name}.cu"), "-o", f"{folder}/{name}.cubin"]
            done = subprocess.run([compiler, *flags, *files], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stderr

        with ThreadPoolExecutor() as pool:
            return folder, "".join(pool.map(report, FILES))

    return compiled


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


@pytest.mark.parametrize("arch", [arch.split("-")[0] for arch in ARCHS])
def test_nothing_is_spilled_to_local_memory(compiled: Compile, arch: str) -> None:
    found = spills(compiled(arch)[1])
    assert set(found) == expected()
    assert {str(kernel): size for kernel, size in found.items() if size} == {}


def test_memory_is_read_and_written_16_bytes_at_a_time(compiled: Compile) -> None:
    """Where alignment allows; narrow accesses serve what it does not, and the last channels.

    A skip step with S planes reads at least S of the probe's, the probe or the hidden state, and
    S of the residual's; the modulated one its shift and scale besides. A push reads in groups of 4.
    """
    disassembler = _tool("nvdisasm", *_toolkits())
    folder, found = compiled("90")[0], {}
    for name in FILES:
        code = subprocess.run(
            [disassembler, "-c", str(folder / f"{name}.cubin")],
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


def test_the_library_holds_every_source_for_every_architecture() -> None:
    core = pytest.importorskip("tap_ext._core", reason="tap_ext._core was not built")
    status = ops.library_status()
    if not status.compiled:
        pytest.skip(f"no compiled library to look at: {status.reason}")
    named = core.build_info()["cuda_archs"]
    if named is None:
        pytest.skip("the library was built without nvcc, so no CUDA kernel was compiled")
    archs = named.split(",")
    sources = list((SOURCES / "kernels" / "cuda").glob("*.cu"))
    assert architectures(status.path.read_bytes()) == [archs] * len(sources)
    if archs != ARCHS:
        pytest.skip(f"the library was built for {archs} by choice, and not for all of {ARCHS}")


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


def part(*entries: tuple[int, int]) -> bytes:
    """Of kinds (1 is PTX, 2 machine code) and architectures, with 8 bytes of either each."""
    body = b"".join(struct.pack("<HxxIQ12xI40x", kind, 64, 8, arch) for kind, arch in entries)
    return PART + struct.pack("<Q", len(body)) + body


def test_the_reports_are_read_as_they_are_meant() -> None:
    bfloat16, push = Kernel("SkipStep", "BFloat16", 3), Kernel("StackUpdate", "f", 0)
    assert spills(REPORT) == {bfloat16: 48, push: 0}
    assert accesses(LISTING) == {push: ["LDG.E.128.CONSTANT", "LDG.E.U16", "STG.E.128"]}
    library = b"code" + part((2, 80), (1, 90), (2, 90)) + bytes(4) + part((1, 100)) + b"data"
    assert architectures(library) == [["80-real", "90"], ["100-virtual"]]

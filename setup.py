"""Hands the build to CMake; everything static is in pyproject.toml.

TAP_CUDA is auto (the default: CUDA kernels where nvcc is found), ON or OFF; TAP_CUDA_ARCHS lists
architectures as CMake spells them. nvcc is CUDACXX, or found in PATH, CUDA_HOME or /usr/local/cuda.
TAP_PYTHONS lists further interpreters, with spaces between, that ``_core`` is built for as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def find_nvcc() -> str | None:
    """Path of nvcc, or None."""
    toolkits = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", ""), *(f"{toolkit}/bin" for toolkit in toolkits if toolkit)]
    compiler = os.environ.get("CUDACXX", "nvcc")
    return shutil.which(compiler, path=os.pathsep.join(folders))


def cuda_options() -> list[str]:
    """CMake's options for CUDA, said on the console too."""
    wanted = os.environ.get("TAP_CUDA", "auto").upper()
    if wanted not in ("AUTO", "ON", "OFF"):
        raise SystemExit(f"tap_ext: TAP_CUDA must be auto, ON or OFF, got {wanted!r}")
    nvcc = find_nvcc() if wanted != "OFF" else None
    if nvcc is None:
        if wanted == "ON":
            raise SystemExit("tap_ext: TAP_CUDA=ON needs nvcc, and none was found")
        reason = "TAP_CUDA=OFF" if wanted == "OFF" else "no nvcc was found"
        print(f"tap_ext: building for the CPU only, because {reason}", flush=True)
        return ["-DTAP_CUDA=OFF"]
    print(f"tap_ext: building for CPU and CUDA, with {nvcc}", flush=True)
    archs = os.environ.get("TAP_CUDA_ARCHS")
    return [
        "-DTAP_CUDA=ON",
        f"-DCMAKE_CUDA_COMPILER={nvcc}",
        f"-DTAP_CUDA_ARCHS={archs}" if archs else "-UTAP_CUDA_ARCHS",
    ]


def cache_tag(python: str) -> str:
    """What names an interpreter, for instance cpython-312."""
    ask = [python, "-c", "import sys; print(sys.implementation.cache_tag)"]
    try:
        return subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(f"tap_ext: TAP_PYTHONS must list interpreters, got {python!r}") from None


class CMakeBuild(build_ext):
    """Builds both libraries of the package: the ops and ``_core``."""

    def run(self) -> None:
        """Configure and build, into the source tree for an editable install."""
        package = (ROOT if self.inplace or self.editable_mode else Path(self.build_lib)) / "tap_ext"
        options = [f"-DTAP_OUTPUT_DIR={package.resolve()}", *cuda_options()]
        pythons = os.environ.get("TAP_PYTHONS", "").split()
        others = [python for python in pythons if cache_tag(python) != cache_tag(sys.executable)]
        self.cmake(sys.executable, options)
        for python in others:
            self.cmake(python, [*options, "-DTAP_TORCH=OFF", "-DTAP_PYTHON=ON"], "_core")

    def cmake(self, python: str, options: list[str], target: str = "all") -> None:
        """Configure and build a target for an interpreter."""
        build = ROOT / "build" / f"python-{cache_tag(python)}"
        # Where pip installed cmake and ninja, should that environment not be activated.
        path = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
        environment = {**os.environ, "PATH": path}
        if python != sys.executable:
            import pybind11

            # Headers alone, so that one copy serves every interpreter.
            environment["PYTHONPATH"] = str(Path(pybind11.__file__).parents[1])
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            # Each time anew: the one in CMake's cache may be that of an isolated build, long gone.
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja', path=path) or 'ninja'}",
            "-DTAP_TESTS=OFF",
            f"-DPython_EXECUTABLE={shutil.which(python)}",
            *options,
        ]
        compile_it = ["cmake", "--build", str(build), "--target", target]
        try:
            subprocess.run(configure, check=True, env=environment)
            subprocess.run(compile_it, check=True, env=environment)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"tap_ext: {error.cmd[0]} failed; its message is above") from None

    def get_outputs(self) -> list[str]:
        """Nothing beyond what lies in the package already."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """Nothing to link or copy for an editable install."""
        return {}


class OnePerPlatform(bdist_wheel):
    """A wheel for every Python: the ops need none, and ``_core`` is for those it was built for."""

    def get_tag(self) -> tuple[str, str, str]:
        """Tags of interpreter, ABI and platform."""
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("tap_ext._core", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": OnePerPlatform},
)

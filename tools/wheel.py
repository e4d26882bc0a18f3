"""Builds the source distribution and, from it, one wheel for every torch; and tests that wheel.

    python tools/wheel.py build    # into dist/, compiled against the oldest torch
    python tools/wheel.py test     # beside the torch of this interpreter, then beside the oldest
    python tools/wheel.py test FOLDER ...    # and beside those of these virtual environments

The oldest torch is installed without its dependencies: a build reads its headers and links two of
its libraries, and imports nothing. Where pip has its CPU build, tests run beside it too. TAP_CUDA,
TAP_CUDA_ARCHS and TAP_PYTHONS are those of setup.py; with TAP_CUDA=ON a wheel without CUDA kernels
is an error. Logs are in build/wheel.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from wheel_contents import has_cuda, problems, sizes, source_files

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "wheel"
DIST = ROOT / "dist"
OLDEST = WORK / "oldest"

NOT_OURS = ("libc10.so", "libtorch_cpu.so")
"""Of torch, which is there before us: nothing to put into the wheel."""

SUITE = ("tests/ops", "tests/test_build.py", "tests/test_installed.py")


def stop(message: str) -> SystemExit:
    """What ends the program with one line."""
    return SystemExit(f"tap_ext: {message}")


def run(what: str, command: list[str | Path], hint: str = "", **options: object) -> str:
    """Run a step with its output in a log, and return that; where it fails, its end is shown."""
    log = WORK / f"{re.sub('[^a-z0-9.]+', '-', what.lower())}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    print(f"tap_ext: {what} ...", flush=True)
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, **options)  # type: ignore[call-overload]
    text = log.read_text(errors="replace")
    if done.returncode != 0:
        lines = [line.strip() for line in text.splitlines()]
        told = [line for line in lines if re.search(r"(?i)\berror\b", line)][:5]  # pip adds pages
        print(*told, *lines[-10:], sep="\n", file=sys.stderr)
        ours = re.findall(r"^\s*tap_ext: (?!building)(.+)", text, re.M)
        hint = hint or "".join(f": {reason}" for reason in ours[-1:])
        raise stop(f"{what} failed{hint}; the whole output is in {log.relative_to(ROOT)}")
    print(f"tap_ext: {what}: {time.monotonic() - start:.0f} s", flush=True)
    return text


def pip(python: Path, *arguments: str | Path) -> list[str | Path]:
    """The command that runs this interpreter's pip for another environment."""
    return [sys.executable, "-m", "pip", "--python", python, *arguments]


def site(environment: Path) -> Path:
    """Where an environment's packages are."""
    return environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


def make_environment(folder: Path) -> Path:
    """An empty virtual environment, and its interpreter."""
    shutil.rmtree(folder, ignore_errors=True)
    run(f"making {folder.name}", [sys.executable, "-m", "venv", "--without-pip", folder])
    return folder / "bin" / "python"


def torch_in(environment: Path) -> str:
    """The version of torch in an environment, empty without one."""
    found = importlib.metadata.distributions(name="torch", path=[str(site(environment))])
    return next((distribution.version for distribution in found), "")


def version() -> str:
    """Of the source tree."""
    text = (ROOT / "tap_ext" / "_version.py").read_text()
    return re.findall(r'^__version__ = "(.+)"$', text, re.M)[0]


def torch_requirement() -> str:
    """What the package requires, for instance torch>=2.11."""
    return re.findall(r'"(torch>=[\d.]+)"', (ROOT / "pyproject.toml").read_text())[0]


def oldest_torch() -> Path:
    """The interpreter of an environment that holds the oldest torch."""
    wanted = torch_requirement().removeprefix("torch>=") + ".0"
    if torch_in(OLDEST).partition("+")[0] != wanted:
        python = make_environment(OLDEST)
        hint = f": pip has to find torch {wanted}, on PyPI or on PyTorch's index of CPU builds"
        quickly = ("--no-deps", "--no-compile", "--progress-bar=off")
        install = pip(python, "install", *quickly, f"torch=={wanted}")
        run(f"installing torch {wanted}", install, hint)
    return OLDEST / "bin" / "python"


def build() -> None:
    """Make the sdist and the wheel, check both, and only then put them into dist/."""
    python = oldest_torch()
    fresh = WORK / "fresh"
    for stale in (fresh, ROOT / "tap_ext.egg-info"):  # it lists files that are gone
        shutil.rmtree(stale, ignore_errors=True)
    make_sdist = ["-m", "build", "--sdist", "--no-isolation", "--outdir", fresh, ROOT]
    run("making the sdist", [sys.executable, *make_sdist])
    (sdist,) = fresh.glob("*.tar.gz")
    # From the sdist and isolated, so that both are known to work.
    compile_it = pip(python, "wheel", "--verbose", "--no-deps", "--wheel-dir", fresh, sdist)
    log = run(f"building a wheel from it against torch {torch_in(OLDEST)}", compile_it)
    (linux,) = fresh.glob("*.whl")
    repaired = fresh / "repaired"
    # Patching nothing makes it an error if the wheel needed a library that is not torch's.
    audit = [sys.executable, "-m", "auditwheel", "repair", "--patcher=none", "-w", repaired]
    run("auditwheel", [*audit, *(f"--exclude={library}" for library in NOT_OURS), linux])
    (wheel,) = repaired.glob("*.whl")

    found = list(problems(wheel, version(), source_files(ROOT), torch_requirement()))
    for problem in found:
        print(f"tap_ext: {wheel.name}: {problem}", file=sys.stderr)
    if found:
        raise stop(f"the wheel is not as it should be, in {len(found)} ways; dist/ is as it was")
    DIST.mkdir(exist_ok=True)
    for previous in DIST.glob(f"tap_ext-{version()}*"):
        previous.unlink()
    for file in (sdist, wheel):
        shutil.move(file, DIST)
    _tell(DIST / wheel.name, re.findall(r"tap_ext: (building .+)", log))


def _tell(wheel: Path, notes: list[str]) -> None:
    total, without_models = (size / 1e6 for size in sizes(wheel))
    for note in notes:
        print(f"tap_ext: {note}")
    print(f"tap_ext: dist/{wheel.name}: {total:.1f} MB, {without_models:.1f} MB without models")
    if not has_cuda(wheel):
        print("tap_ext: WARNING: a wheel for the CPU only; to release one, build where nvcc is")


def test(*environments: str) -> None:
    """Install the wheel of dist/ and run the suite against it, beside each torch."""
    wheels = sorted(DIST.glob(f"tap_ext-{version()}-*.whl"))
    if len(wheels) != 1:
        raise stop(f"dist/ must hold one wheel of {version()}, got {len(wheels)}: make wheel")
    for environment in environments:
        if not torch_in(Path(environment)):
            raise stop(f"an environment must hold torch for this Python, got {environment}")
    beside(wheels[0])
    for environment in environments:
        beside(wheels[0], site(Path(environment).absolute()))
    oldest = torch_in(OLDEST)
    if oldest.endswith("+cpu"):
        beside(wheels[0], site(OLDEST))
    elif not environments:
        print(f"tap_ext: not run beside torch {oldest}, only built: pip found no CPU build of it")


def beside(wheel: Path, *sites: Path) -> None:
    """Test the wheel in an environment of its own, which borrows all else from others.

    What is not in ``sites`` comes from the environment of this interpreter.
    """
    borrowed = [*map(str, sites), *(part for part in sys.path if part.endswith("site-packages"))]
    torch = next(importlib.metadata.distributions(name="torch", path=borrowed)).version
    environment = WORK / f"beside-{torch}"
    python = make_environment(environment)
    install = pip(python, "install", "--no-deps", "--no-index", wheel)
    run(f"installing the wheel beside torch {torch}", install)
    (site(environment) / "borrowed.pth").write_text("\n".join(borrowed))
    # The source tree comes last in sys.path, there for the tests and not for the package.
    pytest = ["-m", "pytest", "--import-mode=append", "-q", "-n", "auto", "-p", "no:cacheprovider"]
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    variables |= {"TAP_EXT_INSTALLED": str(environment), "HYPOTHESIS_PROFILE": "quick"}
    summary = run(
        f"testing beside torch {torch}",
        [python, *pytest, *(ROOT / part for part in SUITE)],
        cwd=WORK,
        env=variables,
    ).splitlines()[-1]
    print(f"tap_ext: beside torch {torch}: {summary.strip('= ')}")


def main() -> None:
    """Do what the first argument says."""
    match sys.argv[1:]:
        case ["build"]:
            build()
        case ["test", *environments]:
            test(*environments)
        case _:
            raise stop("say python tools/wheel.py build, or python tools/wheel.py test [FOLDER...]")


if __name__ == "__main__":
    main()

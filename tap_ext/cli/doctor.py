"""``tap_ext doctor``: what is here, what runs how, and whether that is supported."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import re
from collections import Counter
from typing import Any

import torch

import tap_ext
from tap_ext.backbones import SPECS
from tap_ext.cli.arguments import ops
from tap_ext.ops import library_status

__all__ = ["add"]

OLDEST = {"python": "3.10", "torch": "2.11", "diffusers": "0.36"}
TESTED = {"python": "3.11", "torch": "2.13", "diffusers": "0.36, 0.42", "gpu": "none"}
CAPABILITY = "8.0"
"""The lowest compute capability that the CUDA kernels are compiled for; later ones run them too."""

OTHERS = ("transformers", "accelerate", "cache-dit", "torchao", "matplotlib", "gradio")


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.description = (
        "Tells what is installed, how the ops run and why, what CUDA graphs will hold, and which "
        "versions are supported. The exit status is 1 where something here is not."
    )
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.set_defaults(run=lambda arguments: _doctor(arguments))


def _doctor(arguments: argparse.Namespace) -> int:
    found = examine()
    print(json.dumps(found, indent=2) if arguments.json else _words(found))
    return 1 if found["unsupported"] else 0


def examine() -> dict[str, Any]:
    """All that there is to tell, as plain data."""
    status = library_status()
    here = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": _version("diffusers"),
        "gpu": _first_gpu(),
    }
    unsupported = [
        f"{name} {here[name]} is older than {oldest}, the oldest supported; install a newer one"
        for name, oldest in OLDEST.items()
        if _numbers(here[name]) and _numbers(here[name]) < _numbers(oldest)
    ]
    if platform.system() != "Linux":
        unsupported.append(f"{platform.system()} is not supported; use Linux")
    return {
        "tap_ext": tap_ext.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in OTHERS},
        "ops": ops(),
        "library": {
            "path": str(status.path),
            "loaded": status.compiled,
            "cuda": status.cuda,
            "reason": status.reason,
        },
        "gpus": _gpus(),
        "graphs": _graphs(),
        "classes": len(SPECS),
        "matrix": {
            "supported": {name: f">= {version}" for name, version in OLDEST.items()}
            | {"gpu": f"none, or CUDA >= {CAPABILITY}"},
            "tested": TESTED,
            "here": here,
        },
        "unsupported": unsupported,
        "advice": _advice(here),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, Any]]:
    found = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        capability = f"{about.major}.{about.minor}"
        found.append(
            {
                "name": about.name,
                "capability": capability,
                "memory": about.total_memory,
                "kernels": _runs_on(capability) and library_status().cuda,
            }
        )
    return found


def _first_gpu() -> str:
    gpus = _gpus()
    return f"{gpus[0]['name']} ({gpus[0]['capability']})" if gpus else "none"


def _runs_on(capability: str) -> bool:
    return _numbers(capability) >= _numbers(CAPABILITY)


def _graphs() -> str:
    """What will be captured."""
    if not torch.cuda.is_available():
        return "nothing is captured: torch sees no CUDA device"
    counts = Counter(spec.graphs for spec in SPECS.values())
    return (
        f"by Config.graphs; every step of {counts['all']} classes, the skip steps of "
        f"{counts['skip']}, none of {counts['none']}"
    )


def _advice(here: dict[str, Any]) -> list[str]:
    """What would make more of this machine."""
    status = library_status()
    advice: list[str] = []
    if not status.compiled:
        advice.append(
            "the ops run in plain torch, several times slower: pip install --no-build-isolation . "
            "with a C++20 compiler builds them"
        )
    elif torch.cuda.is_available() and not status.cuda:
        advice.append("the library has no CUDA kernels: build it anew where nvcc is on the path")
    for gpu in _gpus():
        if not _runs_on(gpu["capability"]):
            advice.append(f"the kernels are not compiled for {gpu['name']} ({gpu['capability']})")
    if here["diffusers"] is None:
        advice.append("diffusers is not installed: pip install 'tap_ext[diffusers]' for pipelines")
    return advice


def _numbers(version: str | None) -> tuple[int, ...]:
    """The leading numbers of a version, two at most; none for what is not there."""
    return tuple(int(part) for part in re.findall(r"\d+", version or "")[:2])


def _words(found: dict[str, Any]) -> str:
    library = found["library"]
    state = "loaded" if library["loaded"] else f"not loaded: {library['reason']}"
    lines = [
        f"tap_ext {found['tap_ext']} on {found['platform']}, {found['classes']} classes known",
        f"ops       {found['ops']}",
        f"library   {library['path']}, {state}",
        f"graphs    {found['graphs']}",
    ]
    for gpu in found["gpus"]:
        lines.append(
            f"gpu       {gpu['name']}, {gpu['capability']}, {gpu['memory'] / 2**30:.0f} GiB"
        )
    packages = [f"{name} {version or '-'}" for name, version in found["packages"].items()]
    lines += [f"packages  {', '.join(packages)}", "", *_table(found["matrix"])]
    lines += [f"not supported: {line}" for line in found["unsupported"]]
    lines += [f"advice: {line}" for line in found["advice"]]
    return "\n".join(lines)


def _table(matrix: dict[str, dict[str, Any]]) -> list[str]:
    names = list(matrix["here"])
    rows = [["", *names]]
    rows += [[kind, *(str(row.get(n) or "-") for n in names)] for kind, row in matrix.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]

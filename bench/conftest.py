"""Options of the benchmarks, and the table they end with."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

from bench.denoiser import MODELS
from bench.shapes import FLUX_1024, SHAPES

LINES = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    names = ", ".join(map(str, SHAPES))
    text = f"size to measure (repeatable; default {FLUX_1024}; 'all' or one of {names})"
    parser.addoption("--shape", action="append", default=[], metavar="NAME", help=text)
    text = f"transformer to run (repeatable; default tiny; 'all' or one of {', '.join(MODELS)})"
    parser.addoption("--model", action="append", default=[], metavar="NAME", help=text)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: needs a CUDA device")
    config.stash[LINES] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        reason = "torch sees no CUDA device"
        skip = pytest.mark.skipif(not torch.cuda.is_available(), reason=reason)
        metafunc.parametrize(
            "device", ["cpu", pytest.param("cuda", marks=[skip, pytest.mark.cuda])]
        )
    for fixture, known, default in (
        ("shape", {str(shape): shape for shape in SHAPES}, str(FLUX_1024)),
        ("model", {name: name for name in MODELS}, "tiny"),
    ):
        if fixture in metafunc.fixturenames:
            wanted = metafunc.config.getoption(f"--{fixture}") or [default]
            if unknown := set(wanted) - {"all", *known}:
                raise pytest.UsageError(
                    f"--{fixture} must be all or one of {', '.join(known)}, got {unknown.pop()}"
                )
            chosen = [known[name] for name in known if "all" in wanted or name in wanted]
            metafunc.parametrize(fixture, chosen, ids=str)


@pytest.fixture(autouse=True)
def _let_go() -> Iterator[None]:
    """Of one model before the next: only a collection finds that it is not used any more."""
    yield
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@pytest.fixture
def lines(request: pytest.FixtureRequest) -> list[str]:
    """Lines of the final table."""
    return request.config.stash[LINES]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.stash[LINES]:
        terminalreporter.section("figures")
        for line in config.stash[LINES]:
            terminalreporter.write_line(line)

"""A random bundle in place of the trained one, and the command run upon it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("matplotlib")
pytest.importorskip("skimage")

from tap_ext.cli import main
from tap_ext.demo import bundled
from tests.demo_models import save_random_bundle

STEPS = 10
COMMON = ("--model=bundled", f"--steps={STEPS}", "--batch=2", "--metrics=psnr,ssim")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_random_bundle(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)  # a session's would last for other folders' tests
def small(bundle: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundled, "MODEL", bundle)
        yield


Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command and returns its rows."""

    def call(out: Path, *arguments: str) -> list[dict[str, Any]]:
        assert main(["evaluate", *COMMON, f"--out={out}", "--json", *arguments]) == 0
        rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["rows"]
        return rows

    return call


def lines(out: Path) -> list[dict[str, Any]]:
    """What is stored, as it lies on the disk."""
    return [json.loads(text) for text in (out / "results.jsonl").read_text().splitlines()]


def values(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stored lines by key, without what two equal runs may differ in."""
    return {line["key"]: {k: v for k, v in line.items() if k != "seconds"} for line in found}

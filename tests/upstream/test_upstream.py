"""diffusers' own tests, from a checkout that ``DIFFUSERS_SOURCE`` names; see README.md."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import diffusers
import pytest

from tap_ext.backbones import SPECS
from tests.upstream import run
from tests.upstream.targets import TARGETS
from tests.versions import DIFFUSERS_VERSION

SOURCE = os.environ.get("DIFFUSERS_SOURCE", "")
FEW = "not quantization and not training and not single_file and not lora and not compile"


@pytest.mark.skipif(not SOURCE, reason="DIFFUSERS_SOURCE names no checkout of diffusers")
def test_upstreams_tests_pass_with_skip_steps() -> None:
    found = run.run(
        Path(SOURCE), ["FluxTransformer2DModel", "LTXVideoTransformer3DModel"], ["-m", FEW]
    )
    assert run.right(found), run.verdict(found)


def test_the_classes_are_diffusers_and_have_specs() -> None:
    assert len(TARGETS) >= 10
    assert SPECS.keys() >= TARGETS.keys()
    missing = [name for name in TARGETS if not hasattr(diffusers, name)]
    assert missing == ([] if DIFFUSERS_VERSION >= (0, 37) else ["LTX2VideoTransformer3DModel"])


def _found(**changes: Any) -> dict[str, Any]:
    good = {
        "classes": {"A": {"full steps": 3, "skip steps": 2}},
        "outcomes": {"passed": 5, "failed": 0, "error": 0},
        "failed": [],
        "upstream": [],
    }
    return good | changes


def test_a_run_in_which_nothing_was_skipped_is_no_success() -> None:
    assert run.right(_found())
    idle = _found(classes={"A": {"full steps": 3, "skip steps": 0}, "B": {}})
    assert not run.right(idle)
    assert "no skip step in A\nno skip step in B" in run.verdict(idle)


def test_a_run_is_judged_by_what_fails_with_tap_ext_alone() -> None:
    assert run.right(_found(upstream=["x.py::test_y"]))
    assert "fails without tap_ext too: x.py::test_y" in run.verdict(
        _found(upstream=["x.py::test_y"])
    )
    assert not run.right(_found(failed=["x.py::test_y"]))
    assert not run.right(_found(outcomes={"passed": 0, "failed": 0, "error": 0}))


def test_what_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="DIFFUSERS must be a checkout of diffusers with tests/"):
        run.run(tmp_path, ["FluxTransformer2DModel"])


def test_a_clone_that_fails_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(command: list[str], **_: Any) -> None:
        assert command[:2] == ["git", "clone"] and f"v{diffusers.__version__}" in command
        raise FileNotFoundError("no git")

    monkeypatch.setattr("subprocess.run", refuse)
    with pytest.raises(SystemExit, match="make test-upstream DIFFUSERS=path"):
        run.clone(tmp_path)

"""The soak in small: it runs, it counts, and it sees what it is there to see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench.soak import aborts, interleaved, subjects, table
from tap_ext.engine import Engine
from tap_ext.runtime import Branches

pytestmark = pytest.mark.filterwarnings("ignore:tap_ext")


def _silent(line: str) -> None:
    pass


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A FLUX pipeline and a bare model; a dozen requests."""
    every = subjects.subjects()
    chosen = [
        one for one in every if str(one) in ("FluxPipeline", "DiTTransformer2DModel, no run()")
    ]
    assert len(chosen) == 2
    monkeypatch.setattr(aborts, "subjects", lambda: chosen)
    for name, value in {"COUNT": 12, "ROUND": 6, "DIFFERENT": 6}.items():
        monkeypatch.setattr(interleaved, name, value)


def test_a_few_runs_given_up(few: None) -> None:
    result = aborts.run("cpu", 0.01, _silent)
    assert result["passed"] and result["runs given up"] == 10
    assert "| aborts | failures | none |" in table.markdown(
        {
            **dict.fromkeys(("tap_ext", "torch", "python", "device", "command"), ""),
            "figures": {"aborts": result},
        }
    )


def test_a_few_requests_at_once(few: None) -> None:
    result = interleaved.run("cpu", 1.0, _silent)
    assert result["requests"] == 12 and result["differences to serial results"] == 0
    assert result["live histories between rounds"] == 0 and result["fallbacks"] == []


def test_histories_that_survive_a_run_given_up_are_seen(
    few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine as it would be if it kept its histories: every restart looks like going on."""
    monkeypatch.setattr(Branches, "drop", lambda *_: None)
    monkeypatch.setattr(aborts, "KINDS", ("error in a module",) * 5)
    find: Callable[..., Any] = Branches.find

    def never_anew(self: Branches, run: Any, conditioning: Any, *_: Any) -> Any:
        return find(self, run, conditioning, None, None)

    monkeypatch.setattr(Branches, "find", never_anew)
    assert not aborts.run("cpu", 0.005, _silent)["passed"]


def test_threads_that_share_a_history_are_seen(few: None, monkeypatch: pytest.MonkeyPatch) -> None:
    held: dict[Engine, Any] = {}
    begin: Callable[..., Any] = Engine._begin_branch

    def same_for_all(self: Engine, *given: Any) -> Any:
        branch = begin(self, *given)
        shared = held.setdefault(self, branch)
        branch.states = shared.states
        return branch

    monkeypatch.setattr(Engine, "_begin_branch", same_for_all)
    assert interleaved.run("cpu", 1.0, _silent)["differences to serial results"] > 0

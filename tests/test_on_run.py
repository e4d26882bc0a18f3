"""What servers watch: a record of every run, logging, and nothing printed."""

from __future__ import annotations

import ast
import copy
import dataclasses
import json
import logging
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import tap_ext
from tap_ext import runtime
from tests import tiny
from tests.pipelines.builders import (
    FULL,
    GUIDED,
    SKIP,
    STEPS,
    accelerated,
    arguments,
    at_step,
    generate,
)

FLUX = tiny.MODELS[0]
STOP = RuntimeError("stop")


@pytest.fixture
def records() -> Iterator[list[tap_ext.RunRecord]]:
    seen: list[tap_ext.RunRecord] = []
    end = tap_ext.on_run(seen.append)
    yield seen
    end()


def counts(record: tap_ext.RunRecord) -> tuple[int, int, int, int]:
    return record.steps, record.full, record.skipped, record.untouched


def test_every_call_of_a_pipeline_is_one_record(records: list[tap_ext.RunRecord]) -> None:
    pipe = accelerated()
    for _ in range(2):
        generate(pipe)
    assert [counts(record) for record in records] == [(STEPS, len(FULL), len(SKIP), 0)] * 2
    assert {record.name for record in records} == {"FluxPipeline"}
    assert all(record.seconds > 0 and record.error is None for record in records)
    total = tap_ext.stats(pipe)
    assert (total.full, total.skip) == (2 * len(FULL), 2 * len(SKIP))


def test_both_branches_count(records: list[tap_ext.RunRecord]) -> None:
    case = next(iter(GUIDED.values()))
    generate(accelerated(case), arguments(case))
    assert counts(records[0]) == (STEPS, 2 * len(FULL), 2 * len(SKIP), 0)


def test_records_do_not_change(records: list[tap_ext.RunRecord]) -> None:
    generate(accelerated())
    with pytest.raises(dataclasses.FrozenInstanceError):
        records[0].full = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        records[0].fallbacks["x"] = 1  # type: ignore[index]
    assert json.loads(json.dumps(records[0].to_dict()))["skipped"] == len(SKIP)


def test_a_run_that_fails_is_told_of(records: list[tap_ext.RunRecord]) -> None:
    def stop(*_: object) -> None:
        raise STOP

    pipe = accelerated()
    with pytest.raises(RuntimeError, match="stop"):
        generate(pipe, **at_step(4, stop))
    assert records[0].error == "RuntimeError"
    assert counts(records[0]) == (5, 3, 2, 0)
    generate(pipe)
    assert records[1].error is None


def test_what_runs_untouched_is_told_with_its_reason(
    records: list[tap_ext.RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = accelerated()
    monkeypatch.setenv("TAP_EXT_DISABLE", "1")
    generate(pipe)
    assert dict(records[0].fallbacks) == {"switched off": STEPS}
    assert counts(records[0]) == (0, 0, 0, STEPS)


def test_a_bare_transformer_is_told_of_within_a_run(records: list[tap_ext.RunRecord]) -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), window=4)
    given = tiny.inputs(FLUX)
    tiny.sample(model, given, 8)
    assert records == []  # nobody says when it ends
    with tap_ext.run():
        tiny.sample(model, given, 8)
    with tap_ext.run():
        pass
    (record,) = records
    assert record.name == ""
    assert counts(record) == (8, 4, 4, 0)


def test_threads_over_one_transformer_have_records_of_their_own(
    records: list[tap_ext.RunRecord],
) -> None:
    model = tap_ext.accelerate(tiny.build(FLUX), window=4)
    barrier = threading.Barrier(2)

    def work(seed: int, steps: int) -> None:
        with tap_ext.run():
            barrier.wait()
            tiny.sample(model, tiny.inputs(FLUX, seed=seed), steps)

    threads = [threading.Thread(target=work, args=pair) for pair in ((1, 8), (2, 12))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(counts(record) for record in records)
    assert found == [(8, 4, 4, 0), (12, 5, 7, 0)]


def test_a_callback_that_fails_breaks_nothing(
    records: list[tap_ext.RunRecord], caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: tap_ext.RunRecord) -> None:
        raise ZeroDivisionError("in the metrics")

    end = tap_ext.on_run(fail)
    try:
        first = generate(accelerated())
    finally:
        end()
    assert len(records) == 1
    (entry,) = [entry for entry in caplog.records if entry.levelno >= logging.ERROR]
    assert entry.name == "tap_ext"
    assert "in the metrics" in caplog.text
    assert torch.equal(generate(accelerated()), first)


def test_it_ends_when_told_to(records: list[tap_ext.RunRecord]) -> None:
    twice: list[tap_ext.RunRecord] = []
    first, second = tap_ext.on_run(twice.append), tap_ext.on_run(twice.append)
    pipe = accelerated()
    generate(pipe)
    first()
    first()
    generate(pipe)
    second()
    generate(pipe)
    assert (len(twice), len(records)) == (3, 3)
    with pytest.raises(TypeError, match="callback must be callable, got int"):
        tap_ext.on_run(3)  # type: ignore[arg-type]


def test_a_run_is_logged_and_nothing_is_printed(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, logger="tap_ext"):
        generate(accelerated())
    logged = [entry.getMessage() for entry in caplog.records if entry.name == "tap_ext"]
    assert logged[0].startswith("FluxTransformer2DModel is accelerated: Config(")
    assert logged[-1].startswith(f"FluxPipeline: {STEPS} steps in ")
    assert logged[-1].endswith(f"{len(FULL)} full, {len(SKIP)} skipped, 0 untouched")
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_a_fallback_is_logged_too(caplog: pytest.LogCaptureFixture) -> None:
    model = tap_ext.accelerate(tiny.build(FLUX))
    given = tiny.inputs(FLUX)
    with pytest.warns(UserWarning, match="gradients are enabled"):
        model(**given, timestep=torch.ones(1), return_dict=False)
    (entry,) = [entry for entry in caplog.records if entry.name == "tap_ext"]
    assert entry.getMessage().startswith("running FluxTransformer2DModel untouched: gradients")


class Metric:
    """Of ``prometheus_client``, what the documentation's example uses."""

    seen: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name: str, _: str, labels: list[str]) -> None:
        self.key: tuple[str, ...] = (name,)
        self.count = len(labels)

    def labels(self, *values: str) -> Metric:
        assert len(values) == self.count
        child = copy.copy(self)
        child.key = (*self.key, *values)
        return child

    def inc(self, amount: float = 1) -> None:
        self.seen[self.key] = self.seen.get(self.key, 0) + amount

    observe = inc


def test_the_example_of_the_documentation_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(tap_ext.__file__).parents[1] / "docs" / "serving.md"
    code = page.read_text().split("```python\n")[1].partition("```")[0]
    client = types.SimpleNamespace(Counter=Metric, Histogram=Metric)
    monkeypatch.setitem(sys.modules, "prometheus_client", client)
    monkeypatch.setattr(Metric, "seen", {})
    monkeypatch.setattr(runtime, "_observers", [])
    exec(compile(code, str(page), "exec"), {})
    generate(accelerated())
    assert Metric.seen.pop(("tap_ext_run_seconds", "FluxPipeline")) > 0
    calls = {key[-1]: value for key, value in Metric.seen.items() if "calls" in key[0]}
    assert calls == {"full": len(FULL), "skipped": len(SKIP), "untouched": 0}
    assert Metric.seen["tap_ext_runs_total", "FluxPipeline", ""] == 1


def test_the_library_has_no_print() -> None:
    package = Path(tap_ext.__file__).parent
    for path in package.rglob("*.py"):
        if path.relative_to(package).parts[0] in ("cli", "evaluate", "demo", "app"):
            continue
        calls = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ]
        names = {getattr(call.func, "id", None) for call in calls}
        assert not names & {"print"}, path

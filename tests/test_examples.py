"""The examples for embedding run, and do what their text says."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tap_ext import Config, Plan, State

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def examples(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return EXAMPLES


def _load(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_the_plain_model_is_accelerated(examples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = _load("embed_plain_dit")
    module.main()
    said = capsys.readouterr().out
    assert f"full steps: 10 of 50: {Plan.full_steps(50, window=6)}" in said
    error = float(said.split("relative difference: ")[1].split()[0])
    assert 0 < error < 0.1


def test_every_step_full_is_the_untouched_model(examples: Path) -> None:
    module = _load("embed_plain_dit")
    torch.manual_seed(0)
    model, noise = module.DiT(depth=2).eval(), torch.randn(1, 9, 8)
    state = State(Plan(window=1), Config())
    assert torch.equal(module.generate(model, noise, 5, state), module.generate(model, noise, 5))


def test_it_imports_nothing_but_torch_and_the_package(examples: Path) -> None:
    for name in ("embed_plain_dit", "embed_mixed_steps"):
        tree = ast.parse((examples / f"{name}.py").read_text())
        roots = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                roots.add(str(node.module).split(".")[0])
        assert roots <= {"__future__", "dataclasses", "embed_plain_dit", "tap_ext", "torch"}


def test_requests_at_different_steps(examples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = _load("embed_mixed_steps")
    module.main()
    said = capsys.readouterr().out.splitlines()
    for steps in (20, 25, 30):
        full = len(Plan.full_steps(steps, window=6))
        assert said.count(f"{steps} steps: {full} full") == 2
    plain = _load("embed_plain_dit")
    torch.manual_seed(0)
    model, noise = plain.DiT(depth=2).eval(), torch.randn(2, 16, 8)
    requests = [
        module.Request(x, steps, State(Plan(num_steps=steps), Config()))
        for x, steps in zip(noise, (9, 14), strict=True)
    ]
    while present := [request for request in requests if request.step < request.steps]:
        module.advance(model, present)
    for request, x in zip(requests, noise, strict=True):
        state = State(Plan(num_steps=request.steps), Config())
        alone = plain.generate(model, x[None], request.steps, state)[0]
        # a matrix product may round otherwise in a larger batch; what is cached does not
        torch.testing.assert_close(request.x, alone, rtol=1e-4, atol=1e-4)
        assert request.state.log.full_steps == state.log.full_steps


def test_a_skip_step_exports(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an op that writes its arguments, also once that is made functional."""
    monkeypatch.syspath_prepend(str(examples / "aot"))
    export = _load("export")
    torch.manual_seed(0)
    module = export.SkipStep(export.DiT(depth=1)).eval()
    planes = torch.randn(2, 3, 2, 9, 64)
    inputs = (torch.randn(2, 9, 8), torch.rand(2), *planes, torch.randn(4, 3))
    with torch.no_grad():
        program = torch.export.export(module, inputs)
        wanted = module(*inputs)
        for made in (program, program.run_decompositions()):
            targets = {str(node.target) for node in made.graph.nodes}
            assert any("skip_step_" in name or "auto_functionalized" in name for name in targets)
            velocity, index = made.module()(*inputs)
            torch.testing.assert_close(velocity, wanted[0], rtol=1e-5, atol=1e-5)
            assert torch.equal(index, wanted[1])


DOCUMENT = EXAMPLES.parent / "docs" / "embedding.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(), re.M | re.S)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_what_the_document_shows_runs(number: int) -> None:
    with torch.inference_mode():
        exec(SNIPPETS[number], {})


def test_the_document_shows_something() -> None:
    assert len(SNIPPETS) == 5

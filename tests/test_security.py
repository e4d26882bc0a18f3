"""What SECURITY.md promises, as far as code can tell."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import tap_ext
from tap_ext.demo.subject import from_checkpoint
from tap_ext.evaluate.models import from_folder
from tap_ext.files import replacing, write

PACKAGE = Path(tap_ext.__file__).parent
ROOT = Path(__file__).parents[1]
SOURCES = sorted(PACKAGE.rglob("*.py"))

UNPICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "runpy"}
NETWORK = {"socket", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "ftplib"}
CALLS = {"eval", "exec", "compile", "__import__"}
METHODS = {"torch.load", "torch.hub", "numpy.load", "np.load", "yaml.load", "os.system"}
SERVES = {"app"}
"""Packages that answer a browser on this machine: the only ones that may open a socket."""


def _trees() -> Iterator[tuple[Path, ast.AST]]:
    for path in SOURCES:
        yield path.relative_to(PACKAGE), ast.parse(path.read_text(encoding="utf-8"))


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]


def _dangers(tree: ast.AST) -> Iterator[str]:
    for name in _imported(tree):
        if name in UNPICKLES:
            yield f"import {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield f"{node.func.id}()"
        if isinstance(node, ast.Attribute) and _dotted(node) in METHODS:
            yield _dotted(node)
        if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "shell"):
            yield f"{node.arg}="


def test_nothing_unpickles_or_runs_text() -> None:
    found = {str(path): list(_dangers(tree)) for path, tree in _trees()}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from marshal import loads",
        "eval(text)",
        "torch.load(path)",
        "load(path, trust_remote_code=True)",
        "run(words, shell=True)",
    ],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert list(_dangers(ast.parse(code)))


def test_no_module_can_reach_the_network() -> None:
    found = {
        str(path): names
        for path, tree in _trees()
        if (names := NETWORK & set(_imported(tree))) and path.parts[0] not in SERVES
    }
    assert found == {}


def test_checkpoints_are_asked_for_as_safetensors() -> None:
    """Every call of ``from_pretrained`` says so; diffusers would fall back to pickled weights.

    But for those of processors, which have none.
    """
    calls = [
        (str(path), node)
        for path, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "from_pretrained"
        if not _dotted(node.func).endswith("Processor.from_pretrained")
    ]
    assert len(calls) >= 3
    named = {path: {word.arg for word in node.keywords} for path, node in calls}
    assert {path for path, words in named.items() if "use_safetensors" not in words} == set()


def _checkpoint(folder: Path, **changes: Any) -> Path:
    """A folder that looks like a checkpoint, and a file in it that tells when it is run."""
    index = {"_class_name": "FluxPipeline", "_diffusers_version": "0.36.0"} | changes
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    code = f"open({str(folder / 'was_run')!r}, 'w').close()\n"
    for place in (folder, folder / "transformer"):
        (place / "mine.py").write_text(code)
    return folder


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"_class_name": ["mine", "Pipeline"]}, "_class_name"),
        ({"transformer": ["mine", "Transformer"]}, "transformer/mine.py"),
    ],
)
def test_a_checkpoint_that_brings_code_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    folder = _checkpoint(tmp_path / "checkpoint", **changes)
    with pytest.raises(ValueError, match=told):
        from_folder(folder, torch.device("cpu"), torch.float32, None)
    with pytest.raises(ValueError, match=r"code of its own|must be a checkpoint of FluxPipeline"):
        from_checkpoint(folder, ["a"], 1, None, 0, torch.device("cpu"), torch.float32)
    assert not (folder / "was_run").exists()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """Weights whose loading would leave a file behind, where no safetensors are."""
    from tests.demo_models import save_random_checkpoint

    folder = tmp_path / "checkpoint"
    save_random_checkpoint(folder)
    (weights,) = (folder / "transformer").glob("*.safetensors")
    weights.unlink()

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(folder / "was_run"), "w"))

    torch.save({"proj_out.weight": Evil()}, weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="model cannot be loaded"):
        from_folder(folder, torch.device("cpu"), torch.float32, None)
    assert not (folder / "was_run").exists()


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half of")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    write(path, "old")
    with pytest.raises(OSError), replacing(path) as partial:
        partial.write_text("half of")
        raise OSError(28, "No space left on device")
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.md"]
    assert path.read_text() == "old"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    write(path, "old")
    child = os.fork()
    if child == 0:
        with replacing(path) as partial:
            partial.write_text("half of")
            os._exit(0)
    os.waitpid(child, 0)
    assert path.read_text() == "old"


def test_files_are_written_through_one_door() -> None:
    """No ``open`` for writing, no ``write_text`` but on what ``replacing`` gave."""
    doors = {Path("files.py"), Path("evaluate/store.py")}
    found = []
    for path, tree in _trees():
        if path in doors:
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = _dotted(node.func)
            owner, _, method = name.rpartition(".")
            if name == "open" and len(node.args) + len(node.keywords) > 1:
                found.append((str(path), name))
            if method in ("write_text", "write_bytes") and owner not in ("partial", "words"):
                found.append((str(path), name))
    assert found == []


@pytest.mark.parametrize(
    "prompt", ["../../etc/passwd", "/abs", "a\x00b", "..", "x/../../y", "C:\\x"]
)
def test_a_prompt_cannot_choose_where(tmp_path: Path, prompt: str) -> None:
    from tap_ext.cli.outputs import names

    (tmp_path / "out").mkdir()
    (target,) = names(tmp_path / "out", [(prompt, 3)], video=False)
    assert target.parent == tmp_path / "out"
    assert target.name.startswith("1-") and target.suffix == ".png"


def test_nothing_is_read_or_sent_by_importing(tmp_path: Path) -> None:
    """In a process where a socket cannot be made, import and a run's worth of ops go through."""
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise SystemExit('the network was asked for')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "import torch, tap_ext\n"
        "from tap_ext.state import State\n"
        "state = State()\n"
        "for _ in range(6):\n"
        "    x = torch.randn(1, 2, 4)\n"
        "    if state.begin().value == 'full': state.record(x, x, x)\n"
        "    else: state.predict(x, x)\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


def test_the_document_names_tests_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = {word.strip("`") for word in text.replace("|", " ").replace(",", " ").split()}
    tests = {name for name in named if name.startswith("tests/")}
    assert tests and all((ROOT / name).exists() for name in tests)

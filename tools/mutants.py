"""Changes one thing in the code at a time and asks the tests to notice.

    python tools/mutants.py [plan state predictors score] [--out FILE.md] [--keep N/OF]

A *mutant* is a file with one operator, constant, condition or statement changed. One that fails no
test has *survived*: a test is missing, or the change makes no difference, which then has to be said
in ``tests/mutants.txt``. Ends with 1 where a survivor is not explained there.

Every mutant runs in a fork of one process that has imported torch already, and only the tests that
execute its line do, those that killed others first.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXPLAINED = ROOT / "tests" / "mutants.txt"

TARGETS: dict[str, tuple[list[str], list[str]]] = {
    "plan": (["tap_ext/plan.py"], ["tests/test_plan.py", "tests/test_config.py"]),
    "state": (["tap_ext/state.py"], ["tests/test_state.py"]),
    "predictors": (
        [
            "tap_ext/predictors/base.py",
            "tap_ext/predictors/matrix.py",
            "tap_ext/predictors/multistep.py",
            "tap_ext/predictors/polynomial.py",
            "tap_ext/predictors/positions.py",
            "tap_ext/predictors/taylor.py",
        ],
        ["tests/test_predictors.py"],
    ),
    "score": (["csrc/core/score.h"], ["csrc/tests/test_score.cpp"]),
}
"""What is mutated, and which tests have to notice."""

CPU_SECONDS = 120
"""A mutant that computes for longer is taken for an endless loop, and so for noticed."""


@dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
        path: of the file, from the root.
        line: where.
        what: ``where: before -> after``, without line numbers: what an explanation refers to.
        source: the whole file after the change.
    """

    path: str
    line: int
    what: str
    source: str

    def __str__(self) -> str:
        """As an explanation names it."""
        return f"{self.path}: {self.what}"


# ---- Python ------------------------------------------------------------------------------------

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
}


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """Other nodes to put in place of this one."""
    match node:
        case ast.Compare(ops=ops):
            for number, op in enumerate(ops):
                changed = copy.deepcopy(node)
                changed.ops[number] = _COMPARE[type(op)]()
                yield changed
        case ast.BinOp(op=op) if type(op) in _BINARY:
            yield ast.BinOp(node.left, _BINARY[type(op)](), node.right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.IfExp(test=test):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), node.body, node.orelse)
        case ast.If(test=test):
            yield ast.If(ast.UnaryOp(ast.Not(), test), node.body, node.orelse)
        case ast.Return(value=value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _places(node: ast.AST, scope: str = "") -> Iterator[tuple[ast.AST, str, Any, str]]:
    """Every (parent, field, index, scope) under a node but in what does nothing when run."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        if isinstance(node, ast.Raise):  # what an error says is not its behaviour
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Assert, ast.JoinedStr)):
                continue
            inner = scope
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{scope}.{child.name}".lstrip(".")
            yield node, field, index, inner
            yield from _places(child, inner)


def _python(path: str) -> Iterator[Mutant]:
    text = (ROOT / path).read_text()
    tree = ast.parse(text)
    for parent, field, index, scope in list(_places(tree)):
        value = getattr(parent, field)
        node = value if index is None else value[index]
        for changed in _changes(node):
            ast.copy_location(changed, node)
            _put(parent, field, index, changed)
            source = ast.unparse(ast.fix_missing_locations(tree))
            _put(parent, field, index, node)
            before, after = (_head(part) for part in (node, changed))
            around = "" if isinstance(node, ast.stmt) else f" in `{_head(parent)}`"
            what = f"{scope}: `{before}` -> `{after}`{around}"
            yield Mutant(path, getattr(node, "lineno", 0), what, source)


def _put(parent: ast.AST, field: str, index: Any, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _head(node: ast.AST) -> str:
    return ast.unparse(node).split("\n")[0][:90]


class _Reorder:
    """Runs the tests that may notice, those that noticed others first; notes who did."""

    def __init__(self, wanted: set[str] | None, killers: Counter[str], cost: dict[str, float]):
        self.wanted, self.killers, self.cost = wanted, killers, cost
        self.killer: str | None = None
        self.ran: dict[str, float] = {}
        self.lines: dict[int, set[str]] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        if self.wanted is not None:
            items[:] = [item for item in items if item.nodeid in self.wanted]
        items.sort(key=lambda i: (-self.killers[i.nodeid], self.cost.get(i.nodeid, 0.0)))

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.ran[report.nodeid] = self.ran.get(report.nodeid, 0.0) + report.duration
        if report.failed and self.killer is None:
            self.killer = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and self.killer is None:
            self.killer = f"{report.nodeid} cannot be imported"


class _Traced(_Reorder):
    """Notes which test executes which line of a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(None, Counter(), {})
        self.path = str(path)

    def pytest_runtest_protocol(self, item: Any) -> None:
        import functools
        import gc

        for thing in gc.get_objects():  # a remembered result would hide who needs a line
            if isinstance(thing, functools._lru_cache_wrapper) and "tap_ext" in str(
                getattr(thing, "__module__", "")
            ):
                thing.cache_clear()

        def line(frame: Any, event: str, _: Any) -> Any:
            self.lines.setdefault(frame.f_lineno, set()).add(item.nodeid)
            return line

        def enter(frame: Any, event: str, _: Any) -> Any:
            if frame.f_code.co_filename != self.path:
                return None
            return line(frame, event, _)

        sys.settrace(enter)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.settrace(None)


def _forked(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, computed in a fork; None where that was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            answer = pickle.dumps(work())
            with os.fdopen(write, "wb") as pipe:
                pipe.write(answer)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(answer) if answer else None


def _pytest(plugin: _Reorder, tests: list[str]) -> _Reorder:
    import pytest

    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly"]
    code = pytest.main([*options, *tests], plugins=[plugin])
    if code not in (0, 1, 5) and plugin.killer is None:
        plugin.killer = f"pytest ended with {int(code)}"
    return plugin


class _PythonRunner:
    """Runs the tests of one target against mutants of one file after the other."""

    def __init__(self, paths: list[str], tests: list[str]) -> None:
        import hypothesis
        import numpy
        import pytest
        import torch

        torch.set_num_threads(1)
        self.tests, self.killers = tests, Counter[str]()
        self.lines: dict[str, dict[int, set[str]]] = {}
        self.cost: dict[str, float] = {}
        for path in paths:
            traced = _forked(lambda path=path: _pytest(_Traced(ROOT / path), tests))
            if traced is None or traced.killer is not None:
                raise SystemExit(f"the tests fail as it is: {traced and traced.killer}")
            self.lines[path], self.cost = traced.lines, traced.ran
        del hypothesis, numpy, pytest

    def killer(self, mutant: Mutant) -> str | None:
        """The test that notices a mutant; None: none does."""
        lines = self.lines[mutant.path]
        wanted = lines.get(mutant.line)
        if mutant.what.startswith(":") or _at_import(mutant, lines):
            wanted = None  # done when the file is imported: any test may notice
        elif not wanted:
            return None

        def work(profile: str) -> _Reorder:
            os.environ["HYPOTHESIS_PROFILE"] = profile
            _serve(ROOT / mutant.path, mutant.source)
            plugin = _Reorder(wanted, self.killers, self.cost)
            return _pytest(plugin, self.tests)

        killer = None
        for profile in ("quick", "tap_ext"):
            ran = _forked(lambda profile=profile: work(profile))
            killer = "out of time, or killed" if ran is None else ran.killer
            if killer is not None:
                break
        if killer is not None:
            self.killers[killer] += 1
        return killer


def _at_import(mutant: Mutant, lines: dict[int, set[str]]) -> bool:
    """Whether the line is no part of a function that a test calls, but of a class or a module."""
    return mutant.line not in lines and "." not in mutant.what.split(":")[0]


def _serve(path: Path, source: str) -> None:
    """Import a file as if it held ``source``."""
    from importlib.machinery import SourceFileLoader

    plain = SourceFileLoader.get_code

    def get_code(loader: Any, name: str) -> Any:
        if Path(loader.path) == path:
            return compile(source, str(path), "exec")
        return plain(loader, name)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


# ---- C++ ---------------------------------------------------------------------------------------

_TOKENS = (
    (r"(?<= )\+(?= )", "-"),
    (r"(?<= )-(?= )", "+"),
    (r"(?<= )\*(?= )", "/"),
    (r"(?<= )/(?= )", "*"),
    (r"(?<= )\+=(?= )", "-="),
    (r"(?<= )<(?= )", "<="),
    (r"(?<= )<=(?= )", "<"),
    (r"(?<= )>(?= )", ">="),
    (r"(?<= )>=(?= )", ">"),
    (r"(?<= )==(?= )", "!="),
    (r"(?<= )!=(?= )", "=="),
    (r"(?<= )&&(?= )", "||"),
    (r"(?<= )\|\|(?= )", "&&"),
    (r"!(?=[a-z(])", ""),
    (r"(?<=[\[( ])-(?=[a-z])", ""),
    (r"\b0\b(?!\.)", "1"),
    (r"\b1\b(?!\.)", "2"),
    (r"\b[01]\.f?\b|\b[01]\.[0-9]+f?\b", "2.f"),
)


def _cpp(path: str) -> Iterator[Mutant]:
    lines = (ROOT / path).read_text().split("\n")
    for number, line in enumerate(lines):
        code = line.split("//")[0]
        if code.startswith(("#", "template", "namespace")) or "static_assert" in code:
            continue
        for pattern, after in _TOKENS:
            for found in re.finditer(pattern, code):
                changed = code[: found.start()] + after + code[found.end() :]
                source = "\n".join([*lines[:number], changed, *lines[number + 1 :]])
                what = f"`{code.strip()}` -> `{changed.strip()}`"
                yield Mutant(path, number + 1, what, source)


class _CppRunner:
    """Compiles a C++ test against a mutated header and runs it."""

    def __init__(self, paths: list[str], tests: list[str]) -> None:
        self.tests = tests
        as_it_is = Mutant(paths[0], 0, "", (ROOT / paths[0]).read_text())
        if (why := self.killer(as_it_is)) is not None:
            raise SystemExit(f"the tests fail as it is: {why}")

    def killer(self, mutant: Mutant) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            header = Path(folder, *Path(mutant.path).parts[1:])
            header.parent.mkdir(parents=True)
            header.write_text(mutant.source)
            for test in self.tests:
                program = Path(folder, "test")
                compiler = os.environ.get("CXX", "g++")
                build = [compiler, "-std=c++20", "-O1", f"-I{folder}", f"-I{ROOT / 'csrc'}"]
                made = subprocess.run(
                    [*build, str(ROOT / test), "-o", str(program)], capture_output=True, text=True
                )
                if made.returncode:
                    return "does not compile"
                try:
                    done = subprocess.run([program], capture_output=True, timeout=CPU_SECONDS)
                except subprocess.TimeoutExpired:
                    return "out of time"
                if done.returncode:
                    return test
        return None


# ---- all ---------------------------------------------------------------------------------------


def explanations() -> dict[str, str]:
    """Why a survivor makes no difference, by what it is: lines of ``mutant | why``."""
    if not EXPLAINED.exists():
        return {}
    lines = (line.rpartition(" | ") for line in EXPLAINED.read_text().splitlines())
    return {what.strip(): why.strip() for what, bar, why in lines if bar and what[:1] != "#"}


def main() -> int:
    """Mutate; 0 where every mutant is noticed or explained."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", help=f"among {', '.join(TARGETS)}; default: all")
    parser.add_argument("--out", type=Path, help="a table of the survivors, in Markdown")
    parser.add_argument("--keep", default="0/1", help="I/N: every N-th mutant only, from the I-th")
    given = parser.parse_args()
    offset, step = map(int, given.keep.split("/"))
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    known = explanations()
    unexplained, report = 0, ["# Mutants", "", f"    python {' '.join(sys.argv)}", ""]
    table = ["| target | mutants | noticed | explained | survived |", "|---|---|---|---|---|"]
    listed: list[str] = []
    for name in given.targets or TARGETS:
        paths, tests = TARGETS[name]
        cpp = paths[0].startswith("csrc")
        runner = (_CppRunner if cpp else _PythonRunner)(paths, tests)
        mutants = [m for path in paths for m in (_cpp if cpp else _python)(path)][offset::step]
        started, alive, plain = time.monotonic(), 0, 0
        for number, mutant in enumerate(mutants):
            if runner.killer(mutant) is None:
                why = known.get(str(mutant))
                plain += why is None
                alive += why is not None
                listed.append(f"- `{mutant.path}`: {mutant.what}: {why or '**not explained**'}")
                if why is None:
                    print(f"survived: {mutant} (line {mutant.line})", flush=True)
            if (number + 1) % 50 == 0:
                print(
                    f"{name}: {number + 1} of {len(mutants)}, {plain + alive} survived, "
                    f"{time.monotonic() - started:.0f} s",
                    flush=True,
                )
        noticed = len(mutants) - alive - plain
        table.append(f"| {name} | {len(mutants)} | {noticed} | {alive} | {plain} |")
        print(table[-1], flush=True)
        unexplained += plain
    report += [*table, "", "Survivors, and why they make no difference:", "", *listed]
    if given.out:
        given.out.write_text("\n".join(report) + "\n")
    return 1 if unexplained else 0


if __name__ == "__main__":
    sys.exit(main())

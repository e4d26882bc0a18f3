"""Changes one thing in the code at a time and asks the tests to notice.

    python tools/mutants.py [plan state ...] [--out FILE.md] [--keep N/OF]

A *mutant* is a file with one operator, constant, condition or statement changed. One that fails no
test has *survived*: a test is missing, or the change makes no difference, which then has to be said
in ``tests/mutants.txt``. Ends with 1 where a survivor is not explained there.

Every mutant runs in a fork of one process that has run the tests before, where the code of the
changed function is exchanged; only the tests that execute its line run, those that killed others
first. What is not in a function (defaults, constants) runs in a fork that has imported torch alone.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import gc
import multiprocessing
import os
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
EXPLAINED = ROOT / "tests" / "mutants.txt"

TARGETS: dict[str, tuple[list[str], list[str]]] = {
    "plan": (
        ["tap_ext/plan.py"],
        [
            "tests/test_plan.py",
            "tests/test_config.py",
            "tests/test_calibrate.py",
            "tests/peers/test_adaptive.py",
        ],
    ),
    "state": (
        ["tap_ext/state.py", "tap_ext/buffers.py", "tap_ext/history.py"],
        [
            "tests/test_state.py",
            "tests/test_history.py",
            "tests/test_buffers.py",
            "tests/test_correction.py",
        ],
    ),
    "correction": (["tap_ext/correction.py"], ["tests/test_correction.py"]),
    "blend": (["tap_ext/blend.py", "tap_ext/samples.py"], ["tests/test_blend.py"]),
    "graphs": (
        [
            "tap_ext/graphs/guard.py",
            "tap_ext/graphs/inputs.py",
            "tap_ext/graphs/recorded.py",
            "tap_ext/given.py",
        ],
        [
            "tests/graphs/test_inputs.py",
            "tests/graphs/test_steps.py",
            "tests/test_given.py",
            "tests/test_buffers.py",
        ],
    ),
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


def _caches() -> list[Any]:
    """What tap_ext remembers of its functions' results: it would hide who needs a line."""
    found = (t for t in gc.get_objects() if isinstance(t, functools._lru_cache_wrapper))
    return [cache for cache in found if "tap_ext" in str(getattr(cache, "__module__", ""))]


class _Traced(_Reorder):
    """Notes which test executes which line of some files."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__(None, Counter(), {})
        self.seen: dict[str, dict[int, set[str]]] = {str(ROOT / path): {} for path in paths}

    def pytest_runtest_protocol(self, item: Any) -> None:
        for cache in _caches():
            cache.cache_clear()

        def line(frame: Any, event: str, _: Any) -> Any:
            lines = self.seen[frame.f_code.co_filename]
            lines.setdefault(frame.f_lineno, set()).add(item.nodeid)
            return line

        def enter(frame: Any, event: str, _: Any) -> Any:
            if frame.f_code.co_filename not in self.seen:
                return None
            return line(frame, event, _)

        sys.settrace(enter)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        sys.settrace(None)


def _forked(work: Callable[[], Any], seconds: int | None = CPU_SECONDS) -> Any:
    """What ``work`` returns, computed in a fork; None where that was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        status = 1
        try:
            if seconds is not None:
                resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
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
    """Runs the tests of one target against mutants of its files, one after the other."""

    def __init__(self, paths: list[str], tests: list[str]) -> None:
        import hypothesis
        import numpy
        import pytest
        import torch

        torch.set_num_threads(1)
        self.tests, self.killers = tests, Counter[str]()
        traced = _forked(lambda: _pytest(_Traced(paths), tests), seconds=None)
        if traced is None or traced.killer is not None:
            raise SystemExit(f"the tests fail as it is: {traced and traced.killer}")
        self.lines = {path: traced.seen[str(ROOT / path)] for path in paths}
        self.cost: dict[str, float] = traced.ran
        self.warm = _Warm(paths, tests)
        del hypothesis, numpy, pytest

    def killer(self, mutant: Mutant) -> str | None:
        """The test that notices a mutant; None: none does."""
        wanted = None  # done when the file is imported: any test may notice
        if _changed(_plain(mutant.path), mutant) is not None:
            wanted = self.lines[mutant.path].get(mutant.line)
            if not wanted:
                return None
        plugin = _Reorder(wanted, self.killers, self.cost)
        known, killer = self.warm.killer(mutant, plugin)
        if not known:

            def work() -> _Reorder:
                _serve(ROOT / mutant.path, mutant.source)
                return _pytest(plugin, self.tests)

            ran = _forked(work)
            killer = "out of time, or killed" if ran is None else ran.killer
        if killer is not None:
            self.killers[killer] += 1
        return killer


class _Warm:
    """A process in which the tests have run, forked again for each mutant of a function's body."""

    def __init__(self, paths: list[str], tests: list[str]) -> None:
        self.tests = tests
        self.here, there = multiprocessing.Pipe()
        if os.fork() == 0:
            try:
                self.here.close()
                self._serve(there, paths)
            finally:
                os._exit(0)
        there.close()

    def killer(self, mutant: Mutant, plugin: _Reorder) -> tuple[bool, str | None]:
        """Whether this can tell, and the test that notices the mutant."""
        self.here.send((mutant, plugin))
        answer: tuple[bool, str | None] = self.here.recv()
        return answer

    def _serve(self, pipe: Any, paths: list[str]) -> None:
        quiet = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(quiet, stream)
        _pytest(_Reorder(None, Counter(), {}), self.tests)
        living: dict[tuple[str, str], list[types.FunctionType]] = {}
        names: dict[Any, tuple[str, str]] = {}
        for path in paths:
            whole = compile((ROOT / path).read_text(), str(ROOT / path), "exec")
            for name, code in _bodies(whole).items():
                names[str(ROOT / path), name, code.co_firstlineno] = path, name
        for thing in gc.get_objects():
            if isinstance(thing, types.FunctionType):
                code = thing.__code__
                key = (code.co_filename, thing.__qualname__, code.co_firstlineno)
                if key in names:
                    living.setdefault(names[key], []).append(thing)
        self.caches = _caches()
        gc.freeze()  # a collection would copy every page of this process into each fork
        while True:
            try:
                mutant, plugin = pipe.recv()
            except EOFError:
                return
            name = _changed(_plain(mutant.path), mutant)
            functions = living.get((mutant.path, name or ""))
            if name is None or functions is None:
                pipe.send((False, None))
                continue
            code = _bodies(compile(mutant.source, mutant.path, "exec"))[name]
            code = code.replace(co_filename=str(ROOT / mutant.path))
            work = functools.partial(self._exchanged, functions, code, plugin)
            ran = _forked(work)
            pipe.send((True, "out of time, or killed" if ran is None else ran.killer))

    def _exchanged(
        self, functions: list[types.FunctionType], code: types.CodeType, plugin: _Reorder
    ) -> _Reorder:
        for function in functions:
            function.__code__ = code
        for cache in self.caches:
            cache.cache_clear()
        return _pytest(plugin, self.tests)


def _bodies(code: types.CodeType, scope: str = "", found: Any = None) -> dict[str, types.CodeType]:
    """The functions of a module and of its classes, and, as ``""``, all that is in none."""
    found = {} if found is None else found
    found[scope] = code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            name = f"{scope}.{part.co_name}".lstrip(".")
            is_class = not part.co_flags & 2  # CO_NEWLOCALS
            if is_class:
                _bodies(part, name, found)
            else:
                found[name] = part
    return found


@functools.cache
def _plain(path: str) -> dict[str, types.CodeType]:
    source = ast.unparse(ast.parse((ROOT / path).read_text()))
    return _bodies(compile(source, path, "exec"))


def _changed(plain: dict[str, types.CodeType], mutant: Mutant) -> str | None:
    """The function whose body a mutant changes; None: what runs when the file is imported."""
    bodies = _bodies(compile(mutant.source, mutant.path, "exec"))
    other = [name for name, code in bodies.items() if _told(code) != _told(plain[name])]
    inside = len(other) == 1 and plain[other[0]].co_flags & 2
    return other[0] if inside else None


def _told(code: types.CodeType) -> Any:
    """What a function does, as a value; of a class or a module, without its functions."""
    whole = bool(code.co_flags & 2)
    parts = (
        _told(part) if isinstance(part, types.CodeType) else (type(part), repr(part))
        for part in code.co_consts
        if whole or not isinstance(part, types.CodeType)
    )
    return code.co_code, code.co_names, code.co_varnames, tuple(parts)


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

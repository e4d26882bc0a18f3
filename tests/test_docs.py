"""The pages say what the code says: each message, each example, each link from the README."""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tap_ext
from tap_ext.backbones import SPECS
from tests import test_refusals as toy
from tools import quality_page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "tap_ext"

EXPLAINED = (
    "accelerate.py",
    "engine.py",
    "steps.py",
    "state.py",
    "_library.py",
    "graphs",
    "views",
    "integrations",
)
"""Every message of these stands in docs/troubleshooting.md."""

NO_MESSAGES = {"a call of the model", "no module", "tap_ext: {}"}
"""Parts of messages, or what only goes around them."""


def _sources(names: tuple[str, ...]) -> list[Path]:
    paths = [PACKAGE / name for name in names]
    return sorted(p for path in paths for p in (path.rglob("*.py") if path.is_dir() else [path]))


def _skipped(node: ast.AST) -> bool:
    """Docstrings, and what is logged besides being warned of."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    function = node.func if isinstance(node, ast.Call) else None
    return isinstance(function, ast.Attribute) and ast.unparse(function.value) == "_logger"


def _strings(node: ast.AST) -> Iterator[str]:
    """String literals in a tree, with {} where a value is put in."""
    if _skipped(node):
        return
    if isinstance(node, ast.JoinedStr):
        yield "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from _strings(child)


def _templates(path: Path) -> list[str]:
    found = set(_strings(ast.parse(path.read_text()))) - NO_MESSAGES
    texts = (t for t in found if "\n" not in t and "Tensor " not in t)  # that is an op's schema
    return sorted(t for t in texts if re.search(r"[a-z]{2,} [a-z{]|\} [a-z]", t))


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(".+".join(map(re.escape, template.split("{}"))))


def _entries() -> list[str]:
    """The messages in the first column of the page's tables."""
    return re.findall(r"^\| `(.+?)` \|", (DOCS / "troubleshooting.md").read_text(), re.M)


@pytest.mark.parametrize("path", _sources(EXPLAINED), ids=lambda path: path.name)
def test_every_message_is_explained(path: Path) -> None:
    entries = _entries()
    missing = [t for t in _templates(path) if not any(map(_pattern(t).search, entries))]
    assert missing == [], f"docs/troubleshooting.md says nothing of what {path.name} says"


def test_the_page_explains_no_message_that_is_gone() -> None:
    patterns = [_pattern(t) for p in PACKAGE.rglob("*.py") for t in _templates(p) if len(t) > 9]
    stale = [entry for entry in _entries() if not any(p.search(entry) for p in patterns)]
    assert stale == []


@pytest.mark.parametrize("habit", toy.HABITS)
def test_a_reason_that_a_user_sees_is_found_on_the_page(habit: str) -> None:
    latents = torch.ones(1, 6, 4) if "like" in habit else torch.randn(1, 6, 4)
    model = tap_ext.accelerate(toy._Toy(habit), window=3, spec=toy._spec(**toy.HABITS[habit][0]))
    with pytest.warns(UserWarning, match="untouched"):
        toy._run(model, latents)
    (reason,) = tap_ext.stats(model).models[0].fallbacks
    reason = reason.removeprefix("the self-check failed: ")
    patterns = (".+".join(map(re.escape, re.split("<[^>]*>", entry))) for entry in _entries())
    assert [p for p in patterns if p != ".+" and re.fullmatch(p, reason)] != []


PAGES = ("quick_start", "how_it_works", "budget", "add_a_predictor", "numerics")
"""Their ``python`` fences are run, and their ``pycon`` fences give what they show."""


def _fences(page: str, kind: str) -> str:
    found = re.findall(rf"^```{kind}\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.M | re.S)
    return "\n".join(found)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_is_so(page: str) -> None:
    code, session = _fences(page, "python"), _fences(page, "pycon")
    assert code or session
    exec(compile(code, f"{page}.md", "exec"), {})
    test = doctest.DocTestParser().get_doctest(session, {}, page, f"{page}.md", 0)
    assert doctest.DocTestRunner().run(test).failed == 0


def test_every_page_is_in_the_menu() -> None:
    """mkdocs refuses others too; this says it before the site is built."""
    listed = set(re.findall(r"([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


def test_the_readme_leads_to_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_every_public_name_has_its_place_in_the_reference() -> None:
    text = (DOCS / "api" / "index.md").read_text()
    assert [name for name in tap_ext.__all__ if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", ["quick_start", "comparison"])
def test_as_many_classes_are_described(page: str) -> None:
    numbers = re.findall(r"\b(\d+)(?: classes|, each tested)", (DOCS / f"{page}.md").read_text())
    assert numbers == [str(len(SPECS))]


def test_pictures_are_small() -> None:
    large = [p.name for p in (DOCS / "images").iterdir() if p.stat().st_size > 150 * 1024]
    assert large == []


def test_the_tables_of_quality_are_those_of_the_results() -> None:
    for path in (quality_page.PAGE, quality_page.README):
        assert "<!-- made by tools/quality_page.py: " in path.read_text()
        assert quality_page.page(path) == path.read_text()

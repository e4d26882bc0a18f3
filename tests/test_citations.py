"""Every thread has its test in tests/regressions, every test there its thread."""

from __future__ import annotations

from tests.regressions.citations import PAGE, THREADS, citations, page

EXPECTED = {f"{project}#{number}" for project, numbers in THREADS.items() for number in numbers}


def test_every_test_cites_a_thread() -> None:
    found = citations()
    assert len(found) >= 40
    assert [(each.file, each.test) for each in found if not each.threads] == []


def test_every_thread_has_a_test() -> None:
    assert {thread for citation in citations() for thread in citation.threads} == EXPECTED


def test_the_table_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "python -m tests.regressions.citations"

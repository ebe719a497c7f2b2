"""The table of promises names every case, and only tests that there are."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
CASES = {
    *(f"C{n}" for n in (1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14)),
    *(f"N{n}" for n in (1, 2, 3, 4, 5, 7, 8, 9, 11)),
    *(f"M{n}" for n in (1, 2, 3, 4)),
    *(f"H{n}" for n in range(1, 11)),
    "S1",
    "S3",
}


def table() -> list[list[str]]:
    """Promise, cases and tests of each line."""
    section = PAGE.read_text().partition("## Promise, case, test")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| **")]
    assert rows
    return rows


def test_every_case_stands_in_the_table() -> None:
    assert {case for row in table() for case in re.findall(r"\b[CNMHS]\d+\b", row[1])} == CASES


def test_every_test_that_the_table_names_is_there() -> None:
    sources = {path.name: path.read_text() for path in TESTS.rglob("test_*.py")}
    there = {name for text in sources.values() for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    named = {name for row in table() for name in re.findall(r"`(test_\w+(?:\.py)?)`", row[2])}
    assert named - there - sources.keys() == set()


def test_every_case_of_these_tests_stands_in_the_table() -> None:
    found = re.compile(r"^def test_([cnmhs]\d+)_", re.MULTILINE)
    tested = {case.upper() for path in TESTS.rglob("test_*.py") for case in found.findall(path.read_text())}
    assert tested <= CASES

"""What docs/dialects.md shows can be run, and what it calls tested is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from desk import Desk, rows_text

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/dialects.md").read_text()
SNIPPETS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
KEYS = dict.fromkeys(re.findall(r"\w+_KEY", PAGE), "a-key-for-the-documents")


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: re.search(r"model: ([^,]+)", text)[1])  # type: ignore[index]  # every one names its model
def test_every_snippet_passes_check_as_part_of_a_job(desk: Desk, snippet: str) -> None:
    desk.write("rows.csv", rows_text(2))
    head = "name: small\nsource: {path: rows.csv, id: [name]}\nprompt: {user: 'Describe <<name>>.'}\n"
    job = desk.write("job.yaml", f"{head}{snippet}output: {{path: out.parquet}}\n")
    ended = desk.pipeline("check", job, **KEYS)
    assert ended.code == 0, ended.err
    assert "error" not in ended.err


def test_every_journey_that_is_named_exists() -> None:
    written = "".join(path.read_text() for path in (ROOT / "tests/journeys").glob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", PAGE)
    assert len(named) >= 7
    assert [name for name in named if f"def {name}(" not in written] == []

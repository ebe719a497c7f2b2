"""Types found by a pass over all values are taken again where no file has changed, and only there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from source_job import Csv, Job, job, kept, refusal

from pipeline.source import Inferred, open_source
from pipeline.source.files import find_files
from pipeline.source.inferred import mark_of

CSV = "id,amount,when\n1,2.5,2026-11-22\n2,x,2026-11-23\n"
NDJSON = '{"id":1,"amount":2.5,"inner":{}}\n{"id":2,"amount":3,"note":"abc"}\n'


def changed_unseen(path: Path, old: str, new: str) -> None:
    """Change a file so that its size and time stay."""
    before = path.stat()
    path.write_text(path.read_text().replace(old, new))
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def learnt(asked: Job, needed: frozenset[str] | None = None) -> Inferred:
    found = open_source(asked, needed).inferred
    assert found is not None
    again = Inferred.from_json(found.as_json())
    assert again == found
    return again


CELLS = st.sampled_from(
    ["1", "2.5", "007", "true", "2026-11-22", "2026-11-22T10:00:00", "2026-11-22T10:00:00Z", "x", ""]
)
VALUES = st.sampled_from(["1", "2.5", '"x"', '""', "true", "null", "{}", "[]", '{"a":1}', "[1.5]", "[{}]"])
TYPES = st.dictionaries(st.sampled_from("ab"), st.just("string"))


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4), TYPES)
def test_csv_read_with_known_types_is_read_alike(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], types: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("known") / "rows.csv"
    path.write_text("a,b\n" + "".join(f"{one},{other}\n" for one, other in cells))
    assert_alike(job(path, types=types))


@given(st.lists(VALUES, min_size=1, max_size=4), st.lists(VALUES, min_size=1, max_size=4), TYPES)
def test_ndjson_read_with_known_types_is_read_alike(
    tmp_path_factory: pytest.TempPathFactory, first: list[str], second: list[str], types: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("known") / "rows.ndjson"
    # One type a column, so that few examples are refused: mixtures are another test's.
    path.write_text("".join(f'{{"a":{value}}}\n' for value in [first[0]] * len(first)) + f'{{"b":{second[0]}}}\n')
    assert_alike(job(path, types=types))


def assert_alike(asked: Job) -> None:
    reader = open_source(asked)
    again = open_source(asked, known=reader.inferred)
    assert again.kept_schema == reader.kept_schema
    assert again.columns == reader.columns
    assert again.inferred == reader.inferred
    assert repr(list(again.batches())) == repr(list(reader.batches()))


@pytest.mark.parametrize(
    ("name", "text", "old", "new", "error"),
    [
        ("rows.csv", CSV, "2,x,", "x,2,", "source.path: {path}: row 2: column 'id' is 'x', expected a whole number"),
        ("rows.ndjson", NDJSON, '"id":2,', '"id":[],'[:7], "source.path: {path}:2: the line is not JSON"),
    ],
)
def test_known_types_spare_the_pass_over_all_values(
    tmp_path: Path, name: str, text: str, old: str, new: str, error: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    asked = job(path)
    known = learnt(asked)
    changed_unseen(path, old, new)
    known = replace(known, mark=mark_of(find_files([str(path)], "auto", asked.complain), asked.source))
    # Nothing is said of the second line before it is read as a row.
    assert open_source(asked, known=known).inferred == known
    assert refusal(asked, known=known).startswith(error.format(path=path))


@pytest.mark.parametrize(
    "other",
    [
        {"types": {"id": "string"}},
        {"csv": Csv(null_values=["x"])},
        {"csv": Csv(encoding="latin-1")},
        {"format": "csv"},
    ],
)
def test_what_is_read_in_another_way_is_inferred_anew(tmp_path: Path, other: dict[str, Any]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(CSV)
    known = learnt(job(path))
    fresh = open_source(job(path, **other), known=known).inferred
    assert fresh is not None
    assert fresh.mark != known.mark
    assert fresh == learnt(job(path, **other))


def test_a_file_that_grew_is_inferred_anew(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id\n1\n")
    known = learnt(job(path))
    path.write_text("id\n1\nx\n")
    assert kept(job(path), known=known) == [{"id": "1"}, {"id": "x"}]


@pytest.mark.parametrize(
    ("name", "text", "old", "new"),
    [
        ("rows.csv", CSV, "1,2.5,", "x,2.5,"),
        ("rows.csv", CSV, "2,x,", "2,7,"),
        ("rows.ndjson", NDJSON, '"note"', '"memo"'),
    ],
    ids=["text for a number", "a number for text", "another column"],
)
def test_a_file_whose_size_and_time_were_set_back_is_inferred_anew(
    tmp_path: Path, name: str, text: str, old: str, new: str
) -> None:
    """As `rsync -t` and archives leave a file that was mended in place."""
    path = tmp_path / name
    path.write_text(text)
    asked = job(path)
    known = learnt(asked)
    changed_unseen(path, old, new)
    again = open_source(asked, known=known)
    assert (again.columns, again.inferred) == (open_source(asked).columns, learnt(asked))
    assert kept(asked, known=known) == kept(asked)


def test_columns_that_nobody_asked_for_before_are_inferred(tmp_path: Path) -> None:
    for name, text in (("rows.csv", CSV), ("rows.ndjson", '{"id":1,"amount":2.5}\n')):
        path = tmp_path / name
        path.write_text(text)
        known = learnt(job(path, keep="none"), frozenset({"id"}))
        assert known.schema.names == ["id"]
        assert kept(job(path, keep=["amount"]), frozenset({"id", "amount"}), known=known) == kept(
            job(path, keep=["amount"])
        )


@pytest.mark.parametrize(
    "kept_as", [{}, {"mark": "x", "names": [], "schema": "AAAA"}, {"mark": "x", "names": 1, "schema": ""}]
)
def test_what_cannot_be_read_is_not_known(kept_as: dict[str, Any]) -> None:
    assert Inferred.from_json(kept_as) is None


def test_a_file_that_tells_its_types_itself_leaves_nothing_to_know(tmp_path: Path) -> None:
    import polars as pl

    pl.DataFrame({"id": [1]}).write_parquet(tmp_path / "rows.parquet")
    assert open_source(job(tmp_path / "rows.parquet")).inferred is None

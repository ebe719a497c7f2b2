from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from source_job import Csv, job, kept, refusal

from pipeline.source import open_source
from pipeline.source.files import find_files
from pipeline.source.quotes import open_quote

UNCLOSED = "a quote is opened and never closed"
REST = "".join(f"{n},x\n" for n in range(3, 2_001))


def test_a_quote_that_is_never_closed_does_not_eat_the_rest_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "uq2.csv"
    path.write_text(f'id,name\n1,a\n2,"unclosed\n{REST}')
    assert refusal(job(path)) == f"source.path: {path}: line 3: {UNCLOSED}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('a,b\n1,"', 2),
        ('a,b\n1,"x', 2),
        ('a,b\n1,"x""', 2),
        ('a,b\n1,"x""\n2,y\n', 2),
        ('a,b\r\n1,x\r\n2,"y\r\n', 3),
        ('a,b\r1,x\r2,"y\r', 3),
        ('a,b\n1,x"y\n2,"z\n', 3),
        ('a,b\n1,"x"y"\n2,"z\n', 3),
        ('a,b\n"1\n\n2","x\n3,y\n', 4),
        ('a,b\n1,x\n"2,y\n3,z\n', 3),
        ('a,b,c\n1,x,y\n2,"y\n3,z,\n', 3),
        ('a\nx\n"y\nz\n', 3),
        ('a,"b\n1,x\n', 1),
        ('"a,b\n1,x\n', 1),
        ('"', 1),
        ('\n\na,b\n\n1,"x', 5),
        ('a,b\n1,"Caf\u00e9\n2,\u20ac\n', 2),
    ],
)
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252", "utf-8-sig"])
def test_the_line_of_a_quote_that_is_never_closed_is_said(
    tmp_path: Path, text: str, line: int, packing: str, encoding: str
) -> None:
    data = text.encode(encoding)
    path = tmp_path / f"t.csv{packing}"
    if packing:
        data = gzip.compress(data) if packing == ".gz" else zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)
    assert refusal(job(path, csv=Csv(encoding=encoding))) == f"source.path: {path}: line {line}: {UNCLOSED}"


@pytest.mark.parametrize("separator", ["\t", ";", "|", " ", "x"])
def test_a_quote_opens_after_the_separator_of_the_file(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f'a{separator}b\n1{separator},"2\n3{separator}"4\n')
    assert refusal(job(path, csv=Csv(separator=separator))) == f"source.path: {path}: line 3: {UNCLOSED}"


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('a,b\n1,"x"', [("1", "x")]),
        ('a,b\n1,"x"\n', [("1", "x")]),
        ('a,b\n1,"x"\r\n\r\n', [("1", "x")]),
        ('a,b\n1,""', [("1", "")]),
        ('a,b\n1,""""', [("1", '"')]),
        ('a,b\n1,"x\n"', [("1", "x\n")]),
        ('a,b\n1,x"', [("1", 'x"')]),
        ('a,b\n1,"x"y"', [("1", 'xy"')]),
        ('a,b\n1, "x', [("1", ' "x')]),
        ("a,b\n1,", [("1", None)]),
        ('a,b\n1,"x""y"\n', [("1", 'x"y')]),
    ],
)
def test_quotes_that_are_closed_or_mere_text_are_read(
    tmp_path: Path, text: str, rows: list[tuple[str, str | None]]
) -> None:
    (tmp_path / "t.csv").write_text(text, newline="")
    found = kept(job(tmp_path / "t.csv", types={"a": "string", "b": "string"}))
    assert [(row["a"], row["b"]) for row in found] == rows


@pytest.mark.parametrize("text", ['a\n"x"', 'a\n"x"\n', "a\nx", 'a\nx\n\n\n"y"'])
def test_a_file_of_one_column_has_its_own_rows_only(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert [row["a"] for row in kept(job(tmp_path / "t.csv"))] == [cell for cell in ("x", "y") if cell in text]


def test_a_row_that_ate_the_rest_is_not_given_away_where_that_was_all_the_job_wanted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f'id,name\n1,a\n2,"unclosed\n{REST}')
    types = {"id": "integer", "name": "string"}
    assert refusal(job(path, types=types, limit=2)) == f"source.path: {path}: line 3: {UNCLOSED}"
    batches = open_source(job(path, types=types, columns=["id"], limit=2), frozenset({"id"})).batches()
    with pytest.raises(Exception, match=f"line 3: {UNCLOSED}"):
        next(batches)


def test_a_header_larger_than_a_block_is_read(tmp_path: Path) -> None:
    name = "n" * (3 << 19)
    (tmp_path / "t.csv").write_text(f"a,{name}\n1,2\n")
    assert open_source(job(tmp_path / "t.csv")).columns == ("a", name)


PIECES = st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", "x", "\u20ac", "a,b", '\n1,"', '",2\n']), max_size=14)


@example([",", '"', '"', '"'], 1)
@given(PIECES, st.integers(1, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_open_quote_is_found_wherever_chunks_end(tmp_path: Path, pieces: list[str], chunk: int) -> None:
    text = "".join(pieces)
    path = tmp_path / "t.csv"
    path.write_text(text, newline="")
    [file] = find_files([str(path)], "csv", job(path).complain) if text else [None]
    if file is None:
        return
    found = open_quote(file, "utf8", ",", chunk=chunk)
    # A quote that ends the text closes what is open and opens nothing else, unless it was to be doubled.
    swallowed = list(csv.reader(io.StringIO(text + "\nend\n", newline="")))[-1] != ["end"]
    assert (found is not None) == swallowed
    if found is not None:
        line = text.replace("\r\n", "\n").split("\n")[found - 1]
        assert '"' in line

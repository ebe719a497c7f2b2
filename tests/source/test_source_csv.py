# ruff: noqa: DTZ001 - a table may hold local times, which have no zone
from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from source_job import Csv, job, kept, refusal, refused, rows

from pipeline.errors import JobError
from pipeline.source import open_source
from pipeline.source.kinds import Inference


def column(tmp_path: Path, *cells: str, **options: Any) -> list[Any]:
    """One column of a CSV file, beside another that is never empty."""
    path = tmp_path / "t.csv"
    path.write_text("v,other\n" + "".join(f"{cell},x\n" for cell in cells))
    return [row["v"] for row in kept(job(path, **options))]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "-2", "0"], [1, -2, 0]),
        (["1", "2.5", "1e3"], [1.0, 2.5, 1000.0]),
        (["1", "", "3"], [1, None, 3]),
        (["1", '""', "3"], [1, None, 3]),
        (["true", "False", "TRUE"], [True, False, True]),
        (["2024-01-31", ""], [date(2024, 1, 31), None]),
        (["2024-01-31", "2024-02-01 10:30"], [datetime(2024, 1, 31), datetime(2024, 2, 1, 10, 30)]),
        (["2024-01-31T10:00:00+02:00"], [datetime(2024, 1, 31, 8, tzinfo=UTC)]),
        (["007", "1"], ["007", "1"]),
        (["00.5", "1"], ["00.5", "1"]),
        (["0", "0.5"], [0.0, 0.5]),
        (["+4915112345678"], ["+4915112345678"]),
        (["0x1F"], ["0x1F"]),
        (["nan", "1.5"], ["nan", "1.5"]),
        (["inf"], ["inf"]),
        (["1e999"], ["1e999"]),
        (["9007199254740993"], [9007199254740993]),
        (["9007199254740993", "0.5"], ["9007199254740993", "0.5"]),
        (["0.5", "9007199254740993"], ["0.5", "9007199254740993"]),
        (["99999999999999999999"], ["99999999999999999999"]),
        (["true", "1"], ["true", "1"]),
        (["1", "true"], ["1", "true"]),
        (["0000-01-01"], ["0000-01-01"]),
        (["2024-01-01 10:00", "2024-01-01T10:00Z"], ["2024-01-01 10:00", "2024-01-01T10:00Z"]),
        (["2024-01-01", "12"], ["2024-01-01", "12"]),
        ([" 1", "2"], [" 1", "2"]),
        (["", ""], [None, None]),
        (["a", ""], ["a", None]),
        (["a", '""'], ["a", ""]),
        (["NULL", "NA", "-"], ["NULL", "NA", "-"]),
    ],
)
def test_a_column_takes_the_narrowest_type_that_loses_nothing(
    tmp_path: Path, cells: list[str], values: list[Any]
) -> None:
    found = column(tmp_path, *cells)
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


FILLER = "x" * 500  # makes two blocks of a megabyte


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        ("1", "2.5", float),
        ("2.5", "1", float),
        ("1", "007", str),
        ("1.5", "007", str),
        ("2024-01-01", "2024-01-01 10:00", datetime),
        ("2024-01-01 10:00", "2024-01-01", datetime),
        ("true", "1", str),
        ("1", "true", str),
        ("", "1", int),
        ("1", "", int),
        ("9007199254740993", "0.5", str),
        ("1", "x", str),
    ],
)
def test_types_hold_over_the_whole_file_not_the_first_block(
    tmp_path: Path, first: str, last: str, expected: type
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("v,w\n" + f"{first},{FILLER}\n" * 5_000 + f"{last},{FILLER}\n")
    seen = set()
    for batch in open_source(job(path, columns=["v"])).batches():
        seen |= {type(value) for value in batch.kept.column("v").unique().to_pylist()}
    assert seen - {type(None)} == {expected}


def test_types_hold_over_all_files_together(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,x\n")
    (tmp_path / "2.csv").write_text("b,a\ny,2.5\n")
    assert kept(job(tmp_path)) == [{"a": 1.0, "b": "x"}, {"a": 2.5, "b": "y"}]


CELLS = ["", "1", "-7", "007", "2.5", "1e3", "9007199254740993", "true", "2024-01-01", "2024-01-01 10:00", "x", None]


@example([["9007199254740993"], ["1"], ["2.5"]])
@given(st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=3), min_size=1, max_size=4))
def test_an_inferred_type_does_not_depend_on_where_blocks_end(blocks: list[list[str | None]]) -> None:
    one_by_one, at_once = Inference(), Inference()
    for block in blocks:
        one_by_one.see(pa.array(block, pa.string()))
    at_once.see(pa.array([cell for block in blocks for cell in block], pa.string()))
    assert one_by_one.settled() == at_once.settled()


@pytest.mark.parametrize(
    ("kind", "cells", "values"),
    [
        ("string", ["1", "2"], ["1", "2"]),
        ("integer", ["007", ""], [7, None]),
        ("number", ["1", "nan-free"], None),
        ("number", ["1", "2"], [1.0, 2.0]),
        ("boolean", ["1", "0"], [True, False]),
        ("date", ["2024-01-01"], [date(2024, 1, 1)]),
        ("datetime", ["2024-01-01"], [datetime(2024, 1, 1)]),
        ("datetime", ["2024-01-01T00:00Z"], [datetime(2024, 1, 1, tzinfo=UTC)]),
    ],
)
def test_types_are_taken_from_the_job_where_it_names_them(
    tmp_path: Path, kind: str, cells: list[str], values: list[Any] | None
) -> None:
    if values is None:
        with pytest.raises(JobError, match=r"row 2: column 'v' is 'nan-free', expected a number such as 1\.5"):
            column(tmp_path, *cells, types={"v": kind})
    else:
        assert column(tmp_path, *cells, types={"v": kind}) == values


def test_a_value_that_does_not_fit_its_type_is_found_among_many(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    line = f"1,{FILLER}\n"
    path.write_text("a,b\n" + line * 5_000 + f"x1,{FILLER}\n" + line * 100)
    message = f"source.types.a: {path}: row 5001: column 'a' is 'x1', expected a whole number such as 12"
    assert refusal(job(path, types={"a": "integer"})) == message


def test_null_values_are_added_to_the_empty_cell(tmp_path: Path) -> None:
    assert column(tmp_path, "1", "NA", "", csv=Csv(null_values=["NA"])) == [1, None, None]


TEXTS = {
    "quoted newlines and quotes": b'a,b\n"x\ny","say ""hi"", ok"\n',
    "byte order mark": b'\xef\xbb\xbfa,b\n"x\ny","say ""hi"", ok"\n',
    "crlf": b'a,b\r\n"x\ny","say ""hi"", ok"\r\n',
    "blank lines": b'\n\na,b\n\n"x\ny","say ""hi"", ok"\n\n\n',
    "no newline at the end": b'a,b\n"x\ny","say ""hi"", ok"',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_spellings_of_csv_are_read_alike(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(text)
    assert rows(job(tmp_path / "t.csv")) == [("t.csv:1", [{"a": "x\ny", "b": 'say "hi", ok'}])]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1", "cp1252", "utf-8-sig", "UTF8"])
def test_other_encodings_are_read_where_the_job_names_them(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes("name\nCafé\n".encode(encoding))
    assert kept(job(tmp_path / "t.csv", csv=Csv(encoding=encoding))) == [{"name": "Café"}]


@pytest.mark.parametrize(
    ("data", "encoding", "expected"),
    [
        (
            "a\nx\n".encode("utf-16"),
            "utf-8",
            "source.csv.encoding: {} looks like UTF-16, not UTF-8; set source.csv.encoding to utf-16",
        ),
        (
            b'a,b\n"1\n",2\n\n3,\xe9\n',
            "utf-8",
            "source.csv.encoding: {}: line 5 is not utf-8; set another source.csv.encoding, such as cp1252",
        ),
        (
            b"a,\xe9\n1,2\n",
            "utf-8",
            "source.csv.encoding: {} is not utf-8; set another source.csv.encoding, such as cp1252",
        ),
        (
            b"a\nx\n",
            "utf-16",
            "source.csv.encoding: {} is not utf-16; set another source.csv.encoding, such as cp1252",
        ),
        (
            b"a\nx\n",
            "klingon",
            "source.csv.encoding: unknown encoding 'klingon', expected one such as utf-8, utf-16 or cp1252",
        ),
        (b"a,b\n1,2\n3\n4,5\n", "utf-8", "source.path: {}: line 3 has 1 cell, the header has 2"),
        (b'a,b\n"1\n\n",2\n\n3,4,5\n', "utf-8", "source.path: {}: line 6 has 3 cells, the header has 2"),
        (b"\n\n", "utf-8", "source.path: {} is empty: not even a header"),
        (b"a,b,a\n1,2,3\n", "utf-8", "source.path: {} has 2 columns named 'a'; each needs a name of its own"),
    ],
)
def test_text_that_cannot_be_read_is_one_error_with_its_place(
    tmp_path: Path, data: bytes, encoding: str, expected: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    assert refusal(job(path, csv=Csv(encoding=encoding))) == expected.format(path)


def test_a_ragged_row_far_down_is_found_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + f"1,{FILLER}\n" * 9_998 + "1\n1,two\n")
    assert refusal(job(path)) == f"source.path: {path}: line 10000 has 1 cell, the header has 2"


def test_a_ragged_row_is_raised_while_reading_where_no_type_had_to_be_found_before(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + f"1,{FILLER}\n" * 9_998 + "1\n")
    reader = open_source(job(path, types={"a": "integer", "b": "string"}))
    done = 0
    batches = reader.batches()
    while done < 4_000:
        done += len(next(batches).rows)
    with pytest.raises(JobError, match="line 10000 has 1 cell, the header has 2"):
        list(batches)


def test_a_message_about_a_row_does_not_quote_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\nsecret\n")
    assert "secret" not in refusal(job(path))


def test_a_header_alone_is_no_rows(tmp_path: Path) -> None:
    for text in ("a,b\n", "a,b"):
        (tmp_path / "t.csv").write_text(text)
        reader = open_source(job(tmp_path / "t.csv"))
        assert list(reader.batches()) == []
        assert reader.columns == ("a", "b")


def test_nul_and_other_odd_characters_come_through(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\nx\x00y,\x1b[31m\n")
    assert kept(job(tmp_path / "t.csv")) == [{"a": "x\0y", "b": "\x1b[31m"}]


def test_a_cell_of_50_megabytes_comes_through_and_rows_around_it_once(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with path.open("w") as file:
        file.write("a,b\n" + f"1,{FILLER}\n" * 4_000 + '2,"')
        for _ in range(50):
            file.write("y\n" * (1 << 19))
        file.write('"\n3,z\n')
    count = last = longest = 0
    types = {"a": "integer", "b": "string"}  # so that no earlier pass has found out how large rows are
    for batch in open_source(job(path, types=types, keep="none")).batches():
        for row in batch.rows:
            count += 1
            last = row.rows[0]["a"]
            longest = max(longest, len(row.rows[0]["b"]))
    assert (count, last, longest) == (4_002, 3, 50 << 20)


@pytest.mark.parametrize(("end", "what"), [("", "line 2: a quote is opened and never closed"), ('"\n', "")])
def test_a_row_larger_than_a_block_is_said_with_its_quote_if_that_is_why(tmp_path: Path, end: str, what: str) -> None:
    path = tmp_path / "t.csv"
    with path.open("w") as file:
        file.write('a,b\n1,"x\n')
        for _ in range(140):
            file.write("2,y\n" * (1 << 18))
        file.write(end)
    assert refusal(job(path)) == f"source.path: {path}: {what or 'a row is larger than 64 MiB'}"


def test_separators_follow_the_suffix_unless_named(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a\tb,c\n1\t2\n")
    (tmp_path / "s.csv").write_text("a;b,c\n1;2\n")
    (tmp_path / "u.tsv").write_text("a;b\n1;2\n")
    assert kept(job(tmp_path / "t.tsv")) == [{"a": 1, "b,c": 2}]
    assert kept(job(tmp_path / "s.csv", csv=Csv(separator=";"))) == [{"a": 1, "b,c": 2}]
    assert kept(job(tmp_path / "u.tsv", csv=Csv(separator=";"))) == [{"a": 1, "b": 2}]


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ("a\n1\n", "source.path: {0}/2.csv lacks column 'b', which {0}/1.csv has"),
        ("a,b,c\n1,2,3\n", "source.path: {0}/2.csv has column 'c', which {0}/1.csv lacks"),
    ],
)
def test_files_of_a_glob_have_the_same_columns(tmp_path: Path, second: str, expected: str) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text(second)
    assert refusal(job(tmp_path)) == expected.format(tmp_path)


def test_a_file_that_changes_under_the_reader_is_an_error_not_a_wrong_type(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    reader = open_source(job(path))
    path.write_text("a\nx\n")
    with pytest.raises(JobError, match="row 1: column 'a' is 'x', expected a whole number"):
        list(reader.batches())


@pytest.mark.parametrize(("mark", "separator"), [(";", "';'"), ("\t", '"\\t"'), ("|", "'|'")])
def test_an_unknown_column_of_a_header_read_as_one_shows_the_separator_to_set(
    tmp_path: Path, mark: str, separator: str
) -> None:
    (tmp_path / "t.csv").write_text(f"a{mark}b\n1{mark}2\n")
    hint = f"; its header was read as one column: set source.csv.separator to {separator}"
    said = refused(job(tmp_path / "t.csv", id=["a"], where="b > 1"))
    assert [path for path, _ in said] == ["source.id.0", "source.where"]
    assert all(message.endswith(hint) for _, message in said)
    assert kept(job(tmp_path / "t.csv", id=["a"], csv=Csv(separator=mark))) == [{"a": 1, "b": 2}]


AS_ONE = "its header was read as one column: set source.csv.separator to"
NOTES = "its header was read from a line that begins with #: lines before the header are not skipped, remove them"


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("a;b", f"{AS_ONE} ';'"),
        ("a\tb", f'{AS_ONE} "\\t"'),
        ("\ufeff#a|b", f"{AS_ONE} '|'"),
        ("# exported; by us", NOTES),
        ("\ufeff#exported", NOTES),
        ("a", ""),
    ],
)
def test_a_row_of_more_cells_than_a_header_read_as_one_shows_what_to_do(tmp_path: Path, header: str, hint: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\n1,5\n")
    said = refusal(job(path))
    assert said == f"source.path: {path}: line 2 has 2 cells, the header has 1{hint and '; '}{hint}"


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("# exported,by us", f"; there is # exported; {NOTES}"),
        ("#exported", f"; there is #exported; {NOTES}"),
        ("#id,name", "; did you mean #id?"),
        ("#,name", "; there are #, name"),
    ],
)
def test_a_line_of_notes_before_the_header_is_said_where_a_column_is_missed(
    tmp_path: Path, header: str, hint: str
) -> None:
    (tmp_path / "t.csv").write_text(f"{header}\n")
    assert refusal(job(tmp_path / "t.csv", id=["id"])) == f"source.id.0: the source has no column 'id'{hint}"

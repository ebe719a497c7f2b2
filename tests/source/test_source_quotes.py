from __future__ import annotations

import csv
import gzip
import io
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from source_job import Csv, Job, job, kept, refusal

from pipeline.source import open_source
from pipeline.source.files import find_files
from pipeline.source.inferred import mark_of
from pipeline.source.quotes import Fault, Quotes, Walk, find_fault

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
        ('a,b\n1,"x"\r2,y\r', [("1", "x"), ("2", "y")]),
        ("a,b\n1,5'10\" tall\n", [("1", "5'10\" tall")]),
        ('a,b\n1,x""y\n2,z"\n3,y"z"\n', [("1", 'x""y'), ("2", 'z"'), ("3", 'y"z"')]),
        ('"a","b"\n1,"{""x"": [1, ""y""]}"\n', [("1", '{"x": [1, "y"]}')]),
        ('\ufeff"a","b"\n1,"""x"""\n', [("1", '"x"')]),
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


# Text after a closing quote

GOES_ON = (
    "more text follows the quote that closes it; a quote inside of a quoted cell is written twice, and a cell that"
)


def goes_on(path: Path, opened: int, line: int) -> str:
    return (
        f"source.path: {path}: line {opened}: a quote opens a cell, and on line {line} {GOES_ON} begins with one is "
        "quoted as a whole"
    )


STRAY = 'id,text\n1,fine\n2,"unfinished\n3,x\n4,y\n5,"next stray\n6,z\n'


@pytest.mark.parametrize(
    ("text", "opened", "line"),
    [
        (STRAY, 3, 6),
        (STRAY.replace("\n", "\r\n"), 3, 6),
        (STRAY.replace("\n", "\r"), 3, 6),
        (STRAY + '7,"quoted"\n', 3, 6),
        ('a,b\n2,"hello" you\n', 2, 2),
        ('a,b\n2,"x" \n', 2, 2),
        ('a,b\n2, "x"\n3,"x" ,\n', 3, 3),
        ('a,b\n1,"x"y"\n2,"z\n', 2, 2),
        ('a,b\n1,""x\n', 2, 2),
        ('a,b\n1,"""x"" "y\n', 2, 2),
        ('a,b\n1,"{""x"": 1}" }\n', 2, 2),
        ('a,b\n1,"\n\n\n"x\n', 2, 5),
        ('a,b\n1,"x\n2,"y\n3,z"w"\n', 2, 3),
        ('a,b\n1,x"\n2,"y"z\n', 3, 3),
        ('a,b\n1,"x\n2,"é\n', 2, 3),
        ('"a" x,b\n1,y\n', 1, 1),
        ('"a,b\n1,"x"\n', 1, 2),
        ('\n\n"a"b,c\n1,y\n', 3, 3),
        ('a\n"x"y', 2, 2),
        ('a\n"x""y" z', 2, 2),
    ],
)
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "cp1252", "utf-8-sig"])
def test_text_after_a_closing_quote_is_refused_with_the_lines_of_both(
    tmp_path: Path, text: str, opened: int, line: int, packing: str, encoding: str
) -> None:
    data = text.encode(encoding)
    path = tmp_path / f"t.csv{packing}"
    if packing:
        data = gzip.compress(data) if packing == ".gz" else zstandard.ZstdCompressor().compress(data)
    path.write_bytes(data)
    assert refusal(job(path, csv=Csv(encoding=encoding))) == goes_on(path, opened, line)


@pytest.mark.parametrize("separator", ["\t", ";", "|", " ", "x", "]", "^", "-", "\\", "'"])
def test_what_may_follow_a_closing_quote_is_the_separator_of_the_file(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f'a{separator}b\n"1"{separator}2\n3{separator}"4",\n')
    assert refusal(job(path, csv=Csv(separator=separator))) == goes_on(path, 3, 3)


FILLER = "y" * 990 + ', "" z'  # of which 2,000 rows are four blocks
TYPES = {"id": "integer", "text": "string", "more": "string"}


def quoted_rows(first: int, last: int) -> str:
    return "".join(f'{row},"{FILLER}",z\n' for row in range(first, last))


@pytest.mark.parametrize("types", [{}, TYPES], ids=["inferred", "given"])
@pytest.mark.parametrize("inches", ["", "1,5'10\" tall,z\n"], ids=["quoted cells", "quotes that are text too"])
def test_two_stray_quotes_in_blocks_far_apart_are_found(tmp_path: Path, types: dict[str, str], inches: str) -> None:
    path = tmp_path / "t.csv"
    tall, swallowed = inches * 300, "4,y,z\n" * 400_000
    rows = quoted_rows(0, 2_000)
    path.write_text(f'id,text,more\n{rows}{tall}3,"unfinished\n{swallowed}5,"next stray,z\n{rows}{tall}')
    opened = 2_002 + tall.count("\n")
    assert refusal(job(path, types=types)) == goes_on(path, opened, opened + 400_001)


def test_the_rule_holds_where_types_are_known_from_an_earlier_pass(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = f"id,text,more\n{quoted_rows(0, 2_000)}"
    path.write_text(rows)
    asked = job(path)
    known = open_source(asked).inferred
    assert known is not None
    path.write_text(f'{rows}1,"x\n2,"y,z\n')
    known = replace(known, mark=mark_of(find_files([str(path)], "auto", asked.complain), asked.source))
    assert open_source(asked, known=known).inferred == known  # without a pass over all rows
    assert refusal(asked, known=known) == goes_on(path, 2_002, 2_003)


def test_no_more_is_looked_at_than_was_asked_for() -> None:
    quotes = Quotes(",", most=4)
    assert all([quotes.see(b"a,b\n"), quotes.see(b'1,"x"y\n')])
    assert not Quotes(",", most=5).see(b'1,"x"y\n')


def test_the_second_file_is_followed_as_the_first(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,text\n1,'x'\n")
    (tmp_path / "2.csv").write_text(STRAY)
    assert refusal(job(tmp_path)) == goes_on(tmp_path / "2.csv", 3, 6)


def test_rows_around_a_stray_quote_are_not_given_away_where_those_before_were_all_the_job_wanted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f'id,text,more\n{quoted_rows(0, 2_000)}1,"x\n{quoted_rows(0, 2_000)}')
    assert len(kept(job(path, types=TYPES, limit=100))) == 100
    assert refusal(job(path, types=TYPES, limit=2_001)) == goes_on(path, 2_002, 2_003)


def test_a_message_about_quotes_does_not_quote_the_text(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('id,text\n1,"secret" secret\n')
    assert "secret" not in refusal(job(path))


SEPARATORS = [character for character in map(chr, [9, *range(32, 127)]) if character != '"']
TEXT = st.text(st.one_of(st.sampled_from('",\r\n ;x'), st.characters(exclude_categories=["Cs"])), max_size=8)
QUOTINGS = [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]


@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=6),
    st.sampled_from([",", ";", "\t", *SEPARATORS]),
    st.sampled_from(QUOTINGS),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_whatever_the_csv_module_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[tuple[str, str, str]],
    separator: str,
    quoting: Literal[0, 1, 2],
    encoding: str,
) -> None:
    path = tmp_path_factory.mktemp("written") / "t.csv"
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=quoting)  # ends lines in \r\n, and so quotes both
        writer.writerows([("a", "b", "c"), *table])
    asked = job(path, csv=Csv(separator=separator, encoding=encoding), types=dict.fromkeys("abc", "string"))
    bare = quoting == csv.QUOTE_MINIMAL  # then an empty cell is not quoted, and so is null
    expected = [
        {name: cell if cell or not bare else None for name, cell in zip("abc", row, strict=True)} for row in table
    ]
    assert kept(asked) == expected


def by_character(text: str, separator: str) -> Fault | None:
    """The rule in the plainest way."""
    state, line, opened = "start", 1, 0
    for at, character in enumerate(text):
        ends = character in (separator, "\r", "\n")
        if state == "closing" and character != '"' and not ends:
            return Fault(opened, line)
        if state == "inside":
            state = "closing" if character == '"' else "inside"
        elif state == "closing" and character == '"':
            state = "inside"
        elif state == "start" and character == '"':
            state, opened = "inside", line
        else:
            state = "start" if ends else "text"
        line += character == "\n" or (character == "\r" and text[at + 1 : at + 2] != "\n")
    return Fault(opened, None) if state == "inside" else None


PIECES = st.lists(
    st.sampled_from(['"', '"', '""', ",", ",", "\n", "\r", "\r\n", "x", ";", "\u20ac", '\n1,"', '",2\n', '"",""']),
    max_size=16,
).map("".join)


@example(',""""', 1, "", ",")
@example('x""y"\n"', 2, "", ",")
@given(PIECES, st.integers(1, 9), st.sampled_from(["", "\ufeff"]), st.sampled_from([",", ";", "x"]))
@settings(max_examples=400)
def test_quotes_are_followed_as_character_by_character_wherever_chunks_end(
    text: str, chunk: int, mark: str, separator: str
) -> None:
    expected = by_character(text, separator)
    data = text.encode() + b"\n"
    for follow in (Walk(separator), Quotes(separator)):
        refused = not all(
            follow.see((b"" if at else mark.encode()) + data[at : at + chunk]) for at in range(0, len(data), chunk)
        )
        assert refused == (expected is not None and expected.goes_on is not None)
        assert refused or follow.inside == (expected is not None)


@given(PIECES, st.integers(3, 9), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_fault_is_told_by_its_lines_wherever_chunks_end(tmp_path: Path, text: str, chunk: int, encoding: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(f"{text}\n".encode(encoding))
    [file] = find_files([str(path)], "csv", job(path).complain)
    utf8 = "utf8" if encoding.startswith("utf-8") else encoding
    assert find_fault(file, utf8, ",", chunk=chunk) == by_character(text, ",")


@given(st.lists(PIECES.map(lambda piece: piece.replace("\r", "")), min_size=1, max_size=3))
def test_a_file_is_refused_just_where_the_rule_says_so(
    tmp_path_factory: pytest.TempPathFactory, cells: list[str]
) -> None:
    text = "a\n" + "".join(f"{cell}\n" for cell in cells)
    path = tmp_path_factory.mktemp("ruled") / "t.csv"
    path.write_text(text, newline="")
    asked = job(path, csv=Csv(separator="~"))
    fault = by_character(text, "~")
    if fault is None:
        expected = [row[0] for row in csv.reader(io.StringIO(text, newline=""), delimiter="~", strict=True) if row]
        assert [row["a"] or "" for row in kept(replace_types(asked))] == expected[1:]
    else:
        assert refusal(asked) == f"source.path: {path}: {fault}"


def replace_types(asked: Job) -> Job:
    return replace(asked, source=replace(asked.source, types={"a": "string"}))

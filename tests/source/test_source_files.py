from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from source_job import job, refusal, refused, rows

from pipeline.source import open_source


def write(path: Path, text: str = "a\n1\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def names(*patterns: Path | str) -> list[str]:
    return [name for name, _ in rows(job(*patterns))]


def test_files_of_a_glob_come_in_byte_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b", "B", "é", "a-1", "a", "z"):
        write(tmp_path / f"{name}.csv")
    assert names(tmp_path / "*.csv") == ["B.csv:1", "a-1.csv:1", "a.csv:1", "b.csv:1", "z.csv:1", "é.csv:1"]


def test_a_list_keeps_its_order_and_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    b, _ = write(tmp_path / "b.csv"), write(tmp_path / "a.csv")
    (tmp_path / "c.csv").symlink_to(b)
    assert names(b, tmp_path / "*.csv", tmp_path) == ["b.csv:1", "a.csv:1"]


def test_a_directory_means_the_supported_files_in_and_below_it_apart_from_hidden_ones(tmp_path: Path) -> None:
    for name in ("x.csv", "deep/y.csv", "notes.txt", ".hidden.csv", "_temporary/z.csv", ".git/z.csv", "_SUCCESS.csv"):
        write(tmp_path / name)
    assert names(tmp_path) == ["y.csv:1", "x.csv:1"]


def test_two_stars_reach_any_depth(tmp_path: Path) -> None:
    for name in ("x.csv", "1/2/y.csv"):
        write(tmp_path / name)
    assert names(tmp_path / "**" / "*.csv") == ["y.csv:1", "x.csv:1"]


def test_files_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for name in ("1/x.csv", "2/x.csv"):
        write(tmp_path / name)
    assert names(tmp_path / "*" / "x.csv") == ["1/x.csv:1", "2/x.csv:1"]


def test_a_name_with_brackets_that_exists_is_no_glob(tmp_path: Path) -> None:
    assert names(write(tmp_path / "a[1].csv")) == ["a[1].csv:1"]


EMPTY_NIGHT = "; to accept an empty night set expect.min_rows: 0"


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.tab", "t.ndjson", "t.jsonl", "t.parquet", "T.CSV"])
def test_the_suffixes_tell_format_and_compression(tmp_path: Path, name: str, suffix: str) -> None:
    plain = tmp_path / "plain"
    kind = name.lower().split(".")[1]
    if kind == "parquet":
        pq.write_table(pa.table({"a": [1], "b": ["x"]}), plain)
    else:
        tabbed = "a\tb\n1\tx\n"
        write(plain, {"csv": "a,b\n1,x\n", "tsv": tabbed, "tab": tabbed}.get(kind, '{"a": 1, "b": "x"}\n'))
    data = plain.read_bytes()
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes({"": data, ".gz": gzip.compress(data), ".zst": zstandard.compress(data)}[suffix])
    assert rows(job(path), spill=tmp_path) == [(f"{name}{suffix}:1", [{"a": 1, "b": "x"}])]
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted([plain.name, path.name])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("reading.csv", "source.path: no such file: {}/reading.csv; did you mean readings.csv?"),
        ("no/such/x.csv", "source.path: no such file: {0}/no/such/x.csv; of its folders, {0} is the last that exists"),
        ("*.parquet", f"source.path: no file matches {{}}/*.parquet{EMPTY_NIGHT}"),
        ("no/*.csv", f"source.path: no file matches {{0}}/no/*.csv{EMPTY_NIGHT}"),
        ("fold*", "source.path: {0}/fold* matches directories only; to read the files below them write {0}/fold/**/*"),
        (
            "folder",
            (
                "source.path: {}/folder holds no file of a supported format "
                f"(.parquet, .pq, .csv, .tsv, .tab, .ndjson, .jsonl, .gz, .zst){EMPTY_NIGHT}"
            ),
        ),
        (
            "odd.txt",
            (
                "source.path: {}/odd.txt: its name does not tell the format; known are .parquet, .pq, .csv, "
                ".tsv, .tab, .ndjson, .jsonl, also .gz and .zst; or set source.format"
            ),
        ),
        ("empty.csv", "source.path: {}/empty.csv is empty (0 bytes)"),
        ("pipe.csv", "source.path: {}/pipe.csv is not a regular file"),
        ("broken.csv", "source.path: {}/broken.csv: no such file or directory"),
        ("nul\0.csv", "source.path: '{}/nul\\x00.csv' is not a path: it holds a NUL"),
    ],
)
def test_a_path_that_leads_nowhere_is_said_with_what_may_have_been_meant(
    tmp_path: Path, pattern: str, expected: str
) -> None:
    for name in ("readings.csv", "folder/notes.txt", "odd.txt"):
        write(tmp_path / name)
    write(tmp_path / "empty.csv", "")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "broken.csv").symlink_to("nowhere")
    assert refusal(job(f"{tmp_path}/{pattern}")) == expected.format(tmp_path)


@contextmanager
def without_rights() -> Iterator[None]:
    """As somebody who owns nothing, where we are root, who may read everything."""
    user = os.geteuid()
    if user:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.parquet", "a.csv.gz", "a.parquet.zst"])
def test_a_file_that_may_not_be_read_is_said(name: str) -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = write(Path(folder) / name)
        path.chmod(0)
        with without_rights():
            assert refusal(job(path)) == f"source.path: {path}: permission denied"


def test_a_folder_that_may_not_be_entered_is_said() -> None:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        inner = write(Path(folder) / "inner" / "a.csv").parent
        inner.chmod(0)
        with without_rights():
            found = [refusal(job(pattern)) for pattern in (inner, inner / "a.csv")]
        inner.chmod(0o700)
    assert found == [f"source.path: {inner}: permission denied", f"source.path: {inner}/a.csv: permission denied"]


@pytest.mark.parametrize("pattern", ["/" + "x" * 4_096, "/tmp/" + "x/" * 2_048 + "*.csv"])
def test_a_path_too_long_for_the_system_is_refused(pattern: str) -> None:
    assert refusal(job(pattern)).startswith("source.path: ")


def test_a_source_has_one_format(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    write(tmp_path / "b.ndjson", '{"a":1}')
    message = f"{tmp_path}/a.csv is csv and {tmp_path}/b.ndjson is ndjson: a source has one format"
    assert refused(job(tmp_path)) == [("source.path", message)]
    assert [name for name, _ in rows(job(tmp_path, format="csv"))] == ["a.csv:1"]


def test_a_named_format_needs_no_suffix(tmp_path: Path) -> None:
    assert rows(job(write(tmp_path / "odd.txt"), format="csv")) == [("odd.txt:1", [{"a": 1}])]


def test_the_fingerprint_changes_with_path_size_mtime_and_order(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.csv"), write(tmp_path / "b.csv")
    os.utime(a, ns=(0, 10**18))

    def now(*paths: Path) -> str:
        return open_source(job(*paths)).fingerprint

    before = now(a, b)
    assert before == now(a, b)
    assert int(before, 16) >= 0
    others = {now(b, a), now(a)}
    os.utime(a, ns=(0, 10**18 + 1))
    others.add(now(a, b))
    write(a, "a\n12\n")
    os.utime(a, ns=(0, 10**18))
    others.add(now(a, b))
    assert len(others - {before}) == 4


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", ["t.csv", "t.ndjson", "t.parquet"])
def test_a_cut_compressed_file_is_one_error_that_names_it(tmp_path: Path, name: str, suffix: str) -> None:
    data = os.urandom(5_000).hex().encode()
    path = tmp_path / f"{name}{suffix}"
    packed = gzip.compress(data) if suffix == ".gz" else zstandard.compress(data)
    path.write_bytes(packed[: len(packed) // 2])
    assert str(path) in refusal(job(path))

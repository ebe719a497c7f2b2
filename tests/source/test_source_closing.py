"""Files that are given up, for whatever reason, are let go at once: also while an error is being handled."""

from __future__ import annotations

import gc
import io
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_job import job

from pipeline.errors import JobError, StorageError
from pipeline.source import open_source
from pipeline.source.streams import Extended
from pipeline.source.unique import find_twice

ROWS = 20_000
DESCRIPTORS = Path("/proc/self/fd")

pytestmark = pytest.mark.skipif(not DESCRIPTORS.is_dir(), reason="open files cannot be listed here")


@pytest.fixture(autouse=True)
def without_the_collector() -> Iterator[None]:
    """Nothing is closed merely because a cycle was found."""
    gc.disable()
    yield
    gc.enable()


def held(folder: Path) -> list[str]:
    """Names of files below a folder that this process has open."""
    links = []
    for entry in DESCRIPTORS.iterdir():
        try:
            links.append(entry.readlink())
        except FileNotFoundError:  # that of the listing itself
            continue
    return [link.name for link in links if link.is_relative_to(folder)]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"t.{kind}"
    numbers, texts = list(range(ROWS)), ["x" * 300] * ROWS
    if kind == "parquet":
        pq.write_table(pa.table({"n": numbers, "t": texts}), path, row_group_size=1_000)
    elif kind == "csv":
        path.write_text("n,t\n" + "".join(f"{n},{t}\n" for n, t in zip(numbers, texts, strict=True)))
    else:
        path.write_text("".join(f'{{"n":{n},"t":"{t}"}}\n' for n, t in zip(numbers, texts, strict=True)))
    return path


def first(batches: Any) -> Any:
    return next(batches)


def limited(path: Path) -> Any:
    return list(open_source(job(path, limit=3)).batches())


def abandoned(path: Path) -> Any:
    batches = open_source(job(path)).batches()
    first(batches)
    batches.close()  # type: ignore[attr-defined]  # a generator is what it is
    return batches


def abandoned_groups(path: Path) -> Any:
    batches = open_source(job(path, rows_per_request=3)).batches()
    first(batches)
    batches.close()  # type: ignore[attr-defined]  # as above
    return batches


def of_two_names(path: Path) -> Any:
    with pytest.raises(JobError, match="two rows are named") as caught:
        first(open_source(job(path, id=["t"])).batches())
    return caught


def too_large(path: Path) -> Any:
    with pytest.raises(JobError, match="take about") as caught:
        list(open_source(job(path, group_by=["t"]), memory=1_000_000).batches())
    return caught


def of_a_wrong_type(path: Path) -> Any:
    with pytest.raises(JobError, match="expected a date") as caught:
        list(open_source(job(path, types={"t": "date"})).batches())
    return caught


def filtered_in_vain(path: Path) -> Any:
    with pytest.raises(JobError, match="cannot be applied") as caught:
        list(open_source(job(path, where="CAST(t AS BIGINT) > 1", sort_by=["n"])).batches())
    return caught


def not_sorted(path: Path) -> Any:
    asked = open_source(job(path, sort_by=["n"]), memory=100_000, spill=path.parent / "gone")
    with pytest.raises(StorageError, match="rows to sort") as caught:
        list(asked.batches())
    return caught


WAYS = [not_sorted, limited, abandoned, abandoned_groups, of_two_names, too_large, of_a_wrong_type, filtered_in_vain]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet"])
@pytest.mark.parametrize("give_up", WAYS, ids=lambda way: way.__name__)
def test_a_file_that_is_given_up_is_closed(tmp_path: Path, kind: str, give_up: Callable[[Path], Any]) -> None:
    path = written(tmp_path, kind)
    keeping = give_up(path)
    assert held(tmp_path) == []
    assert keeping is not None


def test_a_ragged_row_leaves_the_file_closed(tmp_path: Path) -> None:
    path = written(tmp_path, "csv")
    with path.open("a") as file:
        file.write("1\n")
    with pytest.raises(JobError, match="has 1 cell"):
        open_source(job(path))
    assert held(tmp_path) == []


def test_a_cell_that_goes_on_after_its_quote_leaves_the_file_closed(tmp_path: Path) -> None:
    path = written(tmp_path, "csv")
    with path.open("a") as file:
        file.write('1,"x" y\n')
    with pytest.raises(JobError, match="more text follows") as caught:
        open_source(job(path))
    assert held(tmp_path) == []
    assert caught is not None


def test_who_reads_on_after_the_end_was_declared_finds_the_end(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"abcdef")
    with pa.OSFile(str(path)) as file:
        stream = Extended(file, b"!")
        assert stream.read(4) == b"abcd"
        stream.close()
    assert stream.read(4) == b""


def test_rows_whose_names_cannot_be_compared_are_closed(tmp_path: Path) -> None:
    ended = []

    def batches() -> Generator[pa.RecordBatch, None, None]:
        try:
            for _ in range(9):
                yield pa.RecordBatch.from_pydict({"a": [1, 2, 3]})
        finally:
            ended.append(True)

    with pytest.raises(StorageError, match="row names") as caught:
        find_twice(batches, ["a"], tmp_path / "gone", held=5)
    assert ended
    assert caught.value.exit_code == 1


class Dripping(io.BytesIO):
    """Gives a byte at a time, as decoders may."""

    def read(self, _: int | None = -1, /) -> bytes:
        return super().read(1)


def test_bytes_come_in_full_measure_however_they_drip() -> None:
    stream = Extended(Dripping(b"abcdef"), b"!?")
    assert [stream.read(4), stream.read(9), stream.read(9)] == [b"abcd", b"ef!?", b""]


def test_bytes_that_are_not_approved_of_are_the_end() -> None:
    seen: list[bytes] = []

    def watch(data: bytes) -> bool:
        seen.append(data)
        return b"x" not in data

    stream = Extended(pa.BufferReader(b"abcdxefg"), b"!", watch)
    assert [stream.read(3) for _ in range(3)] == [b"abc", b"", b""]
    assert seen == [b"abc", b"dxe"]


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 100])
def test_a_tail_follows_the_bytes(size: int) -> None:
    stream = Extended(pa.BufferReader(b"abcdef"), b"!?")
    parts = list(iter(lambda: stream.read(size), b""))
    assert b"".join(parts) == b"abcdef!?"
    assert all(len(part) == size for part in parts[:-1])

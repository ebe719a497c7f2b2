"""An output as a directory of parts: replaced whole, shared with others, and never half seen."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StorageError
from pipeline.output import Published, check_writable, files_of, manifest_path, owner_of, publish, read_parts, run_mark

METADATA = {"pipeline.job": "nightly", "pipeline.run_id": "nightly@2026-11-22"}
SCHEMA = pa.schema([("n", pa.int64())], metadata=METADATA)
RUN = METADATA["pipeline.run_id"]


def schema_of(run_id: str) -> pa.Schema:
    return SCHEMA.with_metadata({**METADATA, "pipeline.run_id": run_id})


def batches(*sizes: int, first: int = 0) -> Iterator[pa.RecordBatch]:
    at = first
    for size in sizes:
        yield pa.record_batch([pa.array(range(at, at + size), pa.int64())], schema=SCHEMA)
        at += size


def written(folder: Path, *sizes: int, first: int = 0, rows_per_file: int = 10, run_id: str = RUN) -> Published:
    return publish(folder, schema_of(run_id), batches(*sizes, first=first), rows_per_file=rows_per_file)


def rows_in(folder: Path) -> list[int]:
    """As the manifest has it."""
    return [n for file in files_of(folder) for n in pq.read_table(file).column("n").to_pylist()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("sizes", "rows"),
    [
        ((25,), [10, 10, 5]),
        ((7, 7, 7), [10, 10, 1]),
        ((10, 10), [10, 10]),
        ((3,), [3]),
        ((), [0]),
        ((0, 12, 0), [10, 2]),
    ],
)
def test_rows_are_cut_into_parts_wherever_batches_end(tmp_path: Path, sizes: tuple[int, ...], rows: list[int]) -> None:
    folder = tmp_path / "d"

    published = written(folder, *sizes)

    assert [pq.read_metadata(file).num_rows for file in files_of(folder)] == rows
    assert [part.rows for part in read_parts(folder)] == rows
    assert pl.scan_parquet(folder / "part-*.parquet").collect()["n"].to_list() == list(range(sum(sizes)))
    assert published.intact()


def test_the_manifest_tells_size_rows_and_checksum_of_each_part(tmp_path: Path) -> None:
    written(tmp_path / "d", 12)
    described = json.loads(manifest_path(tmp_path / "d").read_text())
    assert described["rows"] == 12
    assert [part["name"] for part in described["parts"]] == [f"part-{run_mark(RUN)}-0000{n}.parquet" for n in range(2)]
    for part in described["parts"]:
        raw = (tmp_path / "d" / part["name"]).read_bytes()
        assert (part["bytes"], part["sha256"], part["run_id"]) == (len(raw), sha256(raw).hexdigest(), RUN)


def test_what_is_known_at_the_end_stands_in_the_last_part_alone(tmp_path: Path) -> None:
    def closing() -> Mapping[str, str]:
        return {"superseded": "{}"}

    publish(tmp_path / "d", SCHEMA, batches(20), closing, rows_per_file=10)
    told = [b"pipeline.superseded" in pq.read_metadata(file).metadata for file in files_of(tmp_path / "d")]
    assert told == [False, True]


def test_publishing_again_leaves_the_new_parts_and_none_of_the_old(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    first = written(folder, 25)
    for start, size in ((100, 31), (200, 4), (300, 45)):
        second = written(folder, size, first=start)
        assert rows_in(folder) == list(range(start, start + size))
        assert pl.scan_parquet(folder / "part-*.parquet").collect()["n"].to_list() == rows_in(folder)
        assert len(names(folder)) == -(-size // 10) + 1
        assert second.intact()
    assert not first.intact()


def test_other_writers_files_are_never_touched(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    strangers = ["notes.txt", "part-00000.parquet", "part-deadbeef-00000.parquet", ".part-deadbeef-00000.parquet.x.tmp"]
    for name in strangers:
        (folder / name).write_text(name)
    written(folder, 25)
    written(folder, 5)
    assert all((folder / name).read_text() == name for name in strangers)


def test_two_runs_share_a_directory_and_each_replaces_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    one = written(folder, 15, run_id="nightly@2026-11-21")
    written(folder, 5, first=50)
    written(folder, 3, first=70)
    assert sorted(rows_in(folder)) == [*range(15), 70, 71, 72]
    assert len(files_of(folder, "nightly@2026-11-21")) == 2
    assert one.intact(), "another run's publishing does not make this one's output stale"


def test_a_failure_on_the_way_leaves_the_old_parts_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    published = written(folder, 25)
    before = names(folder)

    def broken() -> Iterator[pa.RecordBatch]:
        yield from batches(25)
        raise StorageError("the journal is damaged")

    with pytest.raises(StorageError, match="damaged"):
        publish(folder, SCHEMA, broken(), rows_per_file=10)
    with pytest.raises(StorageError, match="pending"):
        publish(folder, SCHEMA, batches(25), refuse, rows_per_file=10)
    assert names(folder) == before
    assert published.intact()


def refuse() -> Mapping[str, str]:
    raise StorageError("3 rows are pending")


def test_the_old_parts_stand_until_the_new_manifest_does(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    written(folder, 25)
    before = rows_in(folder)
    seen = []

    def watched() -> Iterator[pa.RecordBatch]:
        for batch in batches(10, 10, 10, first=100):
            seen.append((rows_in(folder), len(list(folder.glob("part-*.parquet")))))
            yield batch

    publish(folder, SCHEMA, watched(), rows_per_file=10)
    assert seen == [(before, 3)] * 3


def test_readers_who_go_by_the_manifest_always_see_one_whole_output(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    written(folder, 30)
    seen: list[list[int]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            try:
                seen.append(rows_in(folder))
            except FileNotFoundError:
                continue  # parts that went since the manifest was read: the reader reads it again

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(1, 15):
            written(folder, 30, first=number * 1000)
    finally:
        done.set()
        reader.join()
    assert seen
    assert all(rows == list(range(rows[0], rows[0] + 30)) and rows[0] % 1000 == 0 for rows in seen)


KILLED = """
import os, signal, sys
from pathlib import Path
import pyarrow as pa
from pipeline.output import publish

folder, moment, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
calls = 0

def watch(event, arguments):
    global calls
    if event == moment:
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)

schema = pa.schema([("n", pa.int64())], metadata={"pipeline.job": "nightly", "pipeline.run_id": "nightly@2026-11-22"})
rows = pa.record_batch([pa.array(range(500, 530), pa.int64())], schema=schema)
sys.addaudithook(watch)
publish(folder, schema, [rows], rows_per_file=10)
"""


@pytest.mark.parametrize(
    ("moment", "count"), [("os.rename", 1), ("os.rename", 2), ("os.rename", 4), ("os.remove", 1), ("os.remove", 3)]
)
def test_kill_9_leaves_a_whole_output_and_the_next_publishing_cleans_up(
    tmp_path: Path, moment: str, count: int
) -> None:
    folder = tmp_path / "d"
    written(folder, 25)

    ended = subprocess.run([sys.executable, "-c", KILLED, folder, moment, str(count)], check=False)

    assert ended.returncode == -9
    assert rows_in(folder) == (list(range(25)) if moment == "os.rename" else list(range(500, 530)))
    written(folder, 12, first=900)
    assert rows_in(folder) == pl.scan_parquet(folder / "part-*.parquet").collect()["n"].to_list()
    assert rows_in(folder) == list(range(900, 912))
    assert len(names(folder)) == 3


@pytest.mark.parametrize("harm", ["cut", "gone", "touched", "unlisted"])
def test_an_output_that_is_not_as_it_was_published_is_not_intact(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "d"
    published = written(folder, 25)
    part = files_of(folder)[1]
    if harm == "cut":
        part.write_bytes(part.read_bytes()[:-1])
    elif harm == "gone":
        part.unlink()
    elif harm == "touched":
        part.write_bytes(part.read_bytes())
    else:
        described = json.loads(manifest_path(folder).read_text())
        manifest_path(folder).write_text(json.dumps({**described, "parts": described["parts"][:-1]}))
    assert not published.intact()


def test_a_record_that_knows_no_parts_is_not_intact(tmp_path: Path) -> None:
    published = written(tmp_path / "d", 3)
    assert not Published(published.path, published.size, published.mtime_ns).intact()


def test_a_file_that_a_killed_publishing_left_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / ".out.parquet.abc.tmp").write_text("half")
    publish(tmp_path / "out.parquet", SCHEMA, batches(3))
    assert names(tmp_path) == ["out.parquet"]


def test_a_foreign_manifest_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    manifest_path(tmp_path).write_text('{"entries": []}')
    with pytest.raises(StorageError, match="no manifest of this program"):
        written(tmp_path, 5)
    assert names(tmp_path) == ["_manifest.json"]


def test_a_directory_says_of_each_run_whose_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    assert owner_of(folder, RUN).job is None
    written(folder, 5)
    assert (owner_of(folder, RUN).job, owner_of(folder, RUN).run_id) == ("nightly", RUN)
    assert owner_of(folder, "another").job is None


def test_where_a_directory_is_to_be_a_file_is_refused_and_the_reverse(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    (tmp_path / "out.parquet").mkdir()
    with pytest.raises(StorageError, match="a file stands there"):
        check_writable(tmp_path / "d")
    with pytest.raises(StorageError, match="a directory stands there"):
        check_writable(tmp_path / "out.parquet")
    check_writable(tmp_path / "new" / "d")
    assert names(tmp_path / "new" / "d") == []


def test_row_groups_are_of_a_size_that_readers_like(tmp_path: Path) -> None:
    publish(tmp_path / "out.parquet", SCHEMA, batches(*[250] * 50))
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [5_000, 5_000, 2_500]


def test_large_rows_make_smaller_row_groups(tmp_path: Path) -> None:
    schema = pa.schema([("text", pa.string())])
    large = pa.record_batch([pa.array(["x" * 100_000] * 50)], schema=schema)
    publish(tmp_path / "out.parquet", schema, [large] * 6)
    metadata = pq.read_metadata(tmp_path / "out.parquet")
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [100, 100, 100]


def test_damage_in_a_page_is_noticed_by_who_asks_for_it(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    publish(path, SCHEMA, batches(1000))
    raw = bytearray(path.read_bytes())
    raw[200] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(OSError, match=r"(?i)crc|checksum|corrupt"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_a_name_is_not_given_again_so_an_old_manifest_never_leads_to_new_rows(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    given: list[str] = []
    for _ in range(4):
        written(folder, 25)
        given += [part.name for part in read_parts(folder)]
    assert len(set(given)) == len(given) == 12
    assert given == sorted(given)

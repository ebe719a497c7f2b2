"""Disks that are full or read-only, journals that are none of ours, readers that look at every moment."""

from __future__ import annotations

import hashlib
import io
import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import zstandard
from desk import Desk, Ended
from torture_checker import check
from torture_rig import WAIT_SECS, Bench, Commands, Points, bench, every_operation, more_rows, mount, small_disk

pytest_plugins = ("torture_fixtures",)


def assert_clean(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err + ended.out
    missing = [word for word in words if word not in ended.err]
    assert not missing, (missing, ended.err)


@pytest.mark.parametrize(("folder", "room"), [(".pipeline", 160_000), ("out", 4_000)])
def test_c5_a_full_disk_is_said_and_after_making_room_all_is_right(
    desk: Desk, torture_seed: int, folder: str, room: int
) -> None:
    size = 4 * 1_048_576
    with small_disk(desk.folder / folder, str(size)) as disk:
        made = bench(desk, torture_seed, 300, latency_ms=2)
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * (size - room))
        full = made.run()
        assert_clean(full, 1, str(disk), "disk")
        made.scene.crashes += 1
        made.scene.mark()
        kept = made.journalled()
        assert not (desk.folder / made.scene.output).exists()
        check(made.scene, complete=False)
        assert full.summary["exit_code"] == 1
        again = made.run()
        assert again.code == 1, again.err
        made.scene.crashes += 1
        made.scene.mark()
        ballast.unlink()
        ended = made.run()
        assert ended.code == 0, ended.err
        assert ended.summary["answered_before"] >= kept
        print(f"C5 {folder} full with {kept} answers kept: {check(made.scene)}")


@pytest.mark.parametrize(
    ("part", "nth", "word"),
    [
        ("small.sqlite-wal", "40+", "small.sqlite"),
        pytest.param("plan.arrow", "2+", "plan", marks=pytest.mark.long),
        ("out/.answers.parquet", "2+", "answers.parquet"),
    ],
)
@pytest.mark.parametrize("act", ["ENOSPC", pytest.param("EIO", marks=pytest.mark.long)])
def test_c5_writes_that_fail_from_some_moment_on(
    desk: Desk, torture_seed: int, points: Points, part: str, nth: str, word: str, act: str
) -> None:
    made = bench(desk, torture_seed, 60)
    failed = made.run(**points.at("write", part, nth, act))
    assert_clean(failed, 1, word)
    made.scene.crashes += 1
    made.scene.mark()
    check(made.scene, complete=False)
    ended = made.run()
    assert ended.code == 0, ended.err
    print(f"C5 {act} on {part}: {check(made.scene)}")


@pytest.mark.long
@pytest.mark.parametrize("act", ["ENOSPC", "EIO"])
def test_c5_every_lasting_operation_of_a_run_fails_once(
    desk: Desk, torture_seed: int, points: Points, act: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # What cannot be removed, or a folder that cannot be synced for a courtesy, need not end a run.
    every_operation(desk, torture_seed, points, act, tmp_path_factory, lambda code: code in (0, 1))


def output_in_a_file(made: Bench) -> str:
    (made.desk.folder / "out").write_text("not a folder")
    return "out"


def journal_in_a_file(made: Bench) -> str:
    (made.desk.folder / ".pipeline").write_text("not a folder")
    return ".pipeline"


def journal_is_a_folder(made: Bench) -> str:
    made.scene.journal.mkdir(parents=True)
    return "small.sqlite"


def journal_is_text(made: Bench) -> str:
    made.scene.journal.parent.mkdir()
    made.scene.journal.write_text("dear diary, " * 1000)
    return "small.sqlite"


def journal_of_another_program(made: Bench) -> str:
    made.scene.journal.parent.mkdir()
    with closing(sqlite3.connect(made.scene.journal)) as db, db:
        db.execute("CREATE TABLE attempt (id INTEGER PRIMARY KEY)")
    return "small.sqlite"


def journal_of_a_newer_version(made: Bench) -> str:
    assert made.run("--limit", "1").code == 0
    with closing(sqlite3.connect(made.scene.journal)) as db, db:
        db.execute("PRAGMA user_version = 999")
    return "newer"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (output_in_a_file, 1),
        (journal_in_a_file, 1),
        (journal_is_a_folder, 1),
        (journal_is_text, 2),
        (journal_of_another_program, 2),
        (journal_of_a_newer_version, 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_c9_what_cannot_be_written_is_said_before_the_first_paid_call(
    desk: Desk, torture_seed: int, commands: Commands, spoil: Callable[[Bench], str], code: int
) -> None:
    made = bench(desk, torture_seed, 5)
    word = spoil(made)
    before = len(made.server.requests)
    kept = made.scene.journal.read_bytes() if made.scene.journal.is_file() else None
    assert_clean(commands.pipeline(desk.folder, "run", made.job), code, word)
    assert len(made.server.requests) == before
    if kept is not None:
        assert made.scene.journal.read_bytes() == kept


@pytest.mark.parametrize("folder", [".pipeline", "out"])
def test_c9_a_read_only_disk_is_said_before_the_first_paid_call(desk: Desk, torture_seed: int, folder: str) -> None:
    with small_disk(desk.folder / folder, "1m") as disk:
        made = bench(desk, torture_seed, 5)
        locked = mount("-o", "remount,ro", disk)
        assert locked.returncode == 0, locked.stderr
        assert_clean(made.run(), 1, folder, "ead-only")
        assert made.server.requests == []


def test_a_damaged_answer_is_said_and_never_published(desk: Desk, torture_seed: int) -> None:
    made = bench(desk, torture_seed, 12)
    assert made.run().code == 0
    output = desk.folder / made.scene.output
    before = output.read_bytes()
    wrong = zstandard.ZstdCompressor().compress(b'{"type":"message","content":[{"type":"text","text":"wrong"}]}')
    with closing(sqlite3.connect(made.scene.journal)) as db, db:
        db.execute("UPDATE response SET body = ? WHERE attempt = (SELECT min(attempt) FROM response)", (wrong,))
    more_rows(made)
    ended = made.run()
    assert "damaged" in ended.err
    if ended.code == 0:  # asked again
        rows = pq.ParquetFile(output).read().select(["name", "response_text"]).to_pylist()
        assert [row["name"] for row in rows] == list(made.scene.names)
        assert all(row["response_text"].endswith(f"Describe {row['name']}.") for row in rows)
        assert len(made.server.requests) == 12 + 10 + 1
    else:
        assert_clean(ended, 1, "damaged")
        assert output.read_bytes() == before


class Reader(threading.Thread):
    """Reads the output again and again, whole, and remembers what it saw."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.done = path, threading.Event()
        self.heights: list[int] = []
        self.trouble: list[str] = []

    def run(self) -> None:
        while not self.done.is_set():
            try:
                rows = pq.ParquetFile(self.path).read()
            except FileNotFoundError:
                self.done.wait(0.001)
                continue
            except Exception as error:  # noqa: BLE001 - whatever a reader meets is what is looked for
                self.trouble.append(repr(error))
                continue
            found = rows.column("name").to_pylist()
            if found != [f"row-{n:05}" for n in range(len(found))]:
                self.trouble.append(f"{len(found)} rows, not those of one publish")
            self.heights.append(len(found))


@pytest.mark.parametrize("publishes", [3, pytest.param(50, marks=pytest.mark.long)])
def test_c13_a_reader_that_looks_at_every_moment_sees_a_whole_output(
    desk: Desk, torture_seed: int, publishes: int
) -> None:
    made = bench(desk, torture_seed, 200, latency_ms=0)
    reader = Reader(desk.folder / made.scene.output)
    reader.start()
    try:
        for _ in range(publishes):
            ended = made.run()
            assert ended.code == 0, ended.err
            check(made.scene)
            more_rows(made)
    finally:
        reader.done.set()
        reader.join()
    assert reader.trouble == []
    assert reader.heights == sorted(reader.heights)
    assert len(set(reader.heights)) >= publishes - 1
    print(f"C13 {len(reader.heights)} looks at {publishes} publishes, each a whole output")


def listed(folder: Path) -> list[dict[str, Any]]:
    """The parts that the manifest lists now; none where there is no manifest yet."""
    try:
        parts: list[dict[str, Any]] = json.loads((folder / "_manifest.json").read_bytes())["parts"]
    except FileNotFoundError:
        return []
    return parts


class PartsReader(Reader):
    """Reads the parts that the manifest lists; where one has gone meanwhile, there must be another manifest."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.overtaken = 0

    def run(self) -> None:
        while not self.done.is_set():
            if not (parts := listed(self.path)):
                self.done.wait(0.001)
                continue
            try:
                contents = [(self.path / part["name"]).read_bytes() for part in parts]
            except FileNotFoundError:
                self.overtaken += 1
                if listed(self.path) == parts:
                    self.trouble.append("a part is gone that the manifest still lists")
                continue
            self._compare(parts, contents)

    def _compare(self, parts: list[dict[str, Any]], contents: list[bytes]) -> None:
        found: list[str] = []
        for part, content in zip(parts, contents, strict=True):
            if hashlib.sha256(content).hexdigest() != part["sha256"]:
                self.trouble.append(f"{part['name']} is not what the manifest says")
                return
            found += pq.ParquetFile(io.BytesIO(content)).read(["name"]).column("name").to_pylist()
        if found != [f"row-{n:05}" for n in range(len(found))]:
            self.trouble.append(f"{len(found)} rows, not those of one publish")
        self.heights.append(len(found))


@pytest.mark.parametrize("publishes", [3, pytest.param(50, marks=pytest.mark.long)])
def test_c13_a_reader_that_goes_by_the_manifest_sees_a_whole_set_of_parts(
    desk: Desk, torture_seed: int, publishes: int
) -> None:
    made = bench(desk, torture_seed, 200, latency_ms=0)
    text = made.job.read_text()
    made.job.write_text(text.replace("{path: out/answers.parquet}", "{path: out/d/, rows_per_file: 40}"))
    reader = PartsReader(desk.folder / "out/d")
    reader.start()
    try:
        for _ in range(publishes):
            ended = made.run()
            assert ended.code == 0, ended.err
            more_rows(made)
        rows = len(made.scene.names) - 10
        assert until_seen(reader, rows), "the last publish was never seen"
    finally:
        reader.done.set()
        reader.join()
    assert reader.trouble == []
    assert reader.heights == sorted(reader.heights)
    assert len(set(reader.heights)) >= publishes - 1
    # What nobody lists any more is gone, so that a reader of `part-*.parquet` sees the same once publishing is over.
    assert sorted(path.name for path in reader.path.glob("part-*.parquet")) == [
        part["name"] for part in listed(reader.path)
    ]
    print(
        f"C13 {len(reader.heights)} looks at {publishes} publishes of parts, each a whole set; {reader.overtaken} "
        "times parts had gone since the manifest was read"
    )


def until_seen(reader: Reader, rows: int) -> bool:
    """Wait until the reader has seen so many rows."""
    deadline = time.monotonic() + WAIT_SECS
    while rows not in reader.heights[-1:] and time.monotonic() < deadline:
        time.sleep(0.01)
    return rows in reader.heights[-1:]


def test_other_peoples_files_beside_the_output_are_left_alone(desk: Desk, torture_seed: int) -> None:
    made = bench(desk, torture_seed, 5)
    theirs = [desk.write(f"out/{name}", name) for name in (".answers.parquet.mine", "answers.parquet.bak", "part-0")]
    assert made.run().code == 0
    assert all(path.read_text() == path.name for path in theirs)
    assert sorted(path.name for path in (desk.folder / "out").iterdir()) == sorted(
        ["answers.parquet", "answers.parquet.summary.json", *(path.name for path in theirs)]
    )
    check(made.scene)

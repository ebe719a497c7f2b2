"""A journal can be read where nothing may be written, and what keeps it from being written is what is said."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pipeline.errors import JobError, StorageError
from pipeline.journal import Journal
from pipeline.journal.maintenance import check
from pipeline.journal.schema import MIGRATIONS, VERSION, migrate

DATA = Path(__file__).parent / "data"
OLD = sorted(DATA.glob("*.sqlite"))

READER = """
import sys, tempfile
from pathlib import Path
from pipeline.journal import Journal
from pipeline.journal.maintenance import check
journal = Journal.read(Path(sys.argv[1]))
found = check(journal)
print(found.responses, *found.problems)
journal.close()
print(len(list(Path(tempfile.gettempdir()).glob("pipeline-journal-*"))))
"""


def read_without_rights(path: Path, temporary: Path) -> list[str]:
    """What a process sees that may write neither the journal nor beside it; root gives its rights up for that."""
    temporary.mkdir()
    asleep = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if asleep and shutil.which("setpriv") is None:
        pytest.skip("root, and nothing to give up its rights with")
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        ended = subprocess.run(
            [*asleep, sys.executable, "-c", READER, path],
            env={**os.environ, "TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        path.parent.chmod(0o700)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def archived(folder: Path, sample: Path) -> Path:
    (folder / "archive").mkdir()
    return Path(shutil.copy(sample, folder / "archive" / "small.sqlite"))


@pytest.mark.parametrize("sample", OLD, ids=lambda path: path.stem)
def test_an_old_journal_is_read_in_an_archive_and_stays_as_it_is(tmp_path: Path, sample: Path) -> None:
    path = archived(tmp_path, sample)
    with closing(sqlite3.connect(path)) as db:
        (stored,) = db.execute("SELECT count(*) FROM response").fetchone()
    before = path.read_bytes()
    assert read_without_rights(path, tmp_path / "tmp") == [str(stored), "0"]
    assert (path.read_bytes(), [one.name for one in path.parent.iterdir()]) == (before, [path.name])


def test_a_journal_of_today_is_read_in_an_archive(tmp_path: Path) -> None:
    path = archived(tmp_path, OLD[0])
    Journal.open(path).close()
    assert read_without_rights(path, tmp_path / "tmp") == ["3", "0"]


def test_what_only_the_wal_holds_is_read_in_an_archive_too(tmp_path: Path) -> None:
    """As it is copied from beside a run that was killed."""
    path = archived(tmp_path, OLD[0])
    Journal.open(path).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM response WHERE attempt = (SELECT max(attempt) FROM response)")
        db.commit()
        copy = tmp_path / "copied"
        copy.mkdir()
        for name in (path.name, f"{path.name}-wal"):
            shutil.copy(path.with_name(name), copy / name)
    assert read_without_rights(copy / path.name, tmp_path / "tmp")[0].startswith("2 ")


class Full(sqlite3.Connection):
    """A connection that fails at one statement as SQLite does on a full disk: it has rolled back by itself."""

    at = ""

    def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        if self.at and self.at in sql:
            super().execute("ROLLBACK")
            raise sqlite3.OperationalError("database or disk is full")
        return super().execute(sql, *values)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", sorted(MIGRATIONS))
def test_a_disk_that_is_full_while_a_journal_is_brought_up_is_said_as_such(tmp_path: Path, version: int) -> None:
    path = tmp_path / "small.sqlite"
    shutil.copy(next(path for path in OLD if path.stem.endswith(f"-v{version}")), path)
    with closing(sqlite3.connect(path, isolation_level=None, factory=Full)) as full:
        full.at = f"PRAGMA user_version = {VERSION}"
        with pytest.raises(sqlite3.OperationalError, match="full"):
            migrate(full, version)
    journal = Journal.open(path)
    assert check(journal).problems == ()
    journal.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of our own takes root")
def test_a_full_disk_is_never_taken_for_a_file_that_is_no_journal(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        path = Path(shutil.copy(DATA / "plain-v3.sqlite", place / "small.sqlite"))
        Journal.open(path).close()
        with suppress(OSError), (place / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(4096))
        with pytest.raises(StorageError, match=r"could not be written or read: (disk I/O error|database or disk)"):
            Journal.open(path)
        journal = Journal.read(path)
        assert journal is not None
        assert check(journal).responses == 3
        journal.close()
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def test_a_file_that_is_no_journal_is_still_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "small.sqlite"
    path.write_bytes(b"no database, but long enough to be looked at" * 100)
    for opened in (Journal.open, Journal.read):
        with pytest.raises(JobError, match="not a journal of this program"):
            opened(path)


def claims_to_hold(size: int) -> bytes:
    """A frame whose head says that so many bytes are in it."""
    return bytes.fromhex("28b52ffde0") + struct.pack("<Q", size) + b"\x01\x00\x00"


@pytest.mark.parametrize(
    "body",
    [claims_to_hold(1 << 60), claims_to_hold(1 << 40), "text", 7, b""],
    ids=["an exbibyte", "a tebibyte", "text", "a number", "nothing"],
)
def test_a_damaged_response_does_not_keep_an_old_journal_from_being_brought_up(tmp_path: Path, body: object) -> None:
    path = tmp_path / "terms.sqlite"
    shutil.copy(DATA / "terms-v2.sqlite", path)
    with closing(sqlite3.connect(path)) as db, db:
        ((first,),) = db.execute("SELECT min(attempt) FROM response")
        db.execute("UPDATE response SET body = ? WHERE attempt = ?", (body, first))
    journal = Journal.open(path)
    assert check(journal).damaged == (first,)
    journal.close()

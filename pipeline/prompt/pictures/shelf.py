"""The shelf: what is known of pictures between runs: their hashes, where they lie, and bytes that lie nowhere else.

A file of its own beside the journal, in SQLite. Losing it loses no answer: files are hashed again, URLs asked again.
Bytes that came in a column or from a URL are kept in a folder beside it, under their hash, until `clear`.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import StorageError

AT_ONCE = 300
"""Places that one query asks for."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a picture.

    Attributes:
        place: a file's real path, or a URL; empty where the bytes came in a column.
        stamp: what tells that the place still holds the same: size and time of change, or the server's validators.
        digest: `reference.digest_of` its bytes.
        kind: `image` or `document`.
        width: in pixels, upright; 0 where the header could not be read, and for documents.
        height: likewise.
        size: in bytes.
    """

    place: str
    stamp: str
    digest: bytes
    kind: str
    width: int
    height: int
    size: int


class PictureMemo(Protocol):
    """Remembers which picture lies where."""

    def get(self, places: Sequence[str]) -> Mapping[str, Known]:
        """Give what is known of these places; those that are not known are left out."""

    def put(self, known: Iterable[Known]) -> None:
        """Remember, in one transaction."""

    def find(self, digest: bytes) -> Sequence[Known]:
        """Give all places where a picture was, newest first."""


_COLUMNS = "SELECT place, stamp, digest, kind, width, height, size"
_TABLE = """
CREATE TABLE IF NOT EXISTS pictures (
    place BLOB NOT NULL PRIMARY KEY,
    stamp TEXT NOT NULL,
    digest BLOB NOT NULL,
    kind TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    size INTEGER NOT NULL,
    nth INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS by_digest ON pictures (digest);
"""


class Shelf:
    """A `PictureMemo` on disk, and the folder of kept bytes.

    May be used by several threads at once, one after another.

    Args:
        path: the SQLite file, made when it is needed, readable by its owner alone; None for a shelf that is gone after
            use.
        below: another shelf's file, which is looked up too and never written; it need not be there.
    """

    def __init__(self, path: Path | None, below: Path | None = None) -> None:
        self._path = path
        self._below = below
        self._lock = threading.Lock()
        self._let_go: Callable[[], object] | None = None
        self._folder = None if path is None else path.with_suffix("")
        self._opened: sqlite3.Connection | None = None
        self._schemas = ["main"]
        self._nth = 0

    @property
    def _db(self) -> sqlite3.Connection:
        """The connection; to be asked for with the lock held."""
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> sqlite3.Connection:
        path = self._path
        try:
            if path is not None:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                os.close(os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o600))
            db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None, uri=True)
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"{path}: what is known of pictures cannot be kept: {error}") from error
        try:
            if path is not None:
                db.execute("PRAGMA journal_mode = WAL")
            db.executescript(_TABLE)
            (self._nth,) = db.execute("SELECT coalesce(max(nth), 0) FROM pictures").fetchone()
        except sqlite3.Error as error:
            db.close()
            raise StorageError(f"{path}: what is known of pictures cannot be kept: {error}") from error
        if self._below is not None and self._below.exists():
            # What is below only saves time: where it cannot be read, files are hashed again.
            with suppress(sqlite3.Error):
                db.execute("ATTACH DATABASE ? AS below", (f"{self._below.absolute().as_uri()}?mode=ro",))
                db.execute("SELECT count(*) FROM below.pictures LIMIT 1")
                self._schemas.append("below")
        return db

    def get(self, places: Sequence[str]) -> Mapping[str, Known]:
        """Give what is known of these places.

        Raises:
            StorageError: the file cannot be read.
        """
        found: dict[str, Known] = {}
        for at in range(0, len(places), AT_ONCE):
            some = [os.fsencode(place) for place in places[at : at + AT_ONCE]]
            marks = ",".join("?" * len(some))
            for known in self._rows(f"place IN ({marks})", some):
                found.setdefault(known.place, known)
        return found

    def find(self, digest: bytes) -> Sequence[Known]:
        """Give all places where a picture was, newest first.

        Raises:
            StorageError: the file cannot be read.
        """
        return self._rows("digest = ? ORDER BY nth DESC", [digest])

    def _rows(self, condition: str, values: Sequence[bytes]) -> list[Known]:
        rows: list[tuple[Any, ...]] = []
        try:
            with self._lock:
                db = self._db
                for schema in self._schemas:
                    rows += db.execute(f"{_COLUMNS} FROM {schema}.pictures WHERE {condition}", values).fetchall()
        except sqlite3.Error as error:
            raise StorageError(f"what is known of pictures cannot be read: {error}") from error
        return [Known(os.fsdecode(row[0]), *row[1:]) for row in rows]

    def put(self, known: Iterable[Known]) -> None:
        """Remember, in one transaction.

        Raises:
            StorageError: the file cannot be written.
        """
        with self._lock:
            db = self._db
            rows = []
            for one in known:
                self._nth += 1
                rows.append(
                    (
                        *(os.fsencode(one.place), one.stamp, one.digest, one.kind, one.width, one.height, one.size),
                        self._nth,
                    )
                )
            try:
                db.execute("BEGIN IMMEDIATE")
                db.executemany("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
                db.execute("COMMIT")
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise StorageError(f"what is known of pictures cannot be kept: {error}") from error

    def keep(self, digest: bytes, content: bytes) -> None:
        """Keep bytes that lie nowhere else.

        Raises:
            StorageError: they cannot be written.
        """
        try:
            path = self._kept(digest)
            if path.exists():
                return
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.new")
            fd = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            fresh.rename(path)
        except OSError as error:
            raise StorageError(f"{self._folder}: a picture cannot be kept: {error}") from error

    def kept(self, digest: bytes) -> bytes | None:
        """Give bytes that were kept; None where there are none."""
        if self._folder is None:
            return None
        try:
            return self._kept(digest).read_bytes()
        except OSError:
            return None

    def _kept(self, digest: bytes) -> Path:
        name = digest.hex()
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="pictures-"))
            self._let_go = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder / name[:2] / name[2:]

    def clear(self) -> None:
        """Let go of all kept bytes: every row that needed them has its answer."""
        if self._folder is None:
            return
        for folder in self._folder.glob("[0-9a-f][0-9a-f]"):
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()

    def close(self) -> None:
        """Close the file; a shelf without one lets go of everything."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
        if self._let_go is not None:
            self._let_go()

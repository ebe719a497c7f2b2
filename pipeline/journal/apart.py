"""Reading a journal where nothing may be written: in an archive, on a full disk, beside another's files."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

TIMEOUT_SECS = 30
_UNWRITABLE = frozenset(
    {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_PERM}
)


def unwritable(error: sqlite3.Error) -> bool:
    """Whether SQLite wanted to write and could not.

    Also to read: a WAL is shared by way of a file that the first reader makes, and an older journal is brought up.
    """
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNWRITABLE


def open_apart(
    path: Path, wanted: Callable[[sqlite3.Connection], bool] = lambda _: True
) -> tuple[sqlite3.Connection, TemporaryDirectory[str] | None]:
    """Open a journal for reading without touching anything beside it.

    As it lies there, where that is all of it: who has it open keeps a WAL beside it, which then can be shared in the
    usual way. Otherwise a copy, with its WAL.

    Args:
        path: the journal.
        wanted: whether it can be used as it lies there; a copy may be brought up to today's tables.

    Returns:
        The connection, and the folder of the copy, to be removed when that is closed.

    Raises:
        sqlite3.Error: it cannot be read.
        OSError: likewise, or there is no room for a copy.
    """
    wal = path.with_name(path.name + "-wal")
    if not wal.exists() or not wal.stat().st_size:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?immutable=1", uri=True, isolation_level=None, check_same_thread=False
        )
        try:
            if wanted(connection):
                return connection, None
        except BaseException:
            connection.close()
            raise
        connection.close()
    folder = TemporaryDirectory(prefix="pipeline-journal-")
    try:
        copy = Path(folder.name) / "copy.sqlite"
        shutil.copyfile(path, copy)
        if wal.exists():
            shutil.copyfile(wal, copy.with_name(copy.name + "-wal"))
        return sqlite3.connect(copy, isolation_level=None, check_same_thread=False, timeout=TIMEOUT_SECS), folder
    except BaseException:
        folder.cleanup()
        raise

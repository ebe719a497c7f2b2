"""Durable files: written under a temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from pipeline.errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the path's place when the block ends well.

    Raises:
        StorageError: it could not be made durable; what stood there stands as it was.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = temporary_file(path)
        temporary = file.name
        with file:
            yield file
            sync(file)
        Path(temporary).replace(path)
        temporary = None
        sync_folder(path.parent)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: could not be written: {error}; the old one stands as it was") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def temporary_file(path: Path) -> IO[bytes]:
    """A new file beside the path, hidden from globs; its `name` says where."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(descriptor)
    # The usual permissions of a new file, which mkstemp's 0600 are not.
    Path(name).chmod(0o666 & ~_umask())
    return Path(name).open("wb")


def sync(file: IO[bytes]) -> None:
    """Have what was written on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the folder's new names on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask

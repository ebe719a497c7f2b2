"""Publishing: the output is written whole under a temporary name, made durable, then renamed."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StorageError

ROW_GROUP_ROWS = 32_768
ROW_GROUP_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Published:
    """A published output as it lies on disk: path, bytes, modification time in ns."""

    path: str
    size: int
    mtime_ns: int

    def intact(self) -> bool:
        """Whether the file is still the one that was published, by size and time."""
        try:
            found = Path(self.path).stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)


def check_writable(path: Path) -> None:
    """Make the output's folder and try to write in it, before anything is paid for.

    Raises:
        StorageError: the output could not be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise StorageError(f"{path}: the output is to be a file, but a directory stands there")
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise StorageError(
            f"{path}: the output could not be written there: {error.strerror}; set output.path, or use --output"
        ) from error


def publish(
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    closing: Callable[[], Mapping[str, str]] = dict,
) -> Published:
    """Write the batches as one Parquet file; readers see the old file or the whole new one.

    Batches are gathered into row groups of about 32,768 rows or 64 MiB, whichever is less; `closing` gives
    metadata that is known only when all rows are written.

    Raises:
        StorageError: it could not be made durable; the old file stands as it was.
    """
    with _replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _groups(batches):
            writer.write_table(pa.Table.from_batches(group, schema))
        writer.add_key_value_metadata({f"pipeline.{name}": value for name, value in closing().items()})
    found = path.stat()
    return Published(str(path), found.st_size, found.st_mtime_ns)


def write_summary(output: Path, summary: Mapping[str, Any]) -> None:
    """Write ``<output>.summary.json`` the same way.

    Raises:
        StorageError: it could not be written.
    """
    with _replacing(output.with_name(output.name + ".summary.json")) as file:
        file.write(json.dumps(dict(summary), indent=1, ensure_ascii=False).encode() + b"\n")


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        group.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the path's place when the block ends well: fsync, rename, fsync of the folder."""
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The usual permissions of a new file, which mkstemp's 0600 are not.
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.fchmod(descriptor, 0o666 & ~_umask())
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
        temporary = None
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{path}: could not be written: {error}; the old one stands as it was") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask

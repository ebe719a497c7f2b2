"""Publishing: the output is written whole under a temporary name, made durable, then renamed."""

from __future__ import annotations

import glob
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.job.sections import is_folder
from pipeline.output import parts
from pipeline.output.replacing import replacing
from pipeline.output.writing import Footer, write_file

ROWS_PER_FILE = 1_000_000


@dataclass(frozen=True, slots=True)
class Published:
    """A published output as it lies on disk.

    Attributes:
        path: the file, or the directory of parts.
        size: bytes, of all parts together.
        mtime_ns: of the file, or of the directory's manifest.
        parts: of a directory, this run's parts: name, bytes, modification time in ns.
    """

    path: str
    size: int
    mtime_ns: int
    parts: tuple[tuple[str, int, int], ...] = ()

    def intact(self) -> bool:
        """Whether the output is still the one that was published, by size and time; of a directory this run's parts.

        What other runs have put into the directory since does not count.
        """
        path = Path(self.path)
        if is_folder(path):
            return parts.intact(path, [(name, size, mtime_ns) for name, size, mtime_ns in self.parts])
        try:
            found = path.stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)


def check_writable(path: Path) -> None:
    """Make the output's folder and try to write in it, before anything is paid for.

    Raises:
        StorageError: the output could not be written there.
    """
    folder = path if is_folder(path) else path.parent
    try:
        if folder != path and path.is_dir():
            raise StorageError(f"{path}: the output is to be a file, but a directory stands there")
        if folder == path and path.exists() and not path.is_dir():
            raise StorageError(f"{path}: the output is to be a directory of parts, but a file stands there")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise StorageError(
            f"{path}: the output could not be written there: {error.strerror}; set output.path, or use --output"
        ) from error


def publish(
    path: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    closing: Callable[[], Footer] = dict,
    *,
    rows_per_file: int = ROWS_PER_FILE,
) -> Published:
    """Write the batches as one Parquet file, or into a directory as parts; readers see the old output or the new one.

    Args:
        path: the file, ending in .parquet, or the directory.
        schema: of the output; of a directory, its metadata name the run whose parts are replaced.
        batches: its rows.
        closing: gives metadata that is known only when all rows are written.
        rows_per_file: rows of each part of a directory but the last one.

    Raises:
        StorageError: it could not be made durable; the old output stands as it was.
    """
    if is_folder(path):
        written = parts.publish_parts(path, schema, batches, closing, rows_per_file)
        manifest = parts.manifest_path(path).stat()
        found = [(part.name, part.bytes, (path / part.name).stat().st_mtime_ns) for part in written]
        return Published(str(path), sum(part.bytes for part in written), manifest.st_mtime_ns, tuple(found))
    # What a publishing that was killed has left; the journal's lock keeps others of this job away.
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            left.unlink()
    with replacing(path) as file:
        write_file(file, schema, batches, closing)
    found_file = path.stat()
    return Published(str(path), found_file.st_size, found_file.st_mtime_ns)


def write_summary(output: Path, summary: Mapping[str, Any]) -> None:
    """Write ``<output>.summary.json`` the same way.

    Raises:
        StorageError: it could not be written.
    """
    with replacing(output.with_name(output.name + ".summary.json")) as file:
        file.write(json.dumps(dict(summary), indent=1, ensure_ascii=False).encode() + b"\n")

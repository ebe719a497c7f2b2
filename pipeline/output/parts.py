"""An output that is a directory: parts of some rows each, and a manifest that says which of them count.

A directory may be shared by several runs, each with parts of its own, and by other programs. The manifest is replaced
last: until then the old parts are the output, from then on the new ones are, and only then the run's old parts go.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.output.replacing import replacing, sync, sync_folder, temporary_file
from pipeline.output.writing import Footer, write_file

MANIFEST = "_manifest.json"
FORMAT = 1
MOST_PARTS = 50_000


@dataclass(frozen=True, slots=True)
class Part:
    """A part as the manifest lists it; `sha256` in hex, of the whole file."""

    name: str
    run_id: str
    rows: int
    bytes: int
    sha256: str


def manifest_path(folder: Path) -> Path:
    """The manifest of a directory."""
    return folder / MANIFEST


def run_mark(run_id: str) -> str:
    """What the names of a run's parts have after ``part-``: 8 hex digits."""
    return blake2b(run_id.encode(), digest_size=4).hexdigest()


def read_parts(folder: Path, run_id: str | None = None) -> list[Part]:
    """The parts that the manifest lists, in order; of one run, or of all. None are listed where there is no manifest.

    Raises:
        StorageError: the manifest cannot be read, or is none of ours.
    """
    path = manifest_path(folder)
    try:
        described = json.loads(path.read_text())
        if described["format"] > FORMAT:
            raise StorageError(f"{path}: written by a newer version of this program; upgrade the program")
        listed = [Part(**part) for part in described["parts"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path}: this is no manifest of this program: {error}; move it away, or name another directory"
        ) from error
    return [part for part in listed if run_id in (None, part.run_id)]


def intact(folder: Path, parts: Collection[tuple[str, int, int]]) -> bool:
    """Whether these parts (name, bytes, modification time in ns) lie as they were, and the manifest lists them."""
    try:
        listed = {part.name for part in read_parts(folder)}
        found = [(folder / name).stat() for name, _, _ in parts]
    except (OSError, StorageError):
        return False
    return (
        bool(parts)
        and all(name in listed for name, _, _ in parts)
        and all(
            (size, mtime_ns) == (stat.st_size, stat.st_mtime_ns)
            for (_, size, mtime_ns), stat in zip(parts, found, strict=True)
        )
    )


def publish_parts(
    folder: Path,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    closing: Callable[[], Footer],
    rows_per_file: int,
) -> list[Part]:
    """Write a run's rows as its parts of the directory, in place of the parts that it had there.

    Args:
        folder: the directory; made where there is none.
        schema: of the output; its metadata name the run.
        batches: the rows.
        closing: metadata that is known only when all rows are written; the last part's footer has it.
        rows_per_file: rows of each part but the last one.

    Raises:
        StorageError: they could not be made durable; the run's old parts stand as they were.
    """
    run_id = (schema.metadata or {}).get(b"pipeline.run_id", b"").decode()
    left: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        read_parts(folder)  # a foreign manifest is said before anything is written
        _clear(folder.glob(f".{_pattern(run_id)}.*.tmp"))
        parts = _write_parts(folder, run_id, schema, _Rows(batches), closing, rows_per_file, left)
        for nth, part in enumerate(parts):
            left[nth] = left[nth].rename(folder / part.name)
        sync_folder(folder)
        with _alone(folder):
            _clear(folder.glob(f".{MANIFEST}.*.tmp"))
            others = [part for part in read_parts(folder) if part.run_id != run_id and (folder / part.name).exists()]
            _write_manifest(folder, [*others, *parts])
        left.clear()
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{folder}: could not be written: {error}; the old parts stand as they were") from error
    finally:
        _clear(left)
    # Also what a publishing that was killed has left: no manifest ever listed it.
    current = {part.name for part in parts}
    _clear(path for path in folder.glob(_pattern(run_id)) if path.name not in current)
    return parts


def _write_parts(
    folder: Path,
    run_id: str,
    schema: pa.Schema,
    rows: _Rows,
    closing: Callable[[], Footer],
    rows_per_file: int,
    temporary: list[Path],
) -> list[Part]:
    """Write the parts under temporary names, which are noted as they come to be."""
    parts: list[Part] = []
    names = _free_names(folder, run_id)
    while not parts or rows.more():
        name = next(names)
        file = temporary_file(folder / name)
        temporary.append(Path(file.name))
        with file:
            hashed = _Hashed(file)
            number = write_file(hashed, schema, rows.some(rows_per_file), lambda: {} if rows.more() else closing())
            sync(file)
            parts.append(Part(name, run_id, number, file.tell(), hashed.hexdigest()))
    return parts


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep runs of other jobs, which hold other journals, from replacing the manifest at the same time."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Where the file system knows no such locks, jobs that share a directory must not end at the same moment.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_manifest(folder: Path, parts: Sequence[Part]) -> None:
    described = {
        "format": FORMAT,
        "rows": sum(part.rows for part in parts),
        "parts": [asdict(part) for part in sorted(parts, key=lambda part: part.name)],
    }
    with replacing(manifest_path(folder)) as file:
        file.write(json.dumps(described, indent=1).encode() + b"\n")


def _pattern(run_id: str) -> str:
    return f"part-{run_mark(run_id)}-[0-9][0-9][0-9][0-9][0-9].parquet"


def _free_names(folder: Path, run_id: str) -> Iterator[str]:
    """Names after those that the run's parts have, so that the new parts can lie beside the old ones until these go.

    A name is not given again for as long as possible: who holds an older manifest must find the part gone, not another.
    """
    taken = {int(path.stem.rpartition("-")[2]) for path in folder.glob(_pattern(run_id))}
    first = max(taken, default=-1) + 1
    for number in range(first if first < MOST_PARTS else 0, 2 * MOST_PARTS):
        if number not in taken:
            yield f"part-{run_mark(run_id)}-{number:05}.parquet"
    raise StorageError(f"{folder}: there are more than {MOST_PARTS:,} parts of this run; raise output.rows_per_file")


def _clear(paths: Iterable[Path]) -> None:
    """Remove files that are nobody's any more; one that cannot be removed now goes with the next publishing."""
    for path in list(paths):
        with suppress(OSError):
            path.unlink()


class _Rows:
    """Batches that can be cut anywhere, and that know whether there are more."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = iter(batches)
        self._held: pa.RecordBatch | None = None

    def more(self) -> bool:
        """Whether there is another row."""
        while self._held is None or not self._held.num_rows:
            self._held = next(self._batches, None)
            if self._held is None:
                return False
        return True

    def some(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The next rows, so many or all that are left."""
        left = rows
        while left and self.more():
            assert self._held is not None
            batch, rest = self._held.slice(0, left), self._held.slice(left)
            self._held = rest
            left -= batch.num_rows
            yield batch


class _Hashed(io.RawIOBase):
    """A file that is written from its beginning to its end, and hashed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = sha256()

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: Any) -> int:
        """Write and hash."""
        self._hash.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def flush(self) -> None:
        """Hand on what was written; a file that is closed already has it."""
        if not self._file.closed:
            self._file.flush()

    def hexdigest(self) -> str:
        """The hash of what was written."""
        return self._hash.hexdigest()

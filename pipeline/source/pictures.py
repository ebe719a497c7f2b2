"""Pictures as a source: a folder or glob of picture files to rows of what their names and headers say.

A file counts as a picture by the ending of its name. Others are left out and counted; a picture that turns out to be
broken, or to be no file at all, is a row like any other, which fails when it is asked about.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from array import array
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.source.contract import Complain, broken, nothing_there, short
from pipeline.source.files import FORMATS, SourceFile, glob_root, suffixes

SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".gif",
        ".webp",
        ".bmp",
        ".tif",
        ".tiff",
        ".heic",
        ".heif",
        ".avif",
        ".pdf",
    }
)
"""Endings of names that make a file a picture; a PDF is sent as a document."""

ENDINGS = ", ".join(sorted(SUFFIXES))
BATCH_ROWS = 500
HEADER_BYTES = 256 * 1024
"""What is read of a file to know its size in pixels; where the header is longer, all of it is."""

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("name", pa.string()),
        ("size", pa.int64()),
        ("modified", pa.timestamp("us", "UTC")),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("taken", pa.timestamp("us")),
    ]
)
"""`path` starts at the folder (`picture_folder`); width and height are those of the upright picture; `taken` is the
camera's own time, which has no zone. What a header does not say, or of a broken one, is null."""

FROM_HEADERS = frozenset({"format", "width", "height", "taken"})


def is_pictures(patterns: Sequence[str], wanted: str) -> bool:
    """Whether a source is pictures: the job says so, or is silent and names pictures, or folders of nothing but.

    Args:
        patterns: `source.path`, absolute.
        wanted: `source.format`.
    """
    if wanted != "auto":
        return wanted == "images"
    return bool(patterns) and all(_names_pictures(pattern) for pattern in patterns)


def _names_pictures(pattern: str) -> bool:
    if Path(pattern).suffix.lower() in SUFFIXES:
        return True
    if suffixes(pattern)[0] in FORMATS or "\0" in pattern or not _is_folder(pattern):
        return False
    found = False
    for _, folders, names in os.walk(pattern):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        for name in names:
            if name.startswith((".", "_")):
                continue
            if suffixes(name)[0] in FORMATS:
                return False
            found = found or Path(name).suffix.lower() in SUFFIXES
    return found


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except OSError:  # longer than the system takes
        return False


def picture_folder(patterns: Sequence[str]) -> str:
    """Give the folder that all pictures of a source lie in: where relative paths start, and what none may leave."""
    roots = [pattern if _is_folder(pattern) else _folder(pattern) for pattern in patterns]
    return os.path.commonpath(roots)


def _folder(pattern: str) -> str:
    root = glob_root(pattern)
    return root if _is_folder(root) else str(Path(root).parent)


@dataclass(slots=True)
class Listing:
    """The files of a source of pictures, in byte order of their paths.

    Attributes:
        folder: what `path` starts at.
        paths: relative to the folder.
        sizes: in bytes.
        times: of the last change, in nanoseconds.
        skipped: how many files were left out, since they are no pictures.
        outside: those that are links out of the folder.
    """

    folder: str
    paths: list[str] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("q"))
    times: array[int] = field(default_factory=lambda: array("q"))
    skipped: int = 0
    outside: set[str] = field(default_factory=set)

    @property
    def fingerprint(self) -> str:
        """Hex hash over path, size and time of every file, in order."""
        digest = hashlib.blake2b(digest_size=16)
        for path, size, mtime_ns in zip(self.paths, self.sizes, self.times, strict=True):
            raw = os.fsencode(path)
            digest.update(b"%d:%b%d:%d;" % (len(raw), raw, size, mtime_ns))
        return digest.hexdigest()


def find_pictures(patterns: Sequence[str], complain: Complain) -> Listing:
    """List the pictures that the patterns name, each once.

    Nothing is opened. Of what a link out of the folder leads to no row tells anything; whether it may be sent is
    judged when it is read.

    Args:
        patterns: absolute paths.
        complain: makes a complaint.

    Raises:
        NothingThereError: a pattern names nothing that is there, or no picture.
        JobError: a pattern is no path.
    """
    for pattern in patterns:
        if "\0" in pattern:
            raise broken(complain, "source.path", f"{pattern!r} is not a path: it holds a NUL")
    listing = Listing(picture_folder(patterns))
    found: set[str] = set()
    for pattern in patterns:
        before = len(found) + listing.skipped
        for path in _matches(pattern):
            if Path(path).suffix.lower() in SUFFIXES:
                found.add(os.path.relpath(path, listing.folder))
            else:
                listing.skipped += 1
        if len(found) + listing.skipped == before and not os.path.lexists(pattern):
            raise nothing_there(complain, f"no file matches {short(pattern)}")
    if not found:
        message = f"{short(patterns[0])} names no picture; pictures are files that end in {ENDINGS}"
        raise nothing_there(complain, message)
    listing.paths = sorted(found, key=os.fsencode)
    inside = _Inside(listing.folder)
    for path in listing.paths:
        look = _look(Path(listing.folder) / path)
        if not inside.has(path):
            listing.outside.add(path)
        listing.sizes.append(look.st_size if look is not None else -1)
        listing.times.append(look.st_mtime_ns if look is not None else 0)
    return listing


def _look(path: Path) -> os.stat_result | None:
    """Stat what a path leads to; None where that is no regular file."""
    try:
        look = path.stat()
    except OSError:
        return None
    return look if stat.S_ISREG(look.st_mode) else None


class _Inside:
    """Tells what really lies in a folder; the folders within are resolved once each."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._real = os.path.realpath(folder)
        self._folders: dict[str, bool] = {}

    def has(self, path: str) -> bool:
        """Whether a path of the folder stays in it when its links are followed."""
        above = path.rpartition(os.sep)[0]
        if above not in self._folders:
            self._folders[above] = self._real_is_in(self._folder / above)
        place = self._folder / path
        return self._real_is_in(place) if place.is_symlink() else self._folders[above]

    def _real_is_in(self, place: Path) -> bool:
        return Path(os.path.realpath(place)).is_relative_to(self._real)


def _matches(pattern: str) -> Iterator[str]:
    if _is_folder(pattern):
        for folder, folders, names in os.walk(pattern):
            folders[:] = [name for name in folders if not name.startswith((".", "_"))]
            yield from (str(Path(folder) / name) for name in names if not name.startswith((".", "_")))
    elif os.path.lexists(pattern):
        yield pattern
    else:
        matched = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - Path.glob would match hidden files
        yield from (path for path in matched if not _is_folder(path))


@dataclass(slots=True)
class PictureTable:
    """The pictures as a table."""

    listing: Listing
    names: tuple[str, ...] = tuple(SCHEMA.names)
    _schema: Any = None

    @property
    def file(self) -> SourceFile:
        """The listing as if it were one file; rows are named by their paths."""
        listing = self.listing
        return SourceFile(listing.folder, Path(listing.folder).name, "parquet", None, tabbed=False, size=0, mtime_ns=0)

    def settle(self, columns: Sequence[str]) -> pa.Schema:
        """The types of these columns."""
        self._schema = pa.schema([SCHEMA.field(name) for name in columns])
        return self._schema

    def read(self, _: SourceFile) -> Generator[pa.RecordBatch, None, None]:
        """The rows; files are opened only where a column asks for what is in their headers."""
        listing = self.listing
        opens = not FROM_HEADERS.isdisjoint(self._schema.names)
        for start in range(0, len(listing.paths), BATCH_ROWS):
            rows = [self._row(nth, opens=opens) for nth in range(start, min(start + BATCH_ROWS, len(listing.paths)))]
            columns = [
                pa.array([row[column.name] for row in rows], column.type, from_pandas=False) for column in self._schema
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _row(self, nth: int, *, opens: bool) -> dict[str, Any]:
        listing = self.listing
        path, size = listing.paths[nth], listing.sizes[nth]
        # A name that is no UTF-8 can be shown, and then names nothing that is there.
        shown = os.fsencode(path).decode("utf-8", "replace")
        row: dict[str, Any] = dict.fromkeys(SCHEMA.names)
        row |= {"path": shown, "name": Path(shown).name}
        if size >= 0 and path not in listing.outside:
            row |= {"size": size, "modified": listing.times[nth] // 1000}
            if opens:
                row |= _header(Path(listing.folder) / path)
        return row


def _header(path: Path) -> dict[str, Any]:
    """What a header says; nothing where it cannot be read."""
    from pipeline.source.headers import read_header

    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError:
        return {}
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return {}
        found = read_header(file)
    if found is None:
        return {}
    return {"format": found.format, "width": found.width, "height": found.height, "taken": found.taken}

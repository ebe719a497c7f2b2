"""Patterns to files: which files a source reads, in which order, and what tells that they changed."""

from __future__ import annotations

import difflib
import glob
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.source.contract import Complain, broken, nothing_there, short

Format = Literal["parquet", "csv", "ndjson"]
Compression = Literal["gzip", "zstd"]

FORMATS: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}
COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}
SUPPORTED = ", ".join(FORMATS)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read.

    Attributes:
        path: as the pattern named it, absolute.
        label: names the file in row names: its base name, or more of its path where two files share that.
        tabbed: its suffix says that a tab separates the cells.
        size: in bytes, as stored.
        mtime_ns: time of the last change.
    """

    path: str
    label: str
    format: Format
    compression: Compression | None
    tabbed: bool
    size: int
    mtime_ns: int


def find_files(patterns: Sequence[str], wanted: str, complain: Complain) -> list[SourceFile]:
    """The files that the patterns name, each once, in the order of the patterns.

    Within a glob or a directory, files are in byte order of their paths. A directory means every file of a supported
    format in it and below it; names that start with ``.`` or ``_`` are skipped there, as other table readers do
    (`_SUCCESS`, `_delta_log`). A glob matches files only, and hidden ones only if it says so. A file reached twice,
    also through a link, is read once, where it was reached first.

    Args:
        patterns: absolute paths.
        wanted: auto, parquet, csv or ndjson.
        complain: makes a complaint.

    Raises:
        NothingThereError: a pattern that matches nothing, a directory with nothing in it.
        JobError: a file that is missing, unreadable, empty, not a regular file or of no known format; formats that are
            mixed.
    """
    seen: set[str] = set()
    found: list[tuple[str, os.stat_result]] = []
    for pattern in patterns:
        try:
            paths = _matches(pattern, wanted, complain)
        except OSError as error:
            raise broken(complain, "source.path", f"{short(pattern)}: {_reason(error)}") from error
        for path in paths:
            real = os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                found.append((path, _look(path, complain)))
    labels = _labels([path for path, _ in found])
    files = [_describe(path, label, look, wanted, complain) for (path, look), label in zip(found, labels, strict=True)]
    for file in files:
        if file.format != files[0].format:
            message = f"{files[0].path} is {files[0].format} and {file.path} is {file.format}: a source has one format"
            raise broken(complain, "source.path", message)
    return files


def fingerprint(files: Sequence[SourceFile]) -> str:
    """Hex hash over path, size and mtime of every file, in order."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        digest.update(f"{len(os.fsencode(file.path))}:".encode() + os.fsencode(file.path))
        digest.update(f"{file.size}:{file.mtime_ns};".encode())
    return digest.hexdigest()


def suffixes(path: str) -> tuple[str, Compression | None]:
    """The suffix that names the format (empty where there is none), and the compression around it."""
    name = Path(path.lower())
    compression = COMPRESSIONS.get(name.suffix)
    return (Path(name.stem) if compression else name).suffix, compression


def _matches(pattern: str, wanted: str, complain: Complain) -> list[str]:
    if "\0" in pattern:
        raise broken(complain, "source.path", f"{pattern!r} is not a path: it holds a NUL")
    if Path(pattern).is_dir():
        return _inside(pattern, wanted, complain)
    if os.path.lexists(pattern):
        return [pattern]
    if not glob.has_magic(pattern):
        raise broken(complain, "source.path", f"no such file: {pattern}{_nearest(pattern)}")
    paths = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob would match hidden files
    if files := [path for path in paths if not Path(path).is_dir()]:
        return sorted(files, key=os.fsencode)
    if paths:
        message = f"{pattern} matches directories only; to read the files below them write {pattern.rstrip('/*')}/**/*"
        raise broken(complain, "source.path", message)
    raise nothing_there(complain, f"no file matches {pattern}{_nearest(glob_root(pattern))}")


def glob_root(pattern: str) -> str:
    """The part of a glob before its first wildcard: a directory, or what should be one."""
    root = Path(pattern)
    while glob.has_magic(str(root)):
        root = root.parent
    return str(root)


def _inside(directory: str, wanted: str, complain: Complain) -> list[str]:
    def unreadable(error: OSError) -> None:
        raise broken(complain, "source.path", f"{error.filename}: {_reason(error)}") from error

    def walk() -> Iterator[str]:
        for folder, folders, names in os.walk(directory, onerror=unreadable):
            folders[:] = [name for name in folders if not name.startswith((".", "_"))]
            for name in names:
                kind = FORMATS.get(suffixes(name)[0])
                if not name.startswith((".", "_")) and kind and wanted in ("auto", kind):
                    yield str(Path(folder) / name)

    if paths := sorted(walk(), key=os.fsencode):
        return paths
    looked_for = SUPPORTED if wanted == "auto" else ", ".join(s for s, kind in FORMATS.items() if kind == wanted)
    raise nothing_there(complain, f"{directory} holds no file of a supported format ({looked_for}, .gz, .zst)")


def _look(path: str, complain: Complain) -> os.stat_result:
    try:
        look = Path(path).stat()
    except OSError as error:
        raise broken(complain, "source.path", f"{path}: {_reason(error)}") from error
    if not stat.S_ISREG(look.st_mode):
        raise broken(complain, "source.path", f"{path} is not a regular file")
    if not look.st_size:
        raise broken(complain, "source.path", f"{path} is empty (0 bytes)")
    return look


def _describe(path: str, label: str, look: os.stat_result, wanted: str, complain: Complain) -> SourceFile:
    suffix, compression = suffixes(path)
    kind = FORMATS.get(suffix) if wanted == "auto" else _format(wanted)
    if kind is None:
        message = (
            f"{path}: its name does not tell the format; known are {SUPPORTED}, also .gz and .zst; or set source.format"
        )
        raise broken(complain, "source.path", message)
    return SourceFile(path, label, kind, compression, suffix in (".tsv", ".tab"), look.st_size, look.st_mtime_ns)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _format(name: str) -> Format | None:
    return next((kind for kind in FORMATS.values() if kind == name), None)


def _labels(paths: Sequence[str]) -> list[str]:
    names = [Path(path).name for path in paths]
    if len(set(names)) == len(names):
        return names
    root = os.path.commonpath([Path(path).parent for path in paths])
    return [os.path.relpath(path, root) for path in paths]


def _nearest(path: str) -> str:
    """What a wrong path may have meant: a neighbour of the same look, or how far it exists."""
    folder = Path(path).parent
    if folder.is_dir():
        try:
            near = difflib.get_close_matches(Path(path).name, [near.name for near in folder.iterdir()], n=1)
        except OSError:
            near = []
        return f"; did you mean {near[0]}?" if near and near[0] != Path(path).name else ""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return f"; of its folders, {folder} is the last that exists"

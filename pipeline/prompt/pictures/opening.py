"""Opening picture files: inside of one folder after every link is followed, and regular files only.

A path is resolved first, and the resolved path is then walked from the folder down without following anything, so that
a link that is put in its way meanwhile is refused rather than followed. What is no regular file is told by looking at
it, before it is opened: opening a FIFO would wait for its writer, and opening a device may do anything.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RowError

MAX_BYTES = 64 * 1000 * 1000
"""What a picture file may have at most: a camera's largest, several times over."""

_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_FILE = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_STEPWISE = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd
_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells that a file is still the same: its real path, its size in bytes and its time of change."""

    path: str
    size: int
    mtime_ns: int


class Root:
    """The folder that pictures may come from.

    Args:
        folder: absolute; every picture lies in it or below.
        base: where relative paths start; the folder itself by default.
    """

    def __init__(self, folder: Path, base: Path | None = None) -> None:
        self.folder = folder
        self._base = os.path.abspath(folder if base is None else base)  # noqa: PTH100 - Path.resolve follows links
        self._written = os.path.abspath(folder)  # noqa: PTH100 - as above
        self._real = os.path.realpath(folder)

    def stamp(self, path: str) -> Stamp:
        """Find a picture, without opening it.

        Args:
            path: as the row has it; relative to the base, or absolute.

        Raises:
            RowError: `image_missing`: there is none, or it cannot be reached; `image_blocked`: it lies outside of the
                folder, or is no regular file; `image_too_large`.
        """
        real = self._resolved(path)
        try:
            look = os.lstat(real)
        except OSError as error:
            raise _missing(path, error) from error
        _check(path, look)
        return Stamp(real, look.st_size, look.st_mtime_ns)

    def read(self, stamp: Stamp) -> tuple[Stamp, bytes]:
        """Read a picture that `stamp` found; gives what it is now, with its bytes.

        Raises:
            RowError: as `stamp`.
        """
        path = stamp.path
        try:
            fd = self._opened(path)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                message = (
                    f"{_shown(path)} became a link since it was found; pictures are not followed out of their folder"
                )
                raise RowError("image_blocked", message) from error
            raise _missing(path, error) from error
        try:
            look = os.fstat(fd)
            _check(path, look)
            with os.fdopen(fd, "rb", buffering=0, closefd=False) as file:
                content = _all(file.fileno(), look.st_size)
        except OSError as error:
            raise _missing(path, error) from error
        finally:
            os.close(fd)
        if len(content) > MAX_BYTES:
            raise _too_large(path, len(content))
        return Stamp(path, len(content), look.st_mtime_ns), content

    def _resolved(self, path: str) -> str:
        if "\0" in path or not path:
            raise RowError("image_missing", f"{_shown(path)} is no path")
        joined = os.path.normpath(os.path.join(self._base, path))  # noqa: PTH118 - paths are text here
        if not (_inside(joined, self._written) or _inside(joined, self._real)):
            raise self._outside(path)
        try:
            real = os.path.realpath(joined, strict=True)
        except OSError as error:
            raise _missing(path, error) from error
        except ValueError as error:  # half a surrogate pair
            raise RowError("image_missing", f"{_shown(path)} is no path: {error}") from error
        if not _inside(real, self._real):
            raise self._outside(path)
        return real

    def _outside(self, path: str) -> RowError:
        message = f"{_shown(path)} leads out of {self.folder}; pictures come from there alone (prompt.image_root)"
        return RowError("image_blocked", message)

    def _opened(self, real: str) -> int:
        """Open a resolved path step by step, following nothing."""
        if not _STEPWISE:
            return os.open(real, _FILE)
        steps = Path(os.path.relpath(real, self._real)).parts
        at = os.open(self._real, _DIRECTORY & ~getattr(os, "O_NOFOLLOW", 0))
        try:
            for step in steps[:-1]:
                inner = os.open(step, _DIRECTORY, dir_fd=at)
                os.close(at)
                at = inner
            _check(real, os.stat(steps[-1], dir_fd=at, follow_symlinks=False))
            return os.open(steps[-1], _FILE, dir_fd=at)
        finally:
            os.close(at)


def _all(fd: int, size: int) -> bytes:
    """Read to the end, but no further than the cap: a file may grow while it is read."""
    pieces = []
    left = MAX_BYTES + 1
    while left and (piece := os.read(fd, min(left, max(size, 65_536)))):
        pieces.append(piece)
        left -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _check(path: str, look: os.stat_result) -> None:
    if not stat.S_ISREG(look.st_mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(look.st_mode)), "no regular file")
        raise RowError("image_blocked", f"{_shown(path)} is {kind}; a picture is a regular file")
    if look.st_size > MAX_BYTES:
        raise _too_large(path, look.st_size)


def _too_large(path: str, size: int) -> RowError:
    return RowError("image_too_large", f"{_shown(path)} has {size:,} bytes; the most is {MAX_BYTES:,}")


def _missing(path: str, error: OSError) -> RowError:
    words = (error.strerror or str(error)).lower()
    if "\ufffd" in path:
        words += "; a name that is no UTF-8 cannot stand in a table: rename the file"
    return RowError("image_missing", f"{_shown(path)}: {words}")


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _shown(path: str) -> str:
    """A path for a message: one line, at most 200 characters."""
    text = path if path.isprintable() else repr(path)[1:-1]
    return text if len(text) <= 200 else f"{text[:100]}…{text[-99:]}"

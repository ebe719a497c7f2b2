"""Bytes of a file, decompressed on the way; foreign errors of reading become ours here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa

from pipeline.errors import StorageError
from pipeline.source.contract import Complain, broken, first_line
from pipeline.source.files import SourceFile

BUFFER_BYTES = 1 << 20


def open_bytes(file: SourceFile) -> Any:
    """An Arrow input stream over the decompressed bytes; to be closed by the caller.

    Raises:
        OSError: the file cannot be opened.
    """
    return pa.input_stream(file.path, compression=file.compression, buffer_size=BUFFER_BYTES)


@contextmanager
def open_utf8(file: SourceFile, encoding: str) -> Iterator[Any]:
    """An Arrow input stream over text in UTF-8; `encoding` is the file's, utf8 where it is that already.

    Raises:
        OSError: the file cannot be opened.
    """
    with open_bytes(file) as raw:
        yield raw if encoding == "utf8" else pa.transcoding_input_stream(raw, encoding, "utf8")


class Extended:
    """The bytes of a stream and then a tail, for a reader that reads ahead in a thread of its own.

    Arrow's threads go on for a while after their reader was closed. From `close` on they find the end, and whoever
    closed may rely on nobody reading the stream. Where `watch` does not approve of what would be given next, the reader
    finds the end, too.
    """

    def __init__(self, stream: Any, tail: bytes, watch: Callable[[bytes], bool] | None = None) -> None:
        self._stream, self._tail, self._watch = stream, tail, watch
        self._lock = Lock()
        self.closed = False

    def read(self, size: int) -> bytes:
        """So many bytes; fewer where they come to an end, and none once this is closed."""
        with self._lock:
            if self.closed:
                return b""
            # Decoders stop short, and Arrow looks for a header in what comes first, however little that is.
            parts: list[bytes] = []
            left = size
            while left and (some := self._stream.read(left)):
                parts.append(some)
                left -= len(some)
            parts.append(self._tail[:left])
            self._tail = self._tail[left:]
            data = b"".join(parts) if parts[1:] != [b""] else parts[0]
            # An error would reach Arrow's reader before the rows that it has read ahead.
            self.closed = self._watch is not None and not self._watch(data)
            return b"" if self.closed else data

    def close(self) -> None:
        """Give nothing more; waits for a read that is under way. The stream stays open."""
        with self._lock:
            self.closed = True


@contextmanager
def open_seekable(file: SourceFile, spill: Path | None) -> Iterator[Any]:
    """The bytes for readers that jump about: the file itself, or a temporary decompressed copy without a name.

    Raises:
        StorageError: there is no room for the copy.
    """
    if file.compression is None:
        with pa.OSFile(file.path) as opened:
            yield opened
        return
    with tempfile.TemporaryFile(dir=spill) as copy:
        with open_bytes(file) as packed:
            try:
                shutil.copyfileobj(packed, copy, BUFFER_BYTES)
            except OSError as error:
                if error.errno is None:  # Arrow's own: the compressed stream is broken
                    raise
                raise StorageError(
                    f"{spill or tempfile.gettempdir()}: cannot hold {file.path} decompressed: {error}"
                ) from error
        copy.seek(0)
        yield copy


@contextmanager
def reading(file: SourceFile, complain: Complain) -> Iterator[None]:
    """Turn what the libraries raise over a file into one complaint at `source.path` that names the file.

    Raises:
        JobError: the file cannot be read.
    """
    try:
        yield
    except PermissionError as error:
        raise broken(complain, "source.path", f"{file.path}: permission denied") from error
    except FileNotFoundError as error:
        raise broken(complain, "source.path", f"{file.path}: the file is gone") from error
    except (pa.ArrowException, OSError, UnicodeError) as error:
        message = f"{file.path}: cannot be read as {file.format}: {_plainly(error)}"
        raise broken(complain, "source.path", message) from error


def _plainly(error: BaseException) -> str:
    text = first_line(error)
    if "magic bytes not found" in text:
        return "it is cut off, or no parquet at all (the mark at its end is missing)"
    return text[:1].lower() + text[1:]

"""Every request a simulator received and how it ended: JSON lines, on disk before the answer is whole on the wire."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import orjson

TOKENS = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
_CHUNK_BYTES = 262_144


class Ledger:
    """An append-only file of entries, and their counts.

    A line is written with one call and no buffer of ours before its answer is sent, or before the event that makes a
    streamed one whole, so after a kill -9 of the server the ledger holds every answer that a client can have seen.
    An entry with usage was answered, and paid for unless its `stop_reason` is refusal: a stream that broke off has the
    status 200 that began it, its fault, and no usage, since nobody was told its total. Without a path the lines go to
    a temporary file, so that memory stays the same however long a rehearsal is.

    Args:
        path: the file, which is made or appended to; None for a temporary one.

    Raises:
        OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path | None) -> None:
        self._file: IO[bytes] = (
            tempfile.TemporaryFile(buffering=0) if path is None else path.open("a+b", buffering=0)  # noqa: SIM115
        )
        self._start = self._end = self._file.seek(0, 2)
        self._by_status: Counter[str] = Counter()
        self._by_fault: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()
        self._sent = 0

    def add(self, entry: dict[str, Any]) -> None:
        """Write one entry; `status` is None where the connection ended without an answer."""
        line = orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
        self._file.write(line)
        self._end += len(line)
        self._by_status["none" if entry["status"] is None else str(entry["status"])] += 1
        if entry["fault"] is not None:
            self._by_fault[entry["fault"]] += 1
        if entry["usage"] is not None:
            self._tokens.update(entry["usage"])
        self._sent += entry["sent"]

    def stats(self) -> dict[str, Any]:
        """Count the entries since this ledger was opened."""
        return {
            "total": self._by_status.total(),
            "sent": self._sent,
            "by_status": dict(self._by_status),
            "by_fault": dict(self._by_fault),
            "usage": {name: self._tokens[name] for name in TOKENS},
        }

    def chunks(self) -> Iterator[bytes]:
        """Give the lines written since this ledger was opened, up to now, in pieces of bounded size."""
        place, end = self._start, self._end
        while place < end:
            self._file.seek(place)
            piece = self._file.read(min(_CHUNK_BYTES, end - place))
            self._file.seek(0, 2)  # the next entry goes to the end, also where the file is not in append mode
            if not piece:
                return
            place += len(piece)
            yield piece

    def close(self) -> None:
        """Close the file; a temporary one is gone then."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""A streamed answer, put together into the body that a plain answer would have had.

Sources: messages-api §4.1 (native), §4.2 (chunks of OpenAI-like servers), §11 (what each server leaves out or adds).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from pipeline.records import Response
from pipeline.wire.asked import Asked
from pipeline.wire.decode import NOBODY, Unusable, decode, is_error, unusable
from pipeline.wire.pieces import written
from pipeline.wire.sse import Event, EventTooLongError, Parser
from pipeline.wire.stream_chunks import Chunks
from pipeline.wire.stream_native import NATIVE_EVENTS, Native

DONE = b"[DONE]"


class Assembler(Protocol):
    """One shape of streams."""

    @property
    def begun(self) -> bool:
        """Whether something of the answer itself has come."""

    @property
    def complete(self) -> bool:
        """Whether nothing of the answer itself is missing."""

    def done(self) -> None:
        """Take in the word `[DONE]`."""

    def take(self, name: str, found: Mapping[str, Any]) -> None:
        """Take in an event: its name, or its `type` where it has one, and its data."""

    def body(self) -> dict[str, Any]:
        """The body of the plain answer."""


class Stream:
    """One streamed answer, taken in piece by piece; the pieces need not end where events or characters do.

    Memory is what the answer needs, not what the stream had.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._parser = Parser(max_event_bytes)
        self._assembler: Assembler | None = None
        self._error: dict[str, Any] | None = None
        self._broken: str | None = None

    @property
    def begun(self) -> bool:
        """Whether something of the answer itself has come, so that it will be billed."""
        return self._assembler is not None and self._assembler.begun

    @property
    def complete(self) -> bool:
        """Whether the whole answer has come; further events can only add what it cost."""
        return self._assembler is not None and self._assembler.complete

    @property
    def failed(self) -> bool:
        """Whether the server said an error, or nonsense, before the answer was complete."""
        return self._error is not None or self._broken is not None

    def feed(self, piece: bytes) -> None:
        """Take in the next bytes; those after a failure are passed over."""
        if self.failed:
            return
        try:
            for event in self._parser.feed(piece):
                self._take(event)
        except EventTooLongError as why:
            self._break(str(why))

    def body(self) -> dict[str, Any]:
        """The stream has ended: the body of the plain answer, or of the error that the server sent instead.

        Raises:
            Unusable: it ended before its answer did, or what came is none.
        """
        if not self.failed:
            self._flush()
        if self._error is not None:
            return self._error
        if self._broken is not None:
            raise Unusable(f"a stream that holds {self._broken}")
        if self._assembler is None:
            raise Unusable("a stream without an answer")
        if not self._assembler.complete:
            raise Unusable("a stream that ends before its answer does")
        return self._assembler.body()

    def _flush(self) -> None:
        """Take what came last if it is whole; a part of an event tells no more than its absence."""
        for event in self._parser.close():
            self._take(event)
        self._broken = None

    def _take(self, event: Event) -> None:
        if self.failed:
            return
        if event.data.strip() == DONE:
            if self._assembler is not None:
                self._assembler.done()
            return
        try:
            found = loads(event.data)
        except ValueError:
            if event.name == "ping":
                return
            if event.name != "error":
                self._break("data that are not JSON")
                return
            found = event.data.decode("utf-8", "replace")
        if not isinstance(found, dict):
            if event.name == "error":
                self._fail({"type": "error", "error": {"message": found}})
            return
        kind = found.get("type")
        name = kind if isinstance(kind, str) and kind else event.name
        if event.name == "error" or is_error(found):
            # llama.cpp sends the inner object alone.
            self._fail(found if is_error(found) else {"type": "error", "error": found})
            return
        if self._assembler is None:
            self._assembler = assembler_for(name, found)
        if self._assembler is not None:
            self._assembler.take(name, found)

    def _fail(self, error: dict[str, Any]) -> None:
        if not self.complete:
            self._error = error

    def _break(self, why: str) -> None:
        if not self.complete:
            self._broken = why


def assembler_for(name: str, found: Mapping[str, Any]) -> Assembler | None:
    """What puts a stream together that has such an event; None where the event does not tell."""
    if name in NATIVE_EVENTS:
        return Native()
    return Chunks() if "choices" in found else None


def read_stream(
    status: int, headers: Mapping[str, str], stream: Stream, *, asked: Asked = NOBODY, prompt: bytes = b""
) -> Response:
    """Read a streamed answer that has ended, as `decode` reads a plain one; `raw` is the body put together.

    Raises:
        Refused: the server would say it again.
        Busy: worth another attempt: a stream that was cut off or makes no sense, or that the server ended by an error.
        RunRejected: the API rejects every row alike.
    """
    try:
        raw = written(stream.body())
    except Unusable as why:
        raise unusable(str(why), status, headers, asked) from why
    return decode(status, headers, raw, asked=asked, prompt=prompt, begun=stream.begun)


def loads(data: bytes) -> Any:
    r"""Read JSON, also such as holds half a character.

    Servers in JavaScript may cut a text between the halves of an emoji, and send each as `\ud83d`.

    Raises:
        ValueError: it is no JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        if b"\\ud" not in data.lower():
            raise
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error

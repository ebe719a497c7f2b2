"""Server-sent events: bytes in pieces of any size to events.

The format is the WHATWG HTML standard's (section "Server-sent events"), read leniently: an event that the end of the
stream cuts off before its blank line counts, as some servers send nothing after the last one.
"""

from __future__ import annotations

from typing import NamedTuple

BOM = b"\xef\xbb\xbf"
FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
SNIFF_BYTES = 1024


class Event(NamedTuple):
    """One event.

    Attributes:
        name: its `event:` line; empty where there is none.
        data: its `data:` lines, joined by line feeds.
    """

    name: str
    data: bytes


class EventTooLongError(ValueError):
    """One event is longer than the cap."""


class Parser:
    """Takes the bytes of one stream, in order, and gives its events.

    Lines end in LF, CR or CRLF; comments and fields other than `data` and `event` are passed over, and so are events
    without data. Work is linear in the bytes whatever the size of the pieces, and no more than one event is held.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._partial = bytearray()  # the beginning of a line whose end has not come
        self._after_cr = False  # the last piece ended in CR: an LF after it belongs to that line end
        self._first = True
        self._name = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> list[Event]:
        """The events that end within this piece.

        Raises:
            EventTooLongError: an event is longer than the cap.
        """
        if not piece:
            return []
        if self._after_cr and piece[:1] == b"\n":
            piece = piece[1:]
        self._after_cr = piece[-1:] == b"\r"
        end = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        if not end:
            self._partial += piece
            self._hold(len(self._partial))
            return []
        lines = (bytes(self._partial) + piece[:end] if self._partial else piece[:end]).splitlines()
        self._partial = bytearray(piece[end:])
        events: list[Event] = []
        for line in lines:
            self._line(line, events)
        self._hold(len(self._partial))
        return events

    def close(self) -> list[Event]:
        """The stream has ended: the event that was under way, if there is one."""
        events: list[Event] = []
        if self._partial:
            self._line(bytes(self._partial), events)
            self._partial.clear()
        self._line(b"", events)
        return events

    def _line(self, line: bytes, events: list[Event]) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(BOM)
        if not line:
            if self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                if data.strip():
                    events.append(Event(self._name.decode("utf-8", "replace"), data))
                self._data, self._data_bytes = [], 0
            self._name = b""
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data_bytes += len(line)
            if self._data_bytes > self._max_event_bytes:
                self._hold(0)
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")

    def _hold(self, more: int) -> None:
        if self._data_bytes + more > self._max_event_bytes:
            raise EventTooLongError(f"an event of more than {self._max_event_bytes} bytes")


def is_stream(start: bytes, *, declared: bool) -> bool | None:
    """Whether a body that starts so is a stream of events; None while there are too few bytes to say.

    Args:
        start: the body's first bytes.
        declared: whether its content type says so, which is believed unless the body starts like JSON or HTML.
    """
    if len(start) < len(BOM) and BOM.startswith(start):
        return None
    head = start.removeprefix(BOM).lstrip()
    if head[:1] in {b"{", b"[", b"<"}:
        return False
    if len(start) >= SNIFF_BYTES or (declared and head):
        return declared
    if any(head.startswith(field) for field in FIELDS):
        return True
    return None if any(field.startswith(head) for field in FIELDS) else False

"""A stream of the Messages API's events, put together into a message (messages-api §4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from pipeline.wire.pieces import overlay, whole

NATIVE_EVENTS = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    }
)

FIELD_OF_DELTA: Mapping[str, tuple[str, str]] = {
    "text_delta": ("text", "text"),
    "input_json_delta": ("partial_json", "input"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("signature", "signature"),
}
"""For a delta's type: its member that holds a piece of text, and the member of the block that the piece belongs to."""

IMPLIED_BLOCKS: Mapping[str, Mapping[str, str]] = {
    "text_delta": {"type": "text", "text": ""},
    "thinking_delta": {"type": "thinking", "thinking": ""},
}
"""What a delta belongs to if no block was started for it; other deltas say too little without one."""


class Block:
    """A content block that is still growing."""

    __slots__ = ("citations", "pieces", "start")

    def __init__(self, start: Mapping[str, Any]) -> None:
        self.start = start
        self.pieces: dict[str, list[str]] = {}
        self.citations: list[Any] = []

    def take(self, kind: str, delta: Mapping[str, Any]) -> None:
        """Take in a delta; an unknown one is passed over."""
        where = FIELD_OF_DELTA.get(kind)
        if where is not None:
            piece = delta.get(where[0])
            if isinstance(piece, str):
                self.pieces.setdefault(where[1], []).append(piece)
        elif kind == "citations_delta" and "citation" in delta:
            self.citations.append(delta["citation"])

    def body(self) -> dict[str, Any]:
        """The whole block."""
        block = dict(self.start)
        for field, pieces in self.pieces.items():
            if field == "input":
                block[field] = tool_input("".join(pieces), block.get(field))
            else:
                first = block.get(field)
                block[field] = whole([first, *pieces] if isinstance(first, str) else pieces)
        if self.citations:
            first = block.get("citations")
            block["citations"] = [*first, *self.citations] if isinstance(first, list) else self.citations
        kind = block.get("type")
        if isinstance(kind, str) and kind.endswith("tool_use"):
            block.setdefault("input", {})  # llama.cpp leaves it out
        return block


class Native:
    """Events of the Messages API (§4.1)."""

    def __init__(self) -> None:
        self.begun = False
        self.complete = False
        self._start({"type": "message", "role": "assistant"})

    def _start(self, message: Mapping[str, Any]) -> None:
        self._message: dict[str, Any] = dict(message)
        self._blocks: list[Block] = []
        self._open: dict[int, Block] = {}

    def done(self) -> None:
        """Take in vLLM's `[DONE]`, which says nothing here."""

    def take(self, name: str, found: Mapping[str, Any]) -> None:
        """Take in an event; an unknown one is passed over."""
        if isinstance(meta := found.get("meta"), dict):
            self._message["meta"] = meta  # aimlapi's cost, in an event that nothing else is known of
        if self.complete:
            return
        if name == "content_block_delta":
            self._delta(found)
        elif name == "content_block_start":
            self._begin(found.get("index"), found.get("content_block"))
        elif name == "message_delta":
            self._end(found.get("delta"), found.get("usage"))
        elif name == "message_start":
            # A second one means that what stands between us and the model began again.
            if isinstance(message := found.get("message"), dict):
                self._start({"type": "message", **message})
        elif name == "message_stop":
            self.complete = True

    def body(self) -> dict[str, Any]:
        """The message."""
        return self._message | {"content": [block.body() for block in self._blocks]}

    def _begin(self, index: Any, start: Any) -> Block:
        self.begun = True
        block = Block(start if isinstance(start, dict) else {})
        self._blocks.append(block)
        if isinstance(index, int):
            self._open[index] = block
        return block

    def _delta(self, found: Mapping[str, Any]) -> None:
        delta = found.get("delta")
        if not isinstance(delta, dict) or not isinstance(kind := delta.get("type"), str):
            return
        index = found.get("index")
        block = self._open.get(index) if isinstance(index, int) else self._last()
        if block is None:
            implied = IMPLIED_BLOCKS.get(kind)
            if implied is None:
                return
            block = self._begin(index, implied)
        block.take(kind, delta)

    def _last(self) -> Block | None:
        return self._blocks[-1] if self._blocks else None

    def _end(self, delta: Any, usage: Any) -> None:
        if isinstance(delta, dict):
            overlay(self._message, {k: v for k, v in delta.items() if k not in {"type", "content", "usage"}})
        if isinstance(usage, dict):
            # Counts are cumulative: they take the place of the first ones.
            first = self._message.get("usage")
            self._message["usage"] = overlay(dict(first) if isinstance(first, dict) else {}, usage)


def tool_input(text: str, first: Any) -> Any:
    """A tool's input, from its JSON that came in pieces: what the block began with if none came, text if no JSON."""
    if not text.strip():
        return {} if first is None else first
    text = whole([text])
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text

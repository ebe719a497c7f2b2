"""A written answer as a stream of server-sent events: native, or OpenAI-like chunks (messages-api §4.1, §4.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"

_NAMES_OF_DELTAS = {"text": "text_delta", "thinking": "thinking_delta", "signature": "signature_delta"}
_IN_MESSAGE_DELTA = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
)


@dataclass(frozen=True, slots=True)
class Events:
    """A stream, and where it can break off.

    Attributes:
        written: the events in order, each with the blank line that ends it.
        begun: so many of them reach to the end of the first delta, or to where it would be in an answer without one.
        whole: with one event more than so many, a client may hold the answer to be whole; never less than `begun`.
    """

    written: tuple[bytes, ...]
    begun: int
    whole: int

    def cut_after(self, digest: bytes) -> int:
        """Say how many events a stream of this request has when it is cut off: from `begun` to `whole`."""
        return self.begun + int.from_bytes(digest[:4], "big") % (self.whole - self.begun + 1)


def native_events(message: Mapping[str, Any], pieces: Sequence[str]) -> Events:
    """Tell a message as events.

    Args:
        message: the plain answer.
        pieces: the text of its text block, in the pieces that its deltas bring.
    """
    usage = message["usage"]
    told_at_once = {name: value for name, value in usage.items() if name != "output_tokens_details"}
    start = {
        **message,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**told_at_once, "output_tokens": min(1, usage["output_tokens"])},
    }
    opening = [_event("message_start", message=start), _event("ping")]
    blocks = [
        written
        for index, block in enumerate(message["content"])
        for written in _block_events(index, block, pieces if block["type"] == "text" else ())
    ]
    last = {name: message[name] for name in ("stop_reason", "stop_sequence", "stop_details")}
    total = {name: usage[name] for name in _IN_MESSAGE_DELTA if name in usage}
    written = (*opening, *blocks, _event("message_delta", delta=last, usage=total), _event("message_stop"))
    # The first two events of a block are its start and its first delta.
    return Events(written, begun=len(opening) + min(2, len(blocks)), whole=len(written) - 1)


def _block_events(index: int, block: Mapping[str, str], pieces: Sequence[str]) -> Iterator[bytes]:
    """Give the start of a block, its deltas (those of a text in pieces, those of empty members not at all), its end."""
    members = {name: value for name, value in block.items() if name != "type"}
    begun = {"type": block["type"], **dict.fromkeys(members, "")}
    yield _event("content_block_start", index=index, content_block=begun)
    for name, value in members.items():
        for piece in pieces or ((value,) if value else ()):
            delta = {"type": _NAMES_OF_DELTAS[name], name: piece}
            yield _event("content_block_delta", index=index, delta=delta)
    yield _event("content_block_stop", index=index)


def native_error_event(error: Mapping[str, Any]) -> bytes:
    """Tell an error in mid-stream; unlike the body of an error status it has no `request_id`."""
    return _event("error", error=error["error"])


def _event(name: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **members}))


def openai_events(completion: Mapping[str, Any], pieces: Sequence[str], *, include_usage: bool) -> Events:
    """Tell a completion of one choice as chunks.

    Args:
        completion: the plain answer.
        pieces: the text of its message, in the pieces that its deltas bring.
        include_usage: as `stream_options` says: a chunk without choices tells the usage, and the others say null.
    """
    head = {name: completion[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    if include_usage:
        head["usage"] = None
    choice = completion["choices"][0]

    def chunk(delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        return _data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})

    message = choice["message"]
    opening = chunk({**message, "content": "" if pieces else message["content"]})
    deltas = [chunk({"content": piece}) for piece in pieces]
    closing = [chunk({}, choice["finish_reason"])]
    if include_usage:
        closing.append(_data({**head, "choices": [], "usage": completion["usage"]}))
    return Events((opening, *deltas, *closing, DONE), begun=1 + min(1, len(deltas)), whole=1 + len(deltas))


def openai_error_event(error: Mapping[str, Any]) -> bytes:
    """Tell an error in mid-stream."""
    return _data(error)


def _data(value: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(value)


def in_writes(written: bytes) -> tuple[bytes, ...]:
    """Split bytes for two writes, inside the first character that has several, else in the middle.

    Networks end their pieces where they like, so a client must not rely on whole events or characters.
    """
    place = next((k for k, byte in enumerate(written, 1) if byte >= 0x80), len(written) // 2)
    return written[:place], written[place:]

"""A written answer as a stream of server-sent events: native, or OpenAI-like chunks (messages-api §4.1, §4.2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.serve.answers import pieces_of

DONE = b"data: [DONE]\n\n"
PING = b'event: ping\ndata: {"type":"ping"}\n\n'
COMMENT = b": keep-alive\n\n"

_LAST = ("stop_reason", "stop_sequence", "stop_details")
_FULL_USAGE = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
)


@dataclass(frozen=True, slots=True)
class StreamShape:
    """What a server does when it streams a message.

    Attributes:
        ping: it sends one after `message_start`.
        done: it ends with `[DONE]` after `message_stop`.
        input_at_start: a tool's block begins with an empty input.
        signature_at_start: a thinking block begins with an empty signature.
        whole_calls: a tool's input comes in one delta.
        usage_at_end: what of the usage `message_delta` tells.
        nulls: members without a value are there, as null; in the plain answer too.
    """

    ping: bool = True
    done: bool = False
    input_at_start: bool = True
    signature_at_start: bool = True
    whole_calls: bool = False
    usage_at_end: tuple[str, ...] = _FULL_USAGE
    nulls: bool = True


@dataclass(frozen=True, slots=True)
class Events:
    """A stream, and where it can break off.

    Attributes:
        written: the events in order, each with the blank line that ends it.
        begun: so many of them reach to the end of the first delta, or to where it would be in an answer without one.
        whole: with one event more than so many, a client may hold the answer to be whole; never less than `begun`.
        ping: what keeps such a stream alive.
    """

    written: tuple[bytes, ...]
    begun: int
    whole: int
    ping: bytes = PING

    def cut_after(self, digest: bytes) -> int:
        """Say how many events a stream of this request has when it is cut off: from `begun` to `whole`."""
        return self.begun + int.from_bytes(digest[:4], "big") % (self.whole - self.begun + 1)


def native_events(message: Mapping[str, Any], name: str, shape: StreamShape) -> Events:
    """Tell a message as events.

    Args:
        message: the plain answer.
        name: the answer's, which decides the pieces that its deltas bring.
        shape: how the server does it.
    """
    usage = message["usage"]
    told_at_once = {key: value for key, value in usage.items() if key != "output_tokens_details"}
    start = {key: value for key, value in message.items() if key not in {"meta", *_LAST}}
    start |= {"content": [], "usage": {**told_at_once, "output_tokens": min(1, usage["output_tokens"])}}
    if shape.nulls:
        start |= dict.fromkeys(_LAST)
    opening = [_event("message_start", message=start)]
    if shape.ping:
        opening.append(PING)
    blocks = [
        written
        for index, block in enumerate(message["content"])
        for written in _block_events(index, block, name, shape)
    ]
    last = {key: message[key] for key in _LAST if key in message}
    total = {key: usage[key] for key in shape.usage_at_end if key in usage}
    closing = [_event("message_delta", delta=last, usage=total), _event("message_stop")]
    # The first two events of a block are its start and its first delta.
    begun, whole = len(opening) + min(2, len(blocks)), len(opening) + len(blocks) + 1
    if "meta" in message:
        closing.append(_data({"meta": message["meta"]}))
    if shape.done:
        closing.append(DONE)
    return Events((*opening, *blocks, *closing), begun, whole)


def _block_events(index: int, block: Mapping[str, Any], name: str, shape: StreamShape) -> Iterator[bytes]:
    """Give the start of a block, its deltas and its end."""
    kind = block["type"]
    start: dict[str, Any]
    if kind == "text":
        start = {"type": "text", "text": ""}
        deltas = [{"type": "text_delta", "text": piece} for piece in pieces_of(block["text"], name)]
    elif kind == "thinking":
        start = {"type": "thinking", "thinking": ""}
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces_of(block["thinking"], name)]
        if (signature := block.get("signature")) is not None:
            deltas.append({"type": "signature_delta", "signature": signature})
            if shape.signature_at_start:
                start["signature"] = ""
    else:
        start = {key: {} if key == "input" else value for key, value in block.items()}
        if not shape.input_at_start:
            del start["input"]
        written = orjson.dumps(block["input"]).decode()
        # The API begins with an empty piece.
        pieces = (written,) if shape.whole_calls else ("", *pieces_of(written, name))
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    yield _event("content_block_start", index=index, content_block=start)
    for delta in deltas:
        yield _event("content_block_delta", index=index, delta=delta)
    yield _event("content_block_stop", index=index)


def native_error_event(error: Mapping[str, Any]) -> bytes:
    """Tell an error in mid-stream; unlike the body of an error status it has no `request_id`."""
    return _event("error", error=error["error"])


def bare_error_event(error: Mapping[str, Any]) -> bytes:
    """Tell an error in mid-stream as llama.cpp does: the inner object alone."""
    return b"event: error\n" + _data(error["error"])


def plain_error_event(error: Mapping[str, Any]) -> bytes:
    """Tell an error in mid-stream as the whole body of an error status."""
    return b"event: error\n" + _data(error)


def _event(name: str, **members: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **members}))


def openai_events(completion: Mapping[str, Any], name: str, *, include_usage: bool) -> Events:
    """Tell a completion of one choice as chunks.

    Args:
        completion: the plain answer.
        name: the answer's, which decides the pieces that its deltas bring.
        include_usage: as `stream_options` says: a chunk without choices tells the usage, and the others say null.
    """
    head = {key: completion[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    if include_usage:
        head["usage"] = None
    choice = completion["choices"][0]

    def chunk(delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
        return _data({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})

    message = choice["message"]
    pieces = pieces_of(message["content"] or "", name)
    calls = message.get("tool_calls") or ()
    said = {key: value for key, value in message.items() if key != "tool_calls"}
    opening = chunk({**said, "content": "" if pieces else message["content"]})
    deltas = [chunk({"content": piece}) for piece in pieces]
    deltas += [
        chunk({"tool_calls": [delta]}) for nth, call in enumerate(calls) for delta in _call_deltas(nth, call, name)
    ]
    closing = [chunk({}, choice["finish_reason"])]
    if include_usage:
        closing.append(_data({**head, "choices": [], "usage": completion["usage"]}))
    return Events(
        (opening, *deltas, *closing, DONE), begun=1 + min(1, len(deltas)), whole=1 + len(deltas), ping=COMMENT
    )


def _call_deltas(index: int, call: Mapping[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """The first names the function; the others bring its arguments."""
    function = call["function"]
    yield {**call, "index": index, "function": {**function, "arguments": ""}}
    for piece in pieces_of(function["arguments"], name):
        yield {"index": index, "function": {"arguments": piece}}


def openai_error_event(error: Mapping[str, Any]) -> bytes:
    """Tell an error in mid-stream."""
    return _data(error)


def _data(value: Mapping[str, Any]) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(value)


def with_pings(written: Sequence[bytes], ping: bytes) -> tuple[bytes, ...]:
    """Put a ping after each event."""
    return tuple(piece for event in written for piece in (event, ping))


def in_writes(written: bytes) -> tuple[bytes, ...]:
    """Split bytes for two writes, inside the first character that has several, else in the middle.

    Networks end their pieces where they like, so a client must not rely on whole events or characters.
    """
    place = next((k for k, byte in enumerate(written, 1) if byte >= 0x80), len(written) // 2)
    return written[:place], written[place:]

"""The simulator's answer, a pure function of the request: the same body gets the same answer, in whatever order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import orjson

from pipeline.serve import spoiling
from pipeline.serve.asked import CHARS_PER_TOKEN, Asked, digest_of, read
from pipeline.serve.cache import NOTHING, Cached
from pipeline.serve.fitting import fitting

__all__ = ["Answer", "Asked", "Call", "answer", "digest_of", "pieces_of", "read"]

THOUGHT_TOKENS = 24
"""What a model that thinks spends before it writes."""

_SHORTEST_PIECE = 8
_PIECE_SPREAD = 32


@dataclass(frozen=True, slots=True)
class Call:
    """A tool that the answer calls.

    Attributes:
        name: of the tool.
        input: what it is called with.
        server: the tool is the server's own, which is still at it.
    """

    name: str
    input: Mapping[str, Any]
    server: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the simulator says, before a dialect writes it down.

    Attributes:
        name: hex digits that make the message's id.
        model: the model that answered, the one asked for.
        text: None where there is no text block.
        thought: the words of a thinking block that comes first, empty where they are not shown; None without one.
        call: a tool that it calls at the end.
        stop_reason: in native words.
        stop_sequence: the word that ended it.
        input_tokens: of the request, without those of the cache.
        output_tokens: of the answer, thinking included.
        thinking_tokens: the part of them that was thinking.
        cached: what the prompt cache gave and took.
    """

    name: str
    model: str
    text: str | None
    thought: str | None
    call: Call | None
    stop_reason: str
    stop_sequence: str | None
    input_tokens: int
    output_tokens: int
    thinking_tokens: int
    cached: Cached = NOTHING

    @property
    def pieces(self) -> tuple[str, ...]:
        """The text in the pieces that a stream brings; none without text."""
        return pieces_of(self.text or "", self.name)


def pieces_of(text: str, name: str) -> tuple[str, ...]:
    """Cut a text into the pieces that a stream brings, whose lengths the name of the answer decides."""
    found, place = [], 0
    sizes = cycle(_SHORTEST_PIECE + byte % _PIECE_SPREAD for byte in bytes.fromhex(name))
    while place < len(text):
        size = next(sizes)
        found.append(text[place : place + size])
        place += size
    return tuple(found)


def answer(asked: Asked, fault: str | None = None, cached: Cached = NOTHING) -> Answer:
    """Answer ``answer <8 hex digits of the request's digest>: <the beginning of the last user text>``.

    What was seen of pictures stands before that text, with a bar between; in a value that fits a schema, in one of its
    texts (`fitting.fitting`).

    Where the request asks for a tool or a JSON Schema, the tool's input or the text is a value that fits. A stop
    sequence ends the text before that word; `max_tokens` ends it at that many tokens of 4 characters, thinking
    included, so that a small bound can leave no text at all.

    Args:
        asked: the request.
        fault: what befalls the answer, one of `faults.OF_ANSWERS`.
        cached: what the prompt cache gives and takes.
    """
    name = asked.digest.hex()
    thinking_tokens = min(THOUGHT_TOKENS, asked.max_tokens) if asked.thinks else 0
    room = asked.max_tokens - thinking_tokens
    text: str | None
    text, call = _said(asked, fault)
    stop_reason, stop_sequence = "end_turn" if call is None else "tool_use", None
    if fault is not None:
        text, call, stop_reason, thinking_tokens = _befallen(fault, text, call, stop_reason, asked, thinking_tokens)
    found = [(place, word) for word in asked.stop_sequences if (place := text.find(word)) >= 0]
    if found:
        place, stop_sequence = min(found)
        text, stop_reason, call = text[:place], "stop_sequence", None
    if len(text) > room * CHARS_PER_TOKEN:
        text, stop_reason, stop_sequence, call = text[: max(0, room) * CHARS_PER_TOKEN], "max_tokens", None, None
    output_tokens = thinking_tokens - (-len(text) // CHARS_PER_TOKEN)
    if call is not None:
        spent = -(-len(orjson.dumps(call.input)) // CHARS_PER_TOKEN)
        if output_tokens + spent > asked.max_tokens:
            # What the API leaves of a call that it could not finish is of no use to anybody.
            call, stop_reason, spent = None, "max_tokens", asked.max_tokens - output_tokens
        output_tokens += spent
    if fault == "empty":
        output_tokens = thinking_tokens + 1
    thought = None
    if (asked.thinks or fault == "thinking-only") and asked.max_tokens > 0 and fault != "refusal":
        thought = f"The request begins: {asked.text_head}" if asked.shows_thoughts else ""
    return Answer(
        name=name,
        model=asked.model,
        text=text or None,
        thought=thought,
        call=call,
        stop_reason=stop_reason,
        stop_sequence=stop_sequence,
        input_tokens=max(0 if cached.marks else 1, asked.input_tokens - cached.read - cached.created),
        output_tokens=output_tokens,
        thinking_tokens=thinking_tokens,
        cached=cached,
    )


def _said(asked: Asked, fault: str | None) -> tuple[str, Call | None]:
    """What is said where nothing else befalls the answer: a text, or nothing and a call."""
    shape = asked.shape
    if shape is None:
        seen = f"{asked.sights.said} | " if asked.sights.said else ""
        return f"answer {asked.digest.hex()[:8]}: {seen}{asked.text_head}", None
    value = fitting(shape.schema, asked.digest, asked.sights.said)
    if shape.tool is None:
        return spoiling.text(shape.schema, value, fault, asked.digest), None
    found = spoiling.value(shape.schema, value, fault, asked.digest)
    return "", Call(shape.tool, found if isinstance(found, dict) else {})


def _befallen(
    fault: str, text: str, call: Call | None, stop_reason: str, asked: Asked, thinking_tokens: int
) -> tuple[str, Call | None, str, int]:
    match fault:
        case "empty":
            return "", None, "end_turn", thinking_tokens
        case "refusal":
            return "", None, "refusal", 0
        case "max_tokens":
            return text[: len(text) // 2], None, "max_tokens", thinking_tokens
        case "thinking-only":
            return "", None, "max_tokens", asked.max_tokens
        case "pause_turn":
            query = Call("web_search", {"query": asked.text_head or "nothing"}, server=True)
            return "", query, "pause_turn", thinking_tokens
    return text, call, stop_reason, thinking_tokens

"""The simulator's answer, a pure function of the request: the same body gets the same answer, in whatever order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import cycle
from typing import Any

import orjson

from pipeline.serve.models import rules_of

HEAD_CHARS = 80
"""How much of the last user text an answer and a ledger line repeat."""

CHARS_PER_TOKEN = 4
THOUGHT_TOKENS = 24
"""What a model that thinks spends before it writes."""

DEFAULT_MAX_TOKENS = 512
"""Where a dialect lets a request leave `max_tokens` out."""

OF_THE_DELIVERY = frozenset({"stream", "stream_options"})
"""Members that say how an answer comes, and change nothing in it."""

_SHORTEST_PIECE = 8
_PIECE_SPREAD = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as the simulator reads it.

    Attributes:
        digest: hash of the body with its members sorted and without those of the delivery, 16 bytes.
        model: the name asked for.
        texts: every text of system and messages, in order.
        text_head: the beginning of the last user text.
        max_tokens: the bound on the answer.
        stop_sequences: words that end the answer.
        thinks: the model thinks before it writes.
    """

    digest: bytes
    model: str
    texts: tuple[str, ...]
    text_head: str
    max_tokens: int
    stop_sequences: tuple[str, ...]
    thinks: bool

    @property
    def input_tokens(self) -> int:
        """A quarter of the characters of system and messages, rounded up; at least 1."""
        return max(1, -(-sum(map(len, self.texts)) // CHARS_PER_TOKEN))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the simulator says, before a dialect writes it down.

    Attributes:
        name: hex digits that make the message's id.
        model: the model that answered, the one asked for.
        text: None where there is no text block.
        thought: a thinking block, empty as the newest models send it, comes first.
        stop_reason: in native words.
        stop_sequence: the word that ended it.
        input_tokens: of the request.
        output_tokens: of the answer, thinking included.
        thinking_tokens: the part of them that was thinking.
    """

    name: str
    model: str
    text: str | None
    thought: bool
    stop_reason: str
    stop_sequence: str | None
    input_tokens: int
    output_tokens: int
    thinking_tokens: int

    @property
    def pieces(self) -> tuple[str, ...]:
        """The text in the pieces that a stream brings, whose lengths the request decides; none without text."""
        text, found, place = self.text or "", [], 0
        sizes = cycle(_SHORTEST_PIECE + byte % _PIECE_SPREAD for byte in bytes.fromhex(self.name))
        while place < len(text):
            size = next(sizes)
            found.append(text[place : place + size])
            place += size
        return tuple(found)


def digest_of(body: Any) -> bytes:
    """Hash a body whatever the order of its members: 16 bytes.

    A streamed and a plain request of the same prompt share it, and so their answer, their latency and their faults.
    """
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in OF_THE_DELIVERY}
    return blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def read(body: dict[str, Any], digest: bytes) -> Asked:
    """Read a body that has passed validation and has this digest."""
    messages = body["messages"]
    texts = list(_texts(body.get("system")))
    last_user = ""
    for message in messages:
        said = list(_texts(message.get("content")))
        texts += said
        if message["role"] == "user" and said:
            last_user = "".join(said)
    model = body["model"]
    thinking = body.get("thinking")
    if thinking is None:
        thinks = rules_of(model).thinks_unasked
    else:
        thinks = isinstance(thinking, dict) and thinking.get("type") in {"enabled", "adaptive"}
    stops = body.get("stop_sequences") or body.get("stop") or ()
    return Asked(
        digest=digest,
        model=model,
        texts=tuple(texts),
        text_head=last_user[:HEAD_CHARS],
        max_tokens=body.get("max_tokens", body.get("max_completion_tokens", DEFAULT_MAX_TOKENS)),
        stop_sequences=(stops,) if isinstance(stops, str) else tuple(stops),
        thinks=thinks,
    )


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for block in content:
            if not isinstance(block, dict):
                continue
            text = block.get("text")
            if isinstance(text, str):
                yield text
            elif block.get("type") == "tool_result":
                yield from _texts(block.get("content"))


def answer(asked: Asked, *, silent: bool = False) -> Answer:
    """Answer ``answer <8 hex digits of the request's digest>: <the beginning of the last user text>``.

    A stop sequence ends it before that word; `max_tokens` ends it at that many tokens of 4 characters, thinking
    included, so that a small bound can leave no text at all. A `silent` answer has no text at all, and costs a token.
    """
    name = asked.digest.hex()
    thinking_tokens = min(THOUGHT_TOKENS, asked.max_tokens) if asked.thinks else 0
    text = f"answer {name[:8]}: {asked.text_head}"
    stop_reason, stop_sequence = "end_turn", None
    found = [(place, word) for word in asked.stop_sequences if (place := text.find(word)) >= 0]
    if found:
        place, stop_sequence = min(found)
        text, stop_reason = text[:place], "stop_sequence"
    room = asked.max_tokens - thinking_tokens
    if len(text) > room * CHARS_PER_TOKEN:
        text, stop_reason, stop_sequence = text[: room * CHARS_PER_TOKEN], "max_tokens", None
    output_tokens = thinking_tokens - (-len(text) // CHARS_PER_TOKEN)
    if silent:
        text, stop_reason, stop_sequence, output_tokens = "", "end_turn", None, thinking_tokens + 1
    return Answer(
        name=name,
        model=asked.model,
        text=text or None,
        thought=asked.thinks and asked.max_tokens > 0,
        stop_reason=stop_reason,
        stop_sequence=stop_sequence,
        input_tokens=asked.input_tokens,
        output_tokens=output_tokens,
        thinking_tokens=thinking_tokens,
    )

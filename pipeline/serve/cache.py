"""The prompt cache: prefixes of a prompt up to a mark, kept for their time from when an answer to them began.

Source: messages-api §1.3, §3.3. A prefix is read from the last of its blocks that is found, looking back 20 blocks from
each mark; what is shorter than the model's minimum is not kept, without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import orjson

LOOK_BACK_BLOCKS = 20
TTL_SECS: Mapping[str, float] = {"5m": 300.0, "1h": 3600.0}
DEFAULT_TTL = "5m"
_SWEEP_EVERY = 4096


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prompt up to the end of one of its blocks.

    Attributes:
        key: a hash of model and blocks.
        tokens: how long it is.
        ttl: the time that a mark on the block asks for; None without a mark.
    """

    key: bytes
    tokens: int
    ttl: str | None


@dataclass(frozen=True, slots=True)
class Cached:
    """What of a prompt comes from the cache and goes into it.

    Attributes:
        marks: how many marks the prompt has.
        read: tokens that were found.
        written: tokens that were not, and are kept now, by time asked for.
        found: the key that was found.
        keys: what is kept once the answer begins: keys and times.
    """

    marks: int = 0
    read: int = 0
    written: Mapping[str, int] | None = None
    found: bytes | None = None
    keys: tuple[tuple[bytes, str], ...] = ()

    @property
    def created(self) -> int:
        """Tokens written, whatever the time."""
        return sum((self.written or {}).values())


NOTHING = Cached()


def _nothing_seen(_block: Any) -> int:
    return 0


def prefixes(
    body: Mapping[str, Any],
    tokens_of: Callable[[int], int],
    pictures_of: Callable[[Any], int] = _nothing_seen,
) -> tuple[Prefix, ...]:
    """Give the prompt's prefixes in the order tools, system, messages: one for each block.

    Args:
        body: a request that passed validation.
        tokens_of: gives the tokens of so many characters.
        pictures_of: gives the tokens of the pictures in a block.
    """
    blocks = list(_blocks(body))
    top = body.get("cache_control")
    digest = blake2b(str(body.get("model")).encode(), digest_size=16)
    found, chars, seen = [], 0, 0
    for nth, (place, block, length) in enumerate(blocks, 1):
        chars += length
        seen += pictures_of(block)
        mark = block.get("cache_control")
        if mark is None and nth == len(blocks):
            mark = top
        bare = {name: value for name, value in block.items() if name != "cache_control"}
        digest.update(place.encode())
        digest.update(orjson.dumps(bare, option=orjson.OPT_SORT_KEYS))
        ttl = None if mark is None else mark.get("ttl", DEFAULT_TTL)
        found.append(Prefix(digest.digest(), tokens_of(chars) + seen, ttl))
    return tuple(found)


def _blocks(body: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    """Give each block with where it stands and how many characters it counts for."""
    for tool in body.get("tools") or ():
        yield "tools", tool, tool_chars(tool)
    yield from _content("system", body.get("system"))
    for message in body["messages"]:
        yield from _content(message["role"], message.get("content"))


def _content(place: str, content: Any) -> Iterator[tuple[str, Mapping[str, Any], int]]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for block in content or ():
        if isinstance(block, dict):
            yield place, block, sum(map(len, texts_of([block])))


def tool_chars(tool: Mapping[str, Any]) -> int:
    """How many characters of the prompt a tool counts for: those of its JSON, without its mark."""
    return len(orjson.dumps({name: value for name, value in tool.items() if name != "cache_control"}))


def texts_of(content: Any) -> Iterator[str]:
    """Give the texts of a message's or a system prompt's content, those of a tool's result too."""
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
                yield from texts_of(block.get("content"))


class PromptCache:
    """What is kept of prompts; time comes in as an argument, in seconds on one clock."""

    def __init__(self) -> None:
        self._entries: dict[bytes, tuple[float, float]] = {}
        self._begun = 0

    def look_up(self, prompt: Sequence[Prefix], least: int, now: float) -> Cached:
        """Say what of a prompt is read and what is to be written.

        Args:
            prompt: its prefixes.
            least: the shortest prefix that is kept, in tokens.
            now: the time.
        """
        all_marks = [place for place, prefix in enumerate(prompt) if prefix.ttl is not None]
        marks = [place for place in all_marks if prompt[place].tokens >= least]
        hit = next(
            (
                place
                for mark in reversed(marks)
                for place in range(mark, max(-1, mark - LOOK_BACK_BLOCKS), -1)
                if self._entries.get(prompt[place].key, (0.0, now))[1] > now
            ),
            None,
        )
        read = end = 0 if hit is None else prompt[hit].tokens
        written: dict[str, int] = {}
        keys = []
        for place in marks:
            if hit is not None and place <= hit:
                continue
            prefix = prompt[place]
            ttl = prefix.ttl or DEFAULT_TTL
            written[ttl] = written.get(ttl, 0) + prefix.tokens - end
            end = prefix.tokens
            keys.append((prefix.key, ttl))
        return Cached(len(all_marks), read, written, None if hit is None else prompt[hit].key, tuple(keys))

    def begin(self, cached: Cached, now: float) -> None:
        """Take in that an answer began: what it wrote can be read from now on, what it read is kept anew."""
        if cached.found in self._entries:
            secs = self._entries[cached.found][0]
            self._entries[cached.found] = secs, now + secs
        for key, ttl in cached.keys:
            self._entries[key] = TTL_SECS[ttl], now + TTL_SECS[ttl]
        self._begun += 1
        if self._begun % _SWEEP_EVERY == 0:
            self._entries = {key: entry for key, entry in self._entries.items() if entry[1] > now}

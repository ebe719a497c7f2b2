"""What a server's words are held against before people see them: who was asked, and what must not be repeated."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import quote

import orjson

MAX_MESSAGE_CHARS = 300
"""A message is one line of a log, and a cell of the output."""

MAX_ID_CHARS = 128
LOOKED_THROUGH_BYTES = 256 * 1024
ECHO_CHARS = 12
"""Words are compared with the prompt in blocks of this many characters: longer than most field names."""


def one_line(text: str, max_chars: int = MAX_MESSAGE_CHARS) -> str:
    """The text on one line: whatever cannot be printed becomes a space, and the rest is cut with `…`."""
    text = text[: 4 * MAX_MESSAGE_CHARS]
    # Nearly every name of a call is printable as it is, and each answer has one.
    line = " ".join((text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)).split())
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"


@lru_cache(maxsize=64)
def spellings(secret: str) -> tuple[str, ...]:
    """How a server may repeat a secret: as it is, in a URL, in base64, there also behind other bytes."""
    encoded = secret.encode("utf-8", "replace")
    found = {secret, quote(encoded, safe="")}
    # Base64 writes three bytes as four characters: behind one or two other bytes, a secret is spelled otherwise. The
    # characters that depend on its neighbours are left out.
    for before, first in enumerate((0, 2, 3)):
        last = (before + len(encoded)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(before) + encoded).decode()[first:last])
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who was asked, in words for messages, and the secrets that went along.

    Attributes:
        host: the endpoint's host and port.
        model: the model in the request.
        key_name: what holds the key, such as ``$ANTHROPIC_API_KEY``.
        secrets: the key and the values of configured headers; a message never holds one.
        url: where it was posted, as people may see it; empty where that is not known.
    """

    host: str = "the endpoint"
    model: str = "the model"
    key_name: str = "the key"
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    url: str = ""

    def clean(self, text: str, prompt: bytes = b"", max_chars: int = MAX_MESSAGE_CHARS) -> str:
        """The server's words as people may see them: one line, without secrets, without parts of the prompt."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            for spelling in spellings(secret):
                text = text.replace(spelling, "[secret]")
        text = text[: 4 * MAX_MESSAGE_CHARS]
        return one_line(without_echo(text, prompt) if prompt else text, max_chars)


def without_echo(text: str, prompt: bytes) -> str:
    """Replace what the text repeats of the prompt by `[…]`.

    Servers that validate with a schema quote the input they refuse. Both sides are compared as JSON spells them;
    a repetition of at least twice `ECHO_CHARS` is always found, a shorter one perhaps. Of a prompt with pictures, which
    may be megabytes, the beginning and the end are looked through.
    """
    if len(prompt) > 2 * LOOKED_THROUGH_BYTES:
        prompt = prompt[:LOOKED_THROUGH_BYTES] + prompt[-LOOKED_THROUGH_BYTES:]
    # What came in a header may hold bytes that are no UTF-8, as surrogates; no prompt does.
    spelled = orjson.dumps(text.encode("utf-8", "replace").decode())[1:-1]
    kept, at, start = [], 0, 0
    while at + ECHO_CHARS <= len(spelled):
        place = prompt.find(spelled[at : at + ECHO_CHARS])
        if place < 0:
            at += ECHO_CHARS
            continue
        first, last = at, at + ECHO_CHARS
        before, after = place - 1, place + ECHO_CHARS
        while first > start and before >= 0 and spelled[first - 1] == prompt[before]:
            first, before = first - 1, before - 1
        while last < len(spelled) and after < len(prompt) and spelled[last] == prompt[after]:
            last, after = last + 1, after + 1
        kept.append(spelled[start:first])
        at = start = last
    if not kept:
        return text
    # A cut may fall inside a character or an escape: what is left of it is dropped or stays as it is spelled.
    return "[…]".join(part.decode("utf-8", "ignore") for part in [*kept, spelled[start:]])

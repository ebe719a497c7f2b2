"""A request's JSON body: the members that every row shares, written once, around those that vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from pipeline.errors import JobError

OF_THE_PROMPT = frozenset({"system", "messages"})

LONGEST_WAIT_SECS = 600
TOKENS_PER_HOUR = 128_000
"""An answer that takes longer than this at such a pace is better streamed: a line without a word for so long is cut
by whatever stands between. The official client refuses to ask for it otherwise (messages-api §5.3)."""


def streams_by_itself(max_tokens: int) -> bool:
    """Whether an answer may become so long that it is streamed unless the job says otherwise: above 21,333 tokens."""
    return 3600 * max_tokens > LONGEST_WAIT_SECS * TOKENS_PER_HOUR


def with_stream(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request's fields with `stream: true` where its answers may become long and the job leaves `stream` open."""
    if "stream" in fields or not streams_by_itself(fields.get("max_tokens", 0)):
        return fields
    return {**fields, "stream": True}


def envelope(fields: Mapping[str, Any]) -> bytes:
    """Write the members that every request of a job shares, as the open beginning of a JSON object.

    What comes back is for `body` alone: it still lacks the prompt's members and the closing brace.

    Raises:
        JobError: a field is not JSON (a number beyond 64 bits, NaN is written as null), or is one that the prompt sets.
    """
    if clash := OF_THE_PROMPT & fields.keys():
        raise JobError(f"request: {', '.join(sorted(clash))} cannot be set here; `prompt` makes it")
    try:
        written = orjson.dumps(dict(fields))
    except TypeError as error:
        raise JobError(f"request: a field cannot be written as JSON: {error}") from error
    return written[:-1] + b"," if fields else b"{"


def body(envelope: bytes, prompt: bytes) -> bytes:
    """The whole JSON body: the envelope, then the prompt's members (`Request.prompt`), closed."""
    return b"%b%b}" % (envelope, prompt)

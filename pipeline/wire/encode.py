"""A request's JSON body: the members that every row shares, written once, around those that vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from pipeline.errors import JobError

OF_THE_PROMPT = frozenset({"system", "messages"})


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

"""Walking a JSON Schema: local references, places in words, and complaints about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from pipeline.errors import Complaint, JobError

Schema = Mapping[str, Any]
Complain = Callable[[str, str], Complaint]
"""Makes a complaint from a dotted place in the job file and a message, as `Job.complain` does."""

PATH = "answer.schema"
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def nowhere(path: str, message: str) -> Complaint:
    """Complain without a file."""
    return Complaint("", path, message)


def plain(schema: Any, complain: Complain = nowhere) -> dict[str, Any]:
    """Copy a schema as JSON has it, its order kept.

    Raises:
        JobError: it is no object of JSON.
    """
    try:
        copied = orjson.loads(orjson.dumps(schema, default=_as_json))
    except (TypeError, orjson.JSONDecodeError) as error:
        raise JobError(complain(PATH, f"must be JSON: {error}")) from error
    if not isinstance(copied, dict):
        raise JobError(complain(PATH, f"must be a JSON Schema of an object, a mapping; found {kind_of(copied)}"))
    return copied


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is no JSON")


def resolve(root: Schema, pointer: str) -> Any:
    """What a local reference, such as ``#/$defs/price``, points at.

    Raises:
        LookupError: it is not local, is an anchor, or points at nothing.
    """
    if pointer != "#" and not pointer.startswith("#/"):
        raise LookupError(pointer)
    found: Any = root
    for raw in pointer[2:].split("/") if pointer != "#" else ():
        step = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict):
            found = found[step]
        elif isinstance(found, list) and step.isdecimal():
            found = found[int(step)]
        else:
            raise LookupError(pointer)
    return found


def root_object(root: Schema) -> Schema:
    """The schema of the answer itself: where the root is a reference, what it points at."""
    seen: set[str] = set()
    found: Any = root
    while isinstance(found, dict) and isinstance(ref := found.get("$ref"), str) and "properties" not in found:
        if ref in seen:
            break
        seen.add(ref)
        try:
            found = resolve(root, ref)
        except LookupError:
            break
    return found if isinstance(found, dict) else root


def place(path: Iterable[str | int]) -> str:
    """Write a place in an answer as ``$.items[0].price``; other keys as ``$["odd key"]``."""
    text = "$"
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}"
        else:
            text += f"[{orjson.dumps(step).decode()}]"
    return text


def kind_of(value: Any) -> str:
    """What kind of JSON value it is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def one_line(text: str, length: int) -> str:
    """Write text on one line of at most `length` characters; what is too long loses its middle."""
    text = "".join(char if char.isprintable() else " " for char in text)
    if len(text) <= length:
        return text
    tail = length // 2
    return f"{text[: length - tail - 1]}…{text[-tail:]}"

"""The JSON objects in an answer: in its text, whatever stands around them, or in the call of a tool."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.answer.schema import kind_of

_OPENING = re.compile(r'\{(?=\s*["}])|\[(?=\s*[\[{])')
"""Where an object may begin, or an array that may hold objects; prose such as "{see below}" or "[1]" is passed over."""
_FENCE = "```"
_DECODER = json.JSONDecoder()

EFFORT = 16
"""How often the text may be walked through in search of objects, counted in its length."""


@dataclass(frozen=True, slots=True)
class Found:
    """What an answer holds.

    Attributes:
        objects: the candidates, best first; empty where there is none.
        reason: why there is none, in a few words that quote nothing.
    """

    objects: tuple[dict[str, Any], ...]
    reason: str = ""


def from_text(text: str) -> Found:
    """Find the JSON objects in a text.

    A text that is one JSON value is taken as that. Otherwise each outermost object that is whole is a candidate: those
    that open a fenced block before the others, and the last before the first, since models draft before they settle.
    """
    bare = text.strip().removeprefix("\ufeff")
    if not bare:
        return Found((), "the answer has no text")
    try:
        value = orjson.loads(bare)
    except orjson.JSONDecodeError:
        return _around(bare)
    return Found((value,)) if isinstance(value, dict) else Found((), _no_object(value))


def _no_object(value: Any) -> str:
    return f"the answer is {kind_of(value)} of JSON, where an object is wanted"


def _around(text: str) -> Found:
    fenced: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    reason = "the answer holds no JSON object"
    farthest = at = outside = fences = 0
    effort = EFFORT * len(text) + 1_000
    while effort > 0 and (opening := _OPENING.search(text, at)):
        start = opening.start()
        try:
            _, end = _DECODER.raw_decode(text, start)
            # Once more, by the strict reader: no NaN, no half of a surrogate pair.
            value = orjson.loads(text[start:end])
        except json.JSONDecodeError as error:
            # orjson's error is one too, and its place counts from where the slice begins.
            stop = error.pos if error.doc is text else start + error.pos
            if text[start] == "{" and stop >= farthest:
                farthest, reason = stop, _broken(error, cut=stop >= len(text))
            # The error counts the lines before it, at some 32 times the speed.
            effort -= stop - start + 1 + stop // 32
            at = start + 1
        except (RecursionError, ValueError):
            # ValueError: a number of thousands of digits.
            reason = "the JSON of the answer is nested too deeply, or has a number too long"
            effort -= len(text) - start
            at = start + 1
        else:
            effort -= end - start
            # Fences within a JSON string are none, so only those between the values count.
            fences += text.count(_FENCE, outside, start)
            at = outside = end
            if isinstance(value, dict):
                (fenced if fences % 2 else others).append(value)
            else:
                reason = _no_object(value)
    return Found((*reversed(fenced), *reversed(others)), reason)


def _broken(error: json.JSONDecodeError, *, cut: bool) -> str:
    # The reason alone: the document would be quoted by `doc`.
    return f"the JSON of the answer {'breaks off' if cut else 'is broken'}: {error.msg[0].lower()}{error.msg[1:]}"


def from_tool(message: Any, name: str) -> Found | None:
    """Find the input of the last call of a tool in a response; None where the tool is not called.

    Shapes: messages-api §3.2. A native input is an object, OpenAI-like arguments are text and may be broken.

    Args:
        message: the response's body as JSON, native or OpenAI-like.
        name: the tool's.
    """
    called, value = _last_input(message, name)
    if not called:
        return None
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            return Found((), f"the tool's input is no JSON: {error.msg[0].lower()}{error.msg[1:]}")
    if isinstance(value, dict):
        return Found((), "the tool's input is nested too deeply") if _written(value) is None else Found((value,))
    return Found((), f"the tool's input is {kind_of(value)}, where an object is wanted")


def tool_text(message: Any, name: str) -> str | None:
    """The input of the last call of a tool as JSON text, broken where the model broke it; None if it is not called."""
    called, value = _last_input(message, name)
    if not called:
        return None
    return value if isinstance(value, str) else _written(value)


def _written(value: Any) -> str | None:
    """A value as JSON text; None where it is nested too deeply to be written, though it could be read."""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return None


def _last_input(message: Any, name: str) -> tuple[bool, Any]:
    """Whether a tool is called, and what its last call was given."""
    inputs = [value for called, value in _calls(message) if called == name]
    return (True, inputs[-1]) if inputs else (False, None)


def _calls(message: Any) -> list[tuple[Any, Any]]:
    """Names and inputs of the tools that a response calls."""
    if not isinstance(message, dict):
        return []
    calls = [
        (block.get("name"), block.get("input"))
        for block in _mappings(message.get("content"))
        if block.get("type") == "tool_use"
    ]
    for choice in _mappings(message.get("choices"))[:1]:
        answer = choice.get("message")
        for call in _mappings(answer.get("tool_calls") if isinstance(answer, dict) else None):
            function = call.get("function")
            if isinstance(function, dict):
                calls.append((function.get("name"), function.get("arguments")))
    return calls


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

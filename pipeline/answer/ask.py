"""How an answer of a schema is asked for: the API's structured output, a forced tool, or words in the prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from pipeline.answer.schema import PATH, Complain, Schema, nowhere, root_object
from pipeline.answer.sendable import sendable
from pipeline.errors import JobError

Way = Literal["format", "tool", "prompt"]
Dialect = Literal["anthropic", "aimlapi", "simulator", "embedded", "unknown"]

TOOL = "answer"
TOOL_DESCRIPTION = "Give the answer. Call this once, with the whole answer as its input."

AS_OF = "2026-11-22"

HOSTS: tuple[tuple[re.Pattern[str], Dialect], ...] = (
    (re.compile(r"(?:.+\.)?anthropic\.com(?::\d+)?"), "anthropic"),
    (re.compile(r"(?:.+\.)?aimlapi\.com(?::\d+)?"), "aimlapi"),
    (re.compile(r"simulator"), "simulator"),
    (re.compile(r"embedded"), "embedded"),
)
WAYS: Mapping[Dialect, tuple[Way, ...]] = {
    "anthropic": ("format", "tool", "prompt"),
    # aimlapi's schema of a request lists no output_config, and takes both spellings of tool_choice.
    "aimlapi": ("tool", "prompt"),
    # It validates as the API does, so it takes what the API takes.
    "simulator": ("format", "tool", "prompt"),
    # llama.cpp ignores output_config, and makes any forced tool "some tool", by templates that small models lack.
    "embedded": ("prompt",),
    # vLLM takes both, Ollama drops both without a word: words in the prompt are all that surely arrives.
    "unknown": ("prompt",),
}
"""What each dialect takes, best first (messages-api §11)."""

_MODEL = re.compile(r"claude-(?P<line>[a-z]+)-(?P<major>\d{1,2})(?:-(?P<minor>\d{1,2}))?(?:-\d{8}|-latest)?")
_OLD_MODEL = re.compile(r"claude-(?P<major>[1-3])(?:-(?P<minor>\d))?-(?P<line>[a-z]+)(?:-\d{8}|-latest)?")

FORMAT_SINCE = (4, 5)
"""`output_config.format`: Opus, Sonnet and Haiku 4.5 and all that came later (messages-api §1.7)."""
NO_FORCED_TOOL_SINCE: Mapping[str, tuple[int, int]] = {
    "opus": (5, 5),
    "sonnet": (5, 5),
    "fable": (5, 1),
    "mythos": (5, 1),
}
"""From these on a forced `tool_choice` is refused (messages-api §1.5); Haiku takes it."""


@dataclass(frozen=True, slots=True)
class Additions:
    """What a request gets beside what the job says.

    Attributes:
        fields: members of the request's body, to be merged by `merged`.
        instructions: to be appended to the system prompt, or to be it; None where the fields say all.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    instructions: str | None = None


def dialect_of(host: str) -> Dialect:
    """The dialect of an endpoint, by its host with or without a port, or by its word."""
    return next((dialect for pattern, dialect in HOSTS if pattern.fullmatch(host.lower())), "unknown")


def how(model: str, host: str, schema: Schema, request: Mapping[str, Any], *, prefilled: bool = False) -> Way:
    """Choose the best way that dialect, model, schema and the request's own fields leave open.

    Args:
        model: its wire name.
        host: ``host[:port]``, or the endpoint's word.
        schema: as the job has it.
        request: the fields that the job sends.
        prefilled: the conversation ends with a turn of the assistant.
    """
    return next(way for way in WAYS[dialect_of(host)] if _open(way, model, schema, request, prefilled=prefilled))


def _open(way: Way, model: str, schema: Schema, request: Mapping[str, Any], *, prefilled: bool) -> bool:
    if way == "prompt":
        return True
    line, version = _version(model)
    if prefilled or version is None:
        return False
    if way == "format":
        return version >= FORMAT_SINCE and not sendable(schema).obstacles
    thinking = request.get("thinking")
    thinks = isinstance(thinking, Mapping) and thinking.get("type") == "enabled"
    before = NO_FORCED_TOOL_SINCE.get(line)
    allowed = line == "haiku" or (before is not None and version < before)
    # A job that offers tools of its own wants them used; forcing ours would forbid it.
    return allowed and not thinks and not request.get("tools") and request.get("tool_choice") is None


def _version(model: str) -> tuple[str, tuple[int, int] | None]:
    name = model.lower().removeprefix("anthropic/").replace(".", "-")
    found = _MODEL.fullmatch(name) or _OLD_MODEL.fullmatch(name)
    return (found["line"], (int(found["major"]), int(found["minor"] or 0))) if found else ("", None)


def additions(schema: Schema, way: Way) -> Additions:
    """What asks for an answer of this schema."""
    match way:
        case "format":
            form = {"type": "json_schema", "schema": sendable(schema).schema}
            return Additions({"output_config": {"format": form}})
        case "tool":
            tool = {"name": TOOL, "description": TOOL_DESCRIPTION, "input_schema": _input_schema(schema)}
            choice = {"type": "tool", "name": TOOL, "disable_parallel_tool_use": True}
            return Additions({"tools": [tool], "tool_choice": choice})
        case "prompt":
            return Additions(instructions=instructions(schema))


def instructions(schema: Schema) -> str:
    """Ask in words."""
    shown = {word: value for word, value in schema.items() if word not in {"$schema", "$id"}}
    return (
        "Answer with one JSON object and nothing else: no words around it, no code fence. "
        f"It must satisfy this JSON Schema:\n{orjson.dumps(shown).decode()}"
    )


def _input_schema(schema: Schema) -> dict[str, Any]:
    """The schema as a tool's input: all of JSON Schema is taken there, but an object must be at the top."""
    found = root_object(schema)
    rest = {word: value for word, value in schema.items() if word in {"$defs", "definitions"}}
    return {
        "type": "object",
        **{word: value for word, value in found.items() if word not in {"$schema", "$id"}},
        **rest,
    }


def merged(request: Mapping[str, Any], added: Additions, complain: Complain = nowhere) -> dict[str, Any]:
    """Put the additional members into a request's own.

    Raises:
        JobError: the job sets one of them itself.
    """
    fields = dict(request)
    for name, value in added.fields.items():
        own = fields.get(name)
        if own is None:
            fields[name] = value
        elif name == "output_config" and isinstance(own, Mapping) and own.get("format") is None:
            fields[name] = {**own, **value}
        else:
            where = "request.output_config.format" if name == "output_config" else f"request.{name}"
            raise JobError(complain(where, f"is set by {PATH}; write one of the two"))
    return fields

"""A request as the simulator reads it: how long it is, who is asked, and what an answer must fit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import orjson

from pipeline.serve.cache import texts_of, tool_chars
from pipeline.serve.fitting import is_schema
from pipeline.serve.models import rules_of
from pipeline.serve.sights import BLIND, Sights

HEAD_CHARS = 80
"""How much of the last user text an answer and a ledger line repeat."""

CHARS_PER_TOKEN = 4

OF_THE_DELIVERY = frozenset({"stream", "stream_options"})
"""Members that say how an answer comes, and change nothing in it."""

TOLD_BY = "JSON Schema:"
"""Where these words stand in a prompt, and a JSON Schema after them, the answer fits that."""
MAX_TOLD_CHARS = 1_000_000

THINKING = frozenset({"enabled", "adaptive"})

AUTO: Mapping[str, Any] = {"type": "auto"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What a dialect makes of a request that another would make something else of (messages-api §11).

    Attributes:
        default_max_tokens: where the request leaves `max_tokens` out.
        choices: types of `tool_choice` that mean another one.
        thinking: types of `thinking` that make the model think.
        thinks_unasked: models that think when the request does not mention `thinking` do so here.
    """

    default_max_tokens: int = 512
    choices: Mapping[str, str] = field(default_factory=dict)
    thinking: frozenset[str] = THINKING
    thinks_unasked: bool = True


FULL = Reading()


@dataclass(frozen=True, slots=True)
class Shape:
    """What an answer must fit.

    Attributes:
        schema: a JSON Schema.
        tool: the tool that it is the input of; None where it is the text.
    """

    schema: Mapping[str, Any]
    tool: str | None = None


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
        shows_thoughts: a thinking block has words.
        shape: what the answer must fit; None where any text will do.
        tool_chars: what the tools add to the prompt.
        sights: the pictures and documents that were seen.
    """

    digest: bytes
    model: str
    texts: tuple[str, ...]
    text_head: str
    max_tokens: int
    stop_sequences: tuple[str, ...]
    thinks: bool
    shows_thoughts: bool = True
    shape: Shape | None = None
    tool_chars: int = 0
    sights: Sights = BLIND

    @property
    def input_tokens(self) -> int:
        """A quarter of the characters of tools, system and messages, rounded up, and those of pictures; at least 1."""
        return max(1, tokens_up(sum(map(len, self.texts)) + self.tool_chars) + self.sights.tokens)


def tokens_up(chars: int) -> int:
    """A quarter of the characters, rounded up."""
    return -(-chars // CHARS_PER_TOKEN)


def digest_of(body: Any) -> bytes:
    """Hash a body whatever the order of its members: 16 bytes.

    A streamed and a plain request of the same prompt share it, and so their answer, their latency and their faults.
    """
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in OF_THE_DELIVERY}
    return blake2b(orjson.dumps(body, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def conversation_digest(body: Mapping[str, Any], messages: list[Any]) -> bytes:
    """Hash who is asked and what was said so far, however the answer is asked for: 16 bytes."""
    said = {"model": body.get("model"), "system": body.get("system"), "messages": messages}
    return blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def read(body: dict[str, Any], digest: bytes, reading: Reading = FULL, sights: Sights = BLIND) -> Asked:
    """Read a body that has passed validation, has this digest, and in which this was seen."""
    messages = body["messages"]
    texts = list(texts_of(body.get("system")))
    last_user = ""
    for message in messages:
        said = list(texts_of(message.get("content")))
        texts += said
        if message["role"] == "user" and said:
            last_user = "".join(said)
    model = body.get("model") or "default"
    thinking = body.get("thinking")
    rules = rules_of(model)
    shown = rules.shows_thoughts
    if isinstance(thinking, dict):
        thinks = str(thinking.get("type")) in reading.thinking
        if (display := thinking.get("display")) is not None:
            shown = display != "omitted"
    else:
        thinks = reading.thinks_unasked and rules.thinks_unasked
    stops = body.get("stop_sequences") or body.get("stop") or ()
    tools = body.get("tools")
    return Asked(
        digest=digest,
        model=model,
        texts=tuple(texts),
        text_head=last_user[:HEAD_CHARS],
        max_tokens=body.get("max_tokens", body.get("max_completion_tokens", reading.default_max_tokens)),
        stop_sequences=(stops,) if isinstance(stops, str) else tuple(stops),
        thinks=thinks,
        shows_thoughts=shown,
        shape=(_called(body, tools, last_user, reading) if tools else None) or _formatted(body) or _told(texts),
        tool_chars=sum(map(tool_chars, tools)) if tools else 0,
        sights=sights,
    )


# --- what the answer must fit ----------------------------------------------------------------------------------------


def _called(body: Mapping[str, Any], tools: list[Any], last_user: str, reading: Reading) -> Shape | None:
    """Say which tool is called, if any.

    A forced one; where any must be, the first that the last user text names, else the first. Where the model decides,
    it calls the first that the last user text names, unless the last turn brings the result of a call.
    """
    own = {name: schema for name, schema in map(named_tool, tools) if name is not None}
    kind, wanted = choice_of(body.get("tool_choice"))
    kind = reading.choices.get(kind, kind)
    if kind == "none" or not own:
        return None
    if kind == "tool" and wanted in own:
        return Shape(own[wanted], wanted)
    mentioned = next((name for name in own if re.search(rf"\b{re.escape(name)}\b", last_user)), None)
    if kind in {"any", "tool"}:
        mentioned = mentioned or next(iter(own))
    elif _brings_results(body["messages"][-1]):
        return None
    return None if mentioned is None else Shape(own[mentioned], mentioned)


def named_tool(tool: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """Give name and input schema of a tool in either spelling; no name for one that the server runs itself."""
    inner = tool.get("function") if isinstance(tool.get("function"), dict) else tool
    assert isinstance(inner, Mapping)
    schema = inner.get("input_schema", inner.get("parameters"))
    name = inner.get("name")
    if tool.get("type", "custom") not in {"custom", "function"} or not isinstance(name, str):
        return None, {}
    return name, schema if isinstance(schema, dict) else {"type": "object"}


def choice_of(choice: Any) -> tuple[str, str | None]:
    """Read `tool_choice` in either spelling: auto, any, tool or none, and the tool's name."""
    if isinstance(choice, str):
        return {"required": "any"}.get(choice, choice), None
    if not isinstance(choice, Mapping):
        return "auto", None
    if isinstance(function := choice.get("function"), Mapping):
        name = function.get("name")
        return "tool", name if isinstance(name, str) else None
    kind, name = choice.get("type"), choice.get("name")
    return (kind if isinstance(kind, str) else "auto"), name if isinstance(name, str) else None


def _brings_results(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return message.get("role") == "tool" or (
        isinstance(content, list)
        and any(isinstance(block, dict) and block.get("type") == "tool_result" for block in content)
    )


def _formatted(body: Mapping[str, Any]) -> Shape | None:
    config = body.get("output_config")
    form = config.get("format") if isinstance(config, dict) else None
    if isinstance(form, dict):
        return Shape(form["schema"])
    form = body.get("response_format")
    if not isinstance(form, dict):
        return None
    inner = form.get("json_schema")
    schema = inner.get("schema") if isinstance(inner, dict) else None
    if form.get("type") == "json_schema" and is_schema(schema):
        assert isinstance(schema, dict)
        return Shape(schema)
    return Shape({"type": "object"}) if form.get("type") == "json_object" else None


def _told(texts: list[str]) -> Shape | None:
    """Find a schema that the prompt tells in words, the last one."""
    for text in reversed(texts):
        if TOLD_BY in text:
            place = text.rfind(TOLD_BY) + len(TOLD_BY)
            if (schema := _schema_at(text[place : place + MAX_TOLD_CHARS])) is not None:
                return Shape(schema)
    return None


@lru_cache(maxsize=64)
def _schema_at(text: str) -> Mapping[str, Any] | None:
    """Read the JSON object that a text begins with, also in a code fence, if it is a schema."""
    begin = text.find("{")
    if begin < 0 or text[:begin].strip().removeprefix("```").removeprefix("json").strip():
        return None
    try:
        _, end = json.JSONDecoder().raw_decode(text, begin)
        found = orjson.loads(text[begin:end])  # as a request's own schema is read, numbers too
    except (ValueError, RecursionError):
        return None
    return found if is_schema(found) else None

"""The section `request`: fields of POST /messages beside the prompt, typed as they are documented (messages-api §1)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler, Tag
from pydantic_core import CoreSchema, PydanticCustomError

from pipeline.job.fields import (
    PROBLEM,
    Choice,
    Flag,
    Free,
    FreeRows,
    Number,
    ProblemError,
    Schema,
    Text,
    Texts,
    Whole,
)
from pipeline.job.nodes import Scalar
from pipeline.job.section import Section, as_sent, none_if_nothing
from pipeline.job.words import found, quoted

TOOL_NAME = r"[a-zA-Z0-9_-]{1,64}"
_TOOL_NAME_WANTED = "1 to 64 letters, digits, _ or -, such as get_weather"
_DATED = re.compile(r"[a-z][a-z0-9_]*_[0-9]{8}")
_NEWER = "what is newer than this program goes whole under request.extra"


class Metadata(Free):
    """A mapping of anything, in which `user_id` is text, whatever it looks like."""

    def read(self, value: Any) -> dict[str, Any]:
        """Give a dict of plain Python values."""
        if not isinstance(value, dict) or "user_id" not in value:
            return super().read(value)
        read = super().read(value)
        try:
            return read | {"user_id": Text(wanted="text, such as u-007").read(value["user_id"])}
        except ProblemError as problem:
            raise ProblemError(problem.words, ("user_id",)) from problem


ThinkingType = Literal["enabled", "adaptive", "disabled", "between_tools"]


class Thinking(Section):
    """Whether and how the model thinks before it answers (messages-api §1.6)."""

    WAYS_OUT: ClassVar[Mapping[str, str]] = {
        "effort": "write output_config: {effort: …}",
        "budget": "write budget_tokens",
    }
    NEWER = _NEWER

    type: Annotated[
        ThinkingType, Choice(words=("enabled", "adaptive", "disabled", "between_tools"), literal=True, newer=_NEWER)
    ] = Field(
        description="enabled (with a budget; models up to 4.6), adaptive (models from 4.6 on), disabled (where a model "
        "allows it) or between_tools (Sonnet 5.5). Required; no default. Example: adaptive."
    )
    budget_tokens: Annotated[int | None, Whole(optional=True, at_least=1, literal=True)] = Field(
        None,
        description="The most tokens to think with, for enabled: at least 1024, and less than max_tokens, which pays "
        "for them. Default: not sent. Example: 2048.",
    )
    display: Annotated[
        Literal["summarized", "omitted"] | None,
        Choice(optional=True, words=("summarized", "omitted"), literal=True, newer=_NEWER),
    ] = Field(
        None,
        description="Whether the thoughts come back as a summary or empty, for enabled and adaptive. Default: not "
        "sent, the model decides. Example: summarized.",
    )


Effort = Literal["low", "medium", "high", "xhigh", "max"]


class OutputFormat(Section):
    """The form that the answer's text must have (messages-api §1.7)."""

    WAYS_OUT: ClassVar[Mapping[str, str]] = {"json_schema": "write schema"}
    NEWER = _NEWER

    type: Annotated[Literal["json_schema"], Choice(words=("json_schema",), literal=True, newer=_NEWER)] = Field(
        description="json_schema, the only one there is. Required; no default. Example: json_schema."
    )
    json_schema: Annotated[dict[str, Any], Free(json=True, literal=True)] = Field(
        alias="schema",
        description="The JSON Schema, sent as it is. Required; no default. Example: {type: object, properties: "
        "{label: {type: string}}, required: [label], additionalProperties: false}.",
    )


class OutputConfig(Section):
    """How much the model works, and the form of what it writes."""

    NEWER = _NEWER

    effort: Annotated[
        Effort | None,
        Choice(optional=True, words=("low", "medium", "high", "xhigh", "max"), literal=True, newer=_NEWER),
    ] = Field(
        None,
        description="How much the model works on an answer: low, medium, high, xhigh or max. Default: not sent, the "
        "model decides. Example: low.",
    )
    format: Annotated[OutputFormat | None, BeforeValidator(none_if_nothing)] = Field(
        None,
        description="The form of the answer's text. Default: not sent. Example: {type: json_schema, schema: {type: "
        "object, additionalProperties: false}}.",
    )


class CacheControl(Section):
    """The end of a prefix that the API keeps."""

    type: Annotated[Literal["ephemeral"], Choice(words=("ephemeral",), literal=True, newer=_NEWER)] = Field(
        description="ephemeral, the only one there is. Required; no default. Example: ephemeral."
    )
    ttl: Annotated[Literal["5m", "1h"] | None, Choice(optional=True, words=("5m", "1h"), literal=True)] = Field(
        None, description="How long it is kept: 5m or 1h. Default: not sent, which means 5m. Example: 1h."
    )


def _object_schema(schema: dict[str, Any]) -> None:
    if schema.get("type") != "object":
        kind = found(schema["type"]) if schema.get("type") is not None else "none"
        raise ProblemError(f"must have the type object, as in {{type: object, properties: {{…}}}}; found {kind}")


class Tool(Section):
    """A tool of one's own, which the model may ask for (messages-api §1.4)."""

    WAYS_OUT: ClassVar[Mapping[str, str]] = {"parameters": "write input_schema", "schema": "write input_schema"}
    NEWER = _NEWER

    name: Annotated[str, Text(pattern=TOOL_NAME, literal=True, wanted=_TOOL_NAME_WANTED)] = Field(
        description="The tool's name: 1 to 64 letters, digits, _ and -. Required; no default. Example: get_weather."
    )
    input_schema: Annotated[dict[str, Any], Free(json=True, literal=True, check=_object_schema)] = Field(
        description="JSON Schema of the tool's input, an object. Required; no default. Example: {type: object, "
        "properties: {city: {type: string}}, required: [city]}."
    )
    description: Annotated[str | None, Text(optional=True, literal=True)] = Field(
        None,
        description="What the tool does and when it is of use, for the model. Default: not sent. Example: The weather "
        "in a city now.",
    )
    type: Annotated[Literal["custom"] | None, Choice(optional=True, words=("custom",), literal=True)] = Field(
        None, description="custom, or nothing, which means the same. Default: not sent. Example: custom."
    )
    strict: Annotated[bool | None, Flag(optional=True, literal=True)] = Field(
        None,
        description="Whether the input is held to the schema; at most 20 tools are. Default: not sent. Example: true.",
    )
    cache_control: Annotated[CacheControl | None, BeforeValidator(none_if_nothing)] = Field(
        None,
        description="Keep the prefix up to this tool in the API's cache. Default: not sent. Example: {type: "
        "ephemeral}.",
    )
    defer_loading: Annotated[bool | None, Flag(optional=True, literal=True)] = Field(
        None,
        description="Whether the tool is left out until a search tool finds it. Default: not sent. Example: true.",
    )
    eager_input_streaming: Annotated[bool | None, Flag(optional=True, literal=True)] = Field(
        None, description="Whether the input is streamed before it is complete. Default: not sent. Example: true."
    )
    input_examples: Annotated[
        tuple[dict[str, Any], ...] | None, FreeRows(optional=True, json=True, noun="inputs", literal=True)
    ] = Field(None, description="Inputs as they should look. Default: not sent. Example: [{city: Berlin}].")
    allowed_callers: Annotated[tuple[str, ...] | None, Texts(optional=True, at_least=1, literal=True)] = Field(
        None, description="Who may call the tool. Default: not sent. Example: [direct]."
    )


class ServerTool(Free):
    """A tool that the API runs itself, known by its dated type; what else it takes is its own affair."""

    def read(self, value: Any) -> dict[str, Any]:
        """Give the tool as a dict, as it is sent."""
        tool = super().read(value)
        kind, name = tool["type"], tool.get("name")
        if kind == "function":
            raise ProblemError(
                "function is OpenAI's spelling; write the tool without type, as {name: …, description: …, "
                "input_schema: {type: object, …}}",
                ("type",),
            )
        if not isinstance(kind, str) or not _DATED.fullmatch(kind):
            raise ProblemError(
                "must be custom, be left out, or name a tool of the server with its date, such as "
                f"web_search_20260318; found {found(kind)}",
                ("type",),
            )
        if name is not None and not (isinstance(name, str) and re.fullmatch(TOOL_NAME, name)):
            raise ProblemError(f"must be {_TOOL_NAME_WANTED}, found {found(name)}", ("name",))
        return tool

    def shape(self) -> Schema:
        """Any object that has a type, and is no tool of one's own."""
        return {"type": "object", "required": ["type"], "not": {"required": ["input_schema"]}}


def _tool_kind(value: Any) -> str:
    """Tell tools of the server by their type."""
    kind = value.get("type") if isinstance(value, dict) else None
    text = kind.text if isinstance(kind, Scalar) and not kind.is_null and not kind.broken else kind
    return "<server>" if isinstance(text, str) and text != "custom" else "<tool>"


AnyTool = Annotated[
    Annotated[Tool, Tag("<tool>")] | Annotated[dict[str, Any], ServerTool(json=True, literal=True), Tag("<server>")],
    Discriminator(_tool_kind),
]


class ToolChoice(Section):
    """Whether the model must use a tool, and which, in the native spelling (messages-api §1.5)."""

    WAYS_OUT: ClassVar[Mapping[str, str]] = {"function": "write name beside type: tool"}
    NEWER = _NEWER

    type: Annotated[
        Literal["auto", "any", "tool", "none"],
        Choice(words=("auto", "any", "tool", "none"), literal=True, newer=_NEWER),
    ] = Field(
        description="auto (the model decides), any (some tool), tool (the one named) or none. Required; no default. "
        "Example: auto."
    )
    name: Annotated[str | None, Text(optional=True, pattern=TOOL_NAME, literal=True, wanted=_TOOL_NAME_WANTED)] = Field(
        None, description="The tool to use, for type tool. Default: none. Example: get_weather."
    )
    disable_parallel_tool_use: Annotated[bool | None, Flag(optional=True, literal=True)] = Field(
        None, description="Whether the model may use one tool at most. Default: not sent. Example: true."
    )


_CHOICE_WORDS = {"auto": "auto", "required": "any", "any": "any", "none": "none"}


class _BothSpellings:
    """Metadata that adds the spellings of OpenAI, which the reader translates, to the JSON Schema."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        shape = handler(schema)
        named = {
            "type": "object",
            "properties": {
                "name": {
                    "type": "string",
                    "description": "The tool to use. Required; no default. Example: get_weather.",
                }
            },
            "required": ["name"],
            "additionalProperties": False,
        }
        function = {
            "type": "object",
            "properties": {
                "type": {
                    "type": "string",
                    "enum": ["function"],
                    "description": "function, in OpenAI's spelling. Required; no default. Example: function.",
                },
                "function": named | {"description": "Which tool. Required; no default. Example: {name: get_weather}."},
            },
            "required": ["type", "function"],
            "additionalProperties": False,
        }
        alternatives = list(shape["anyOf"]) if set(shape) == {"anyOf"} else [shape]
        return {"anyOf": [*alternatives, {"type": "string", "enum": list(_CHOICE_WORDS)}, function]}


def _native_choice(value: Any) -> Any:
    """Put a tool choice in OpenAI's spelling into the native one, before it is read."""
    if is_word := isinstance(value, str | Scalar):
        if none_if_nothing(value) is None:
            return None
        word = value.text if isinstance(value, Scalar) else value
        if isinstance(value, Scalar) and value.broken:
            return value
        if word in _CHOICE_WORDS:
            return {"type": _CHOICE_WORDS[word]}
    kind = value.get("type") if isinstance(value, dict) else None
    kind = kind.text if isinstance(kind, Scalar) else kind
    if isinstance(value, dict) and kind == "function" and set(value) == {"type", "function"}:
        named = value["function"]
        if isinstance(named, dict) and set(named) == {"name"}:
            return {"type": "tool", "name": named["name"]}
    if is_word or kind == "function":
        words = "must be auto, required, none, {type: tool, name: …} or {type: function, function: {name: …}}; found "
        problem: tuple[tuple[str, ...], str] = ((), words + found(value))
        raise PydanticCustomError(PROBLEM, "not as it should be", {"problems": [problem]})
    if kind == "required":
        return value | {"type": "any"}
    return value


class Skill(Section):
    """A skill that the container has at hand."""

    type: Annotated[Literal["anthropic", "custom"], Choice(words=("anthropic", "custom"), literal=True)] = Field(
        description="Whose it is: anthropic or custom. Required; no default. Example: anthropic."
    )
    skill_id: Annotated[str, Text(literal=True)] = Field(
        description="The skill's name. Required; no default. Example: xlsx."
    )
    version: Annotated[str | None, Text(optional=True, literal=True)] = Field(
        None, description="Its version. Default: not sent, which means the latest. Example: latest."
    )


class Container(Section):
    """Where the server's tools run code."""

    NEWER = _NEWER

    id: Annotated[str | None, Text(optional=True, literal=True)] = Field(
        None, description="An existing container. Default: not sent. Example: container_011."
    )
    skills: Annotated[tuple[Skill, ...] | None, BeforeValidator(none_if_nothing)] = Field(
        None,
        description="What it has at hand. Default: not sent. Example: [{type: anthropic, skill_id: xlsx}].",
    )


class Diagnostics(Section):
    """What the API is asked about the prompt cache."""

    NEWER = _NEWER

    previous_message_id: Annotated[str | None, Text(optional=True, literal=True)] = Field(
        None,
        description="The answer whose prefix this one is compared with. Default: not sent. Example: msg_01.",
    )


def _container_kind(value: Any) -> str:
    is_name = isinstance(value, str) or (isinstance(value, Scalar) and not value.broken)
    return "<name>" if is_name else "<section>"


AnyContainer = Annotated[
    Annotated[str, Text(literal=True, wanted="the name of a container, or {id: …, skills: […]}"), Tag("<name>")]
    | Annotated[Container, Tag("<section>")],
    Discriminator(_container_kind),
]

_WHOLE = frozenset({"thinking", "output_config", "tools", "tool_choice", "container", "metadata", "diagnostics"})
"""Fields with an inside, which may be newer than this program; these may stand under `extra` instead, unchecked."""


def _known_elsewhere(fields: dict[str, Any]) -> None:
    for name in fields:
        if name in RequestFields.model_fields and name not in _WHOLE:
            raise ProblemError(f"write {name} under request itself", (name,))
        if name in {"messages", "system"}:
            raise ProblemError(f"{name} is made of the section prompt", (name,))


class RequestFields(Section):
    """What goes on the wire beside the prompt: fields of POST /messages. Nothing is sent that is not written here."""

    WAYS_OUT: ClassVar[Mapping[str, str]] = {
        "max_completion_tokens": "write max_tokens",
        "stop": "write stop_sequences",
        "system": "write it as prompt.system",
        "messages": "write them as prompt.messages",
        "response_format": "put a field of your server under extra:",
        "effort": "write output_config: {effort: …}",
        "output_format": "write output_config: {format: …}",
        "parallel_tool_calls": "write tool_choice: {type: auto, disable_parallel_tool_use: true}",
        "reasoning_effort": "write output_config: {effort: …}",
        "functions": "write tools",
        "workspace_id": "write endpoint.headers: {anthropic-workspace-id: …}",
        "user_profile_id": "write endpoint.headers: {anthropic-user-profile-id: …}",
        "betas": "write endpoint.headers: {anthropic-beta: …}",
    }

    model: Annotated[str, Text(literal=True, wanted="the model's name, such as claude-haiku-4-5")] = Field(
        description="The model's name, as the endpoint knows it. Required; no default. Example: claude-sonnet-4-5."
    )
    max_tokens: Annotated[int, Whole(at_least=1, literal=True)] = Field(
        1024,
        description="The most tokens that an answer may have, thinking included; an answer that is cut off is marked "
        "truncated, and raising this asks again for those alone. Always sent. Default: 1024. Example: 2048.",
    )
    stream: Annotated[bool, Flag(literal=True)] = Field(
        default=False,
        description="Whether answers come piece by piece, which keeps long ones from timing out; the output is the "
        "same. Default: false. Example: true.",
    )
    temperature: Annotated[float | None, Number(optional=True, at_least=0, at_most=2, literal=True)] = Field(
        None,
        description="Randomness, 0 to 1 at Anthropic; refused by its models from 4.7 on and by its API version "
        "2026-10-21. Default: not sent. Example: 0.",
    )
    top_p: Annotated[float | None, Number(optional=True, at_least=0, at_most=1, literal=True)] = Field(
        None,
        description="Nucleus sampling, a share from 0 to 1; refused where temperature is. Default: not sent. Example: "
        "0.95.",
    )
    top_k: Annotated[int | None, Whole(optional=True, at_least=0, literal=True)] = Field(
        None,
        description="Sample from this many tokens only; refused where temperature is. Default: not sent. Example: 40.",
    )
    stop_sequences: Annotated[tuple[str, ...] | None, Texts(optional=True, literal=True)] = Field(
        None, description='Texts at which the answer ends. Default: not sent. Example: ["</answer>"].'
    )
    tools: Annotated[tuple[AnyTool, ...] | None, BeforeValidator(none_if_nothing)] = Field(
        None,
        description="Tools that the model may ask for, and tools of the server by their dated type. Default: not sent. "
        "Example: [{name: get_weather, input_schema: {type: object, properties: {city: {type: string}}}}].",
    )
    tool_choice: Annotated[ToolChoice | None, BeforeValidator(_native_choice), _BothSpellings()] = Field(
        None,
        description="Whether a tool must be used: {type: auto}, any, none or {type: tool, name: …}; also auto, "
        "required, none and {type: function, function: {name: …}}, as OpenAI spells it. Default: not sent, which means "
        "auto. Example: {type: tool, name: get_weather}.",
    )
    thinking: Annotated[Thinking | None, BeforeValidator(none_if_nothing)] = Field(
        None,
        description="Whether the model thinks before it answers, which is paid from max_tokens; what is accepted "
        "depends on the model. Default: not sent. Example: {type: enabled, budget_tokens: 2048}.",
    )
    output_config: Annotated[OutputConfig | None, BeforeValidator(none_if_nothing)] = Field(
        None,
        description="Effort, and the format that the answer must have. Default: not sent. Example: {effort: low}.",
    )
    metadata: Annotated[dict[str, Any] | None, Metadata(optional=True, json=True, literal=True)] = Field(
        None,
        description="About the request; Anthropic knows user_id alone, an opaque name of the end user. Not part of "
        "what an answer is kept under. Default: not sent. Example: {user_id: u-007}.",
    )
    service_tier: Annotated[
        Literal["auto", "standard_only"] | None, Choice(optional=True, words=("auto", "standard_only"), literal=True)
    ] = Field(None, description="Whether priority capacity may be used. Default: not sent. Example: standard_only.")
    speed: Annotated[
        Literal["standard", "fast"] | None, Choice(optional=True, words=("standard", "fast"), literal=True)
    ] = Field(
        None,
        description="fast answers sooner, at twice the price and with limits of its own, on some models. Default: not "
        "sent. Example: fast.",
    )
    inference_geo: Annotated[str | None, Text(optional=True, literal=True)] = Field(
        None, description="Where the model runs; us costs 1.1 times the price. Default: not sent. Example: us."
    )
    container: Annotated[AnyContainer | None, BeforeValidator(none_if_nothing)] = Field(
        None,
        description="The container in which the server's tools run code, by its name or as {id: …, skills: […]}. "
        "Default: not sent. Example: {skills: [{type: anthropic, skill_id: xlsx}]}.",
    )
    cache_control: Annotated[CacheControl | None, BeforeValidator(none_if_nothing)] = Field(
        None,
        description="Keep the whole prompt of each row in the API's cache, which only pays where requests continue one "
        "another; what rows share is kept by prompt.cache. Default: not sent. Example: {type: ephemeral}.",
    )
    diagnostics: Annotated[Diagnostics | None, BeforeValidator(none_if_nothing)] = Field(
        None,
        description="Ask why the prompt cache was missed; the answer says so. Default: not sent. Example: "
        "{previous_message_id: msg_01}.",
    )
    extra: Annotated[dict[str, Any], Free(json=True, literal=True, check=_known_elsewhere)] = Field(
        {},
        description="Further fields, sent as they are, for what is newer than this program or peculiar to a server; "
        "thinking, tools, tool_choice, output_config, metadata, container and diagnostics too, whole, where they are "
        "newer. Default: {}. Example: {seed: 7}.",
    )

    @property
    def tool_names(self) -> tuple[str, ...]:
        """The names of the tools, in order; a server's tool that has none is left out."""
        names = (tool.name if isinstance(tool, Tool) else tool.get("name") for tool in self.tools or ())
        return tuple(name for name in names if name is not None)

    def wire(self) -> dict[str, Any]:
        """Give the members of the JSON body apart from `system` and `messages`: what the job sets, and `max_tokens`.

        `stream` is among them only where it is true; `tool_choice` is in the native spelling.
        """
        fields = as_sent(self)
        del fields["extra"]
        if not self.stream:
            del fields["stream"]
        return dict(fields) | self.extra


def check_request(request: RequestFields) -> list[tuple[str, str]]:
    """Find what cannot be meant, whomever it is sent to: places with words."""
    found_wrong = [
        (f"request.extra.{name}", f"stands under request too; keep one of them, {name} there is checked")
        for name in sorted(_WHOLE & request.extra.keys() & request.model_fields_set)
        if getattr(request, name) is not None
    ]
    found_wrong += _check_tools(request)
    choice = request.tool_choice
    if choice is None or "tools" in request.extra:
        return found_wrong
    place = "request.tool_choice"
    if not request.tools:
        found_wrong.append((place, "chooses among tools, but there are none; write tools: beside it, or remove it"))
    elif choice.type == "tool" and choice.name is None:
        found_wrong.append((place, "names no tool; write {type: tool, name: …}"))
    elif choice.type != "tool" and choice.name is not None:
        found_wrong.append((f"{place}.name", f"is only for type tool, found type {choice.type}"))
    elif choice.name is not None and choice.name not in request.tool_names:
        there = ", ".join(request.tool_names)
        found_wrong.append((f"{place}.name", f"{quoted(choice.name)} is none of the tools; there is {there}"))
    if choice.type == "none" and choice.disable_parallel_tool_use is not None:
        found_wrong.append((f"{place}.disable_parallel_tool_use", "means nothing where no tool may be used; remove it"))
    return found_wrong


def _check_tools(request: RequestFields) -> list[tuple[str, str]]:
    wrong = []
    seen: set[str] = set()
    for index, tool in enumerate(request.tools or ()):
        name = tool.name if isinstance(tool, Tool) else tool.get("name")
        if name in seen:
            wrong.append((f"request.tools.{index}.name", f"{quoted(name)} stands twice; tools have different names"))
        seen.add(name or "")
    return wrong

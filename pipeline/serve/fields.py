"""The members of a request's body, each with the check of its value, in the API's words.

Rules and texts are those of messages-api §1 and §5. Where that sheet gives no text, the form is that of the API's own
validator: the dotted path, a colon, and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.serve.fitting import is_schema
from pipeline.serve.models import THINKING_TYPES
from pipeline.serve.structured import MAX_STRICT_TOOLS, TOO_COMPLEX, refusal_of

MAX_MESSAGES = 100_000
MIN_THINKING_TOKENS = 1024

Body = dict[str, Any]
Check = Callable[[Any], None]

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_SERVER_TOOL = re.compile(r"[a-z_]+_[0-9]{8}")
_TOOL_MEMBERS = frozenset(
    {
        *("name", "input_schema", "description", "type", "strict", "cache_control", "defer_loading"),
        *("eager_input_streaming", "input_examples", "allowed_callers"),
    }
)


class ApiError(Exception):
    """The server's answer is an error of this status, with these words.

    Attributes:
        status: HTTP status.
        message: `error.message` of the envelope.
        headers: response headers that belong to the error.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        self.status = status
        self.message = message
        self.headers = headers or {}
        super().__init__(message)


def bad(message: str) -> ApiError:
    """Refuse a request with these words."""
    return ApiError(400, message)


def string(path: str) -> Check:
    """Ask for a string."""

    def check_string(value: Any) -> None:
        if not isinstance(value, str):
            raise bad(f"{path}: Input should be a valid string")

    return check_string


def optional_string(path: str) -> Check:
    """Ask for a string or null."""
    check_string = string(path)

    def check_optional(value: Any) -> None:
        if value is not None:
            check_string(value)

    return check_optional


def boolean(path: str) -> Check:
    """Ask for true or false."""

    def check_boolean(value: Any) -> None:
        if not isinstance(value, bool):
            raise bad(f"{path}: Input should be a valid boolean")

    return check_boolean


def integer(path: str, low: int) -> Check:
    """Ask for an integer, not below a bound."""

    def check_integer(value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise bad(f"{path}: Input should be a valid integer")
        if value < low:
            raise bad(f"{path}: Input should be greater than or equal to {low}")

    return check_integer


def number(path: str, low: float, high: float) -> Check:
    """Ask for a number between bounds."""

    def check_number(value: Any) -> None:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise bad(f"{path}: Input should be a valid number")
        if value < low:
            raise bad(f"{path}: Input should be greater than or equal to {low:g}")
        if value > high:
            raise bad(f"{path}: Input should be less than or equal to {high:g}")

    return check_number


def one_of(path: str, *allowed: str) -> Check:
    """Ask for one of some words."""
    words = [f"'{word}'" for word in allowed]
    expected = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)

    def check_word(value: Any) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise bad(f"{path}: Input should be {expected}")

    return check_word


def mapping(value: Any, path: str) -> Body:
    """Ask for an object, and give it."""
    if not isinstance(value, dict):
        raise bad(f"{path}: Input should be a valid dictionary")
    return value


def members(value: Body, path: str, allowed: frozenset[str], required: tuple[str, ...] = ()) -> None:
    """Ask for these members and no others."""
    for name in required:
        if name not in value:
            raise bad(f"{path}.{name}: Field required")
    if not value.keys() <= allowed:
        extra = next(name for name in value if name not in allowed)
        raise bad(f"{path}.{extra}: Extra inputs are not permitted")


def anything(_value: Any) -> None:
    """Accept what only a later part of the API reads."""


def _stop_sequences(value: Any) -> None:
    if not isinstance(value, list):
        raise bad("stop_sequences: Input should be a valid list")
    for index, word in enumerate(value):
        if not isinstance(word, str):
            raise bad(f"stop_sequences.{index}: Input should be a valid string")
        if not word.strip():
            raise bad("stop_sequences: each stop sequence must contain non-whitespace")


def _stop(value: Any) -> None:
    if value is not None and not isinstance(value, str):
        _stop_sequences(value)


def _metadata(value: Any) -> None:
    members(mapping(value, "metadata"), "metadata", frozenset({"user_id"}))
    optional_string("metadata.user_id")(value.get("user_id"))


def _stream_options(value: Any) -> None:
    if value is None:
        return
    members(mapping(value, "stream_options"), "stream_options", frozenset({"include_usage", "include_obfuscation"}))
    for name, chosen in value.items():
        boolean(f"stream_options.{name}")(chosen)


_check_budget = integer("thinking.enabled.budget_tokens", MIN_THINKING_TOKENS)
_check_display = one_of("thinking.display", "summarized", "omitted")


def _thinking(value: Any) -> None:
    kind = mapping(value, "thinking").get("type")
    if kind is None:
        raise bad("thinking.type: Field required")
    if not isinstance(kind, str) or kind not in THINKING_TYPES:
        expected = ", ".join(f"'{name}'" for name in sorted(THINKING_TYPES))
        raise bad(
            f"thinking: Input tag '{kind}' found using 'type' does not match any of the expected tags: {expected}"
        )
    path = f"thinking.{kind}"
    if kind == "enabled":
        members(value, path, frozenset({"type", "budget_tokens", "display"}), ("budget_tokens",))
        _check_budget(value["budget_tokens"])
    else:
        members(value, path, frozenset({"type", "display"} if kind == "adaptive" else {"type"}))
    if value.get("display") is not None:
        _check_display(value["display"])


_check_effort = one_of("output_config.effort", "low", "medium", "high", "xhigh", "max")


def _effort_and_format(value: Any) -> None:
    members(mapping(value, "output_config"), "output_config", frozenset({"effort", "format"}))
    if value.get("effort") is not None:
        _check_effort(value["effort"])
    form = value.get("format")
    if form is not None:
        path = "output_config.format"
        members(mapping(form, path), path, frozenset({"type", "schema"}), ("type", "schema"))
        one_of(f"{path}.type", "json_schema")(form["type"])
        mapping(form["schema"], f"{path}.schema")
        if not is_schema(form["schema"]):
            raise bad(f"{path}.schema: Invalid JSON schema")


def _output_config(value: Any) -> None:
    """Check effort and format, and that the API can compile the schema."""
    _effort_and_format(value)
    form = value.get("format")
    if form is not None and (reason := refusal_of(form["schema"])) is not None:
        raise bad(f"output_config.format.schema: {reason}" if reason != TOO_COMPLEX else reason)


def _tools(value: Any) -> None:
    """Check tools as the API describes them."""
    _each_tool(value)
    strict = 0
    for index, tool in enumerate(value):
        kind = tool.get("type")
        if kind is not None and kind != "custom" and not _SERVER_TOOL.fullmatch(kind):
            found = f"Input tag '{kind}' found using 'type' does not match any of the expected tags: 'custom'"
            raise bad(f"tools.{index}: {found}")
        path = f"tools.{index}.custom"
        if kind in {None, "custom"}:
            members(tool, path, _TOOL_MEMBERS, ("name", "input_schema"))
            _input_schema(tool["input_schema"], f"{path}.input_schema")
            if tool.get("strict"):
                strict += 1
                if (reason := refusal_of(tool["input_schema"])) is not None:
                    raise bad(f"{path}: {reason}" if reason != TOO_COMPLEX else reason)
    if strict > MAX_STRICT_TOOLS:
        raise bad(TOO_COMPLEX)


def _tools_of_either_spelling(value: Any) -> None:
    """Check tools as the API or as OpenAI describes them."""
    _each_tool(value)
    for index, tool in enumerate(value):
        inner = tool.get("function", tool)
        schema = inner.get("input_schema", inner.get("parameters"))
        if schema is not None:
            _input_schema(schema, f"tools.{index}.parameters")


def _each_tool(value: Any) -> None:
    if not isinstance(value, list):
        raise bad("tools: Input should be a valid list")
    names = set()
    for index, tool in enumerate(value):
        path = f"tools.{index}"
        inner = mapping(mapping(tool, path).get("function", tool), f"{path}.function")
        kind, name = tool.get("type"), inner.get("name")
        if kind is not None:
            string(f"{path}.type")(kind)
        if name is None:
            raise bad(f"{path}.custom.name: Field required")
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            raise bad(f"{path}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
        if name in names:
            raise bad("tools: Tool names must be unique.")
        names.add(name)


def _input_schema(value: Any, path: str) -> None:
    kind = mapping(value, path).get("type")
    if kind is None:
        raise bad(f"{path}.type: Field required")
    if kind != "object":
        raise bad(f"{path}.type: Input should be 'object'")
    if not is_schema(value):
        raise bad(f"{path}: JSON schema is invalid. It must match JSON Schema draft 2020-12")


def _tool_choice(value: Any) -> None:
    kind = mapping(value, "tool_choice").get("type")
    one_of("tool_choice.type", "auto", "any", "tool", "none")(kind)
    if kind == "tool" and not isinstance(value.get("name"), str):
        raise bad("tool_choice.tool.name: Field required")
    path = f"tool_choice.{kind}"
    allowed = {
        "type",
        *(["name"] if kind == "tool" else []),
        *(["disable_parallel_tool_use"] if kind != "none" else []),
    }
    members(value, path, frozenset(allowed))
    if "disable_parallel_tool_use" in value:
        boolean(f"{path}.disable_parallel_tool_use")(value["disable_parallel_tool_use"])


def cache_control(value: Any, path: str) -> None:
    """Check a mark of the prompt cache."""
    if value is None:
        return
    members(mapping(value, path), path, frozenset({"type", "ttl"}), ("type",))
    one_of(f"{path}.type", "ephemeral")(value["type"])
    if "ttl" in value:
        one_of(f"{path}.ttl", "5m", "1h")(value["ttl"])


def text_block(block: Body, path: str) -> None:
    """Check a block of text."""
    text = block.get("text")
    if text is None:
        raise bad(f"{path}.text.text: Field required")
    if not isinstance(text, str):
        raise bad(f"{path}.text.text: Input should be a valid string")
    if not text:
        raise bad("messages: text content blocks must be non-empty")
    if text.isspace():
        raise bad("messages: text content blocks must contain non-whitespace text")
    if len(block) > 2:
        members(block, f"{path}.text", frozenset({"type", "text", "cache_control", "citations"}))


def _system(value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise bad("system: Input should be a valid string or list")
    for index, block in enumerate(value):
        path = f"system.{index}"
        if mapping(block, path).get("type") != "text":
            raise bad(f"{path}.type: Input should be 'text'")
        text_block(block, path)


def _message_list(value: Any) -> None:
    if not isinstance(value, list):
        raise bad("messages: Input should be a valid list")
    if not value:
        raise bad("messages: at least one message is required")
    if len(value) > MAX_MESSAGES:
        raise bad(f"messages: List should have at most {MAX_MESSAGES} items after validation, not {len(value)}")


NATIVE_FIELDS: Mapping[str, Check] = {
    "model": string("model"),
    "max_tokens": integer("max_tokens", 0),
    "messages": _message_list,
    "system": _system,
    "stop_sequences": _stop_sequences,
    "stream": boolean("stream"),
    "temperature": number("temperature", 0, 1),
    "top_p": number("top_p", 0, 1),
    "top_k": integer("top_k", 0),
    "tools": _tools,
    "tool_choice": _tool_choice,
    "thinking": _thinking,
    "output_config": _output_config,
    "cache_control": lambda value: cache_control(value, "cache_control"),
    "metadata": _metadata,
    "service_tier": one_of("service_tier", "auto", "standard_only"),
    "inference_geo": optional_string("inference_geo"),
    "speed": one_of("speed", "standard", "fast"),
    "container": anything,
    "diagnostics": anything,
}

OPENAI_FIELDS: Mapping[str, Check] = {
    **NATIVE_FIELDS,
    "temperature": number("temperature", 0, 2),
    "max_tokens": integer("max_tokens", 1),
    "max_completion_tokens": integer("max_completion_tokens", 1),
    "stream_options": _stream_options,
    "tools": _tools_of_either_spelling,
    "thinking": anything,
    "output_config": _effort_and_format,
    "metadata": anything,
    "tool_choice": anything,
    "service_tier": anything,
    "stop": _stop,
    "n": integer("n", 1),
    "seed": integer("seed", -(2**63)),
    "user": string("user"),
    "frequency_penalty": number("frequency_penalty", -2, 2),
    "presence_penalty": number("presence_penalty", -2, 2),
    "response_format": anything,
    "reasoning_effort": anything,
    "parallel_tool_calls": boolean("parallel_tool_calls"),
}

AIMLAPI_FIELDS: Mapping[str, Check] = {
    **{name: check for name, check in OPENAI_FIELDS.items() if name not in {"cache_control", "output_config"}},
    "temperature": NATIVE_FIELDS["temperature"],
    "thinking": NATIVE_FIELDS["thinking"],
}
"""Either a native request or OpenAI's words in the same members; what is not here changes nothing (messages-api §0)."""

_LOCAL = (
    *("model", "messages", "system", "stop_sequences", "stream", "temperature", "top_p", "top_k", "tools"),
    *("tool_choice", "metadata"),
)
LOCAL_FIELDS: Mapping[str, Check] = {
    **{name: NATIVE_FIELDS[name] for name in _LOCAL},
    "temperature": number("temperature", 0, 2),
    "metadata": anything,
    "tools": _tools_of_either_spelling,
}
VLLM_FIELDS: Mapping[str, Check] = {
    **LOCAL_FIELDS,
    "max_tokens": integer("max_tokens", 1),
    "output_config": _effort_and_format,
}
LLAMACPP_FIELDS: Mapping[str, Check] = {
    **LOCAL_FIELDS,
    "max_tokens": integer("max_tokens", 0),
    "thinking": anything,
}
OLLAMA_FIELDS: Mapping[str, Check] = {
    **LOCAL_FIELDS,
    "max_tokens": integer("max_tokens", 1),
    "thinking": anything,
}

"""What the real API refuses, and in which words: a request body is checked before anything is answered.

Rules and texts are those of messages-api §0, §1, §2 and §5. Where that sheet gives no text, the form is that of the
API's own validator: the dotted path, a colon, and what was expected. The first fault found is the one told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.serve.models import THINKING_TYPES, ModelRules, rules_of

VERSIONS = frozenset({"2023-01-01", "2023-06-01", "2026-10-21"})
WITHOUT_SAMPLING = "2026-10-21"
"""The API version from which sampling parameters are unknown fields."""

MAX_MESSAGES = 100_000
MAX_IMAGE_BASE64_BYTES = 10 * 1024 * 1024
MAX_CACHE_BREAKPOINTS = 4
MIN_THINKING_TOKENS = 1024

Body = dict[str, Any]

_SAMPLING = ("temperature", "top_p", "top_k")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


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


@dataclass(frozen=True, slots=True)
class Rules:
    """What a dialect asks of a request.

    Attributes:
        version_required: `anthropic-version` must be there and known.
        fields: the members that a body may have, each with the check of its value.
        required: members that must be there.
        unknown_field: how an unknown member is refused, with ``{}`` for its name.
        roles: who may speak.
        blocks: types of content blocks, each with its check.
        by_model: the limits of the named model apply.
    """

    version_required: bool
    fields: Mapping[str, Callable[[Any], None]]
    required: tuple[str, ...]
    unknown_field: str
    roles: frozenset[str]
    blocks: Mapping[str, Callable[[Body, str], None]]
    by_model: bool


def check(body: Any, version: str | None, rules: Rules, models: frozenset[str] = frozenset()) -> Body:
    """Give the body back if the API would answer it.

    Args:
        body: the parsed JSON.
        version: the `anthropic-version` header, or None without one.
        rules: those of the dialect.
        models: the only models served; empty to serve all but retired ones.

    Raises:
        ApiError: 400 for a bad request, 404 for a model that is not served.
    """
    if rules.version_required:
        _check_version(version)
    if not isinstance(body, dict):
        raise _bad("Input should be a valid dictionary or object to extract fields from")
    fields = rules.fields
    for name, value in body.items():
        check_value = fields.get(name)
        if check_value is None:
            raise _bad(rules.unknown_field.format(name))
        check_value(value)
    for name in rules.required:
        if name not in body:
            raise _bad(f"{name}: Field required")
    if version == WITHOUT_SAMPLING:
        for name in _SAMPLING:
            if name in body:
                raise _bad(rules.unknown_field.format(name))
    if body.get("stream_options") is not None and not body.get("stream"):
        raise _bad("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    marks = _check_messages(body["messages"], rules, strict_blocks=version == WITHOUT_SAMPLING)
    marks += _count_marks(body.get("system"), "system") + _count_marks(body.get("tools"), "tools")
    if marks + ("cache_control" in body) > MAX_CACHE_BREAKPOINTS:
        raise _bad(f"A maximum of {MAX_CACHE_BREAKPOINTS} blocks with cache_control may be provided. Found {marks}.")
    _check_model(body["model"], models)
    if rules.by_model:
        _check_by_model(body, rules_of(body["model"]))
    return body


def _bad(message: str) -> ApiError:
    return ApiError(400, message)


def _check_version(version: str | None) -> None:
    if version is None:
        raise _bad("anthropic-version: header is required")
    if version not in VERSIONS:
        raise _bad(f'anthropic-version: "{version}" is not a valid version')


def _check_model(model: str, models: frozenset[str]) -> None:
    if (models and model not in models) or rules_of(model).retired:
        raise ApiError(404, f"model: {model}")


# --- members of the body ---------------------------------------------------------------------------------------------


def _string(path: str) -> Callable[[Any], None]:
    def check_string(value: Any) -> None:
        if not isinstance(value, str):
            raise _bad(f"{path}: Input should be a valid string")

    return check_string


def _optional_string(path: str) -> Callable[[Any], None]:
    check_string = _string(path)

    def check_optional(value: Any) -> None:
        if value is not None:
            check_string(value)

    return check_optional


def _boolean(path: str) -> Callable[[Any], None]:
    def check_boolean(value: Any) -> None:
        if not isinstance(value, bool):
            raise _bad(f"{path}: Input should be a valid boolean")

    return check_boolean


def _integer(path: str, low: int) -> Callable[[Any], None]:
    def check_integer(value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _bad(f"{path}: Input should be a valid integer")
        if value < low:
            raise _bad(f"{path}: Input should be greater than or equal to {low}")

    return check_integer


def _number(path: str, low: float, high: float) -> Callable[[Any], None]:
    def check_number(value: Any) -> None:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise _bad(f"{path}: Input should be a valid number")
        if value < low:
            raise _bad(f"{path}: Input should be greater than or equal to {low:g}")
        if value > high:
            raise _bad(f"{path}: Input should be less than or equal to {high:g}")

    return check_number


def _one_of(path: str, *allowed: str) -> Callable[[Any], None]:
    words = [f"'{word}'" for word in allowed]
    expected = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)

    def check_word(value: Any) -> None:
        if not isinstance(value, str) or value not in allowed:
            raise _bad(f"{path}: Input should be {expected}")

    return check_word


def _mapping(value: Any, path: str) -> Body:
    if not isinstance(value, dict):
        raise _bad(f"{path}: Input should be a valid dictionary")
    return value


def _members(value: Body, path: str, allowed: frozenset[str], required: tuple[str, ...] = ()) -> None:
    for name in required:
        if name not in value:
            raise _bad(f"{path}.{name}: Field required")
    if not value.keys() <= allowed:
        extra = next(name for name in value if name not in allowed)
        raise _bad(f"{path}.{extra}: Extra inputs are not permitted")


def _anything(_value: Any) -> None:
    """Accept what only a later part of the API reads."""


def _stop_sequences(value: Any) -> None:
    if not isinstance(value, list):
        raise _bad("stop_sequences: Input should be a valid list")
    for index, word in enumerate(value):
        if not isinstance(word, str):
            raise _bad(f"stop_sequences.{index}: Input should be a valid string")
        if not word.strip():
            raise _bad("stop_sequences: each stop sequence must contain non-whitespace")


def _stop(value: Any) -> None:
    if value is not None and not isinstance(value, str):
        _stop_sequences(value)


def _metadata(value: Any) -> None:
    _members(_mapping(value, "metadata"), "metadata", frozenset({"user_id"}))
    _optional_string("metadata.user_id")(value.get("user_id"))


def _stream_options(value: Any) -> None:
    if value is None:
        return
    members = _mapping(value, "stream_options")
    _members(members, "stream_options", frozenset({"include_usage", "include_obfuscation"}))
    for name, chosen in members.items():
        _boolean(f"stream_options.{name}")(chosen)


_check_budget = _integer("thinking.enabled.budget_tokens", MIN_THINKING_TOKENS)
_check_display = _one_of("thinking.display", "summarized", "omitted")


def _thinking(value: Any) -> None:
    kind = _mapping(value, "thinking").get("type")
    if kind is None:
        raise _bad("thinking.type: Field required")
    if not isinstance(kind, str) or kind not in THINKING_TYPES:
        expected = ", ".join(f"'{name}'" for name in sorted(THINKING_TYPES))
        raise _bad(
            f"thinking: Input tag '{kind}' found using 'type' does not match any of the expected tags: {expected}"
        )
    path = f"thinking.{kind}"
    if kind == "enabled":
        _members(value, path, frozenset({"type", "budget_tokens", "display"}), ("budget_tokens",))
        _check_budget(value["budget_tokens"])
    else:
        _members(value, path, frozenset({"type", "display"} if kind == "adaptive" else {"type"}))
    if value.get("display") is not None:
        _check_display(value["display"])


_check_effort = _one_of("output_config.effort", "low", "medium", "high", "xhigh", "max")


def _output_config(value: Any) -> None:
    _members(_mapping(value, "output_config"), "output_config", frozenset({"effort", "format"}))
    if value.get("effort") is not None:
        _check_effort(value["effort"])
    form = value.get("format")
    if form is not None:
        path = "output_config.format"
        _members(_mapping(form, path), path, frozenset({"type", "schema"}), ("type", "schema"))
        _one_of(f"{path}.type", "json_schema")(form["type"])
        _mapping(form["schema"], f"{path}.schema")


def _tools(value: Any) -> None:
    if not isinstance(value, list):
        raise _bad("tools: Input should be a valid list")
    for index, tool in enumerate(value):
        name = _mapping(tool, f"tools.{index}").get("name", _mapping(tool.get("function", {}), "tools").get("name"))
        if name is None:
            raise _bad(f"tools.{index}.name: Field required")
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            raise _bad(f"tools.{index}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")


def _tool_choice(value: Any) -> None:
    kind = _mapping(value, "tool_choice").get("type")
    _one_of("tool_choice.type", "auto", "any", "tool", "none")(kind)
    if kind == "tool" and not isinstance(value.get("name"), str):
        raise _bad("tool_choice.tool.name: Field required")


def _cache_control(value: Any, path: str) -> None:
    if value is None:
        return
    _members(_mapping(value, path), path, frozenset({"type", "ttl"}), ("type",))
    _one_of(f"{path}.type", "ephemeral")(value["type"])
    if "ttl" in value:
        _one_of(f"{path}.ttl", "5m", "1h")(value["ttl"])


def _system(value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise _bad("system: Input should be a valid string or list")
    for index, block in enumerate(value):
        path = f"system.{index}"
        if _mapping(block, path).get("type") != "text":
            raise _bad(f"{path}.type: Input should be 'text'")
        _text_block(block, path)


def _message_list(value: Any) -> None:
    if not isinstance(value, list):
        raise _bad("messages: Input should be a valid list")
    if not value:
        raise _bad("messages: at least one message is required")
    if len(value) > MAX_MESSAGES:
        raise _bad(f"messages: List should have at most {MAX_MESSAGES} items after validation, not {len(value)}")


NATIVE_FIELDS: Mapping[str, Callable[[Any], None]] = {
    "model": _string("model"),
    "max_tokens": _integer("max_tokens", 0),
    "messages": _message_list,
    "system": _system,
    "stop_sequences": _stop_sequences,
    "stream": _boolean("stream"),
    "temperature": _number("temperature", 0, 1),
    "top_p": _number("top_p", 0, 1),
    "top_k": _integer("top_k", 0),
    "tools": _tools,
    "tool_choice": _tool_choice,
    "thinking": _thinking,
    "output_config": _output_config,
    "cache_control": lambda value: _cache_control(value, "cache_control"),
    "metadata": _metadata,
    "service_tier": _one_of("service_tier", "auto", "standard_only"),
    "inference_geo": _optional_string("inference_geo"),
    "speed": _one_of("speed", "standard", "fast"),
    "container": _anything,
    "diagnostics": _anything,
}

OPENAI_FIELDS: Mapping[str, Callable[[Any], None]] = {
    **NATIVE_FIELDS,
    "temperature": _number("temperature", 0, 2),
    "max_tokens": _integer("max_tokens", 1),
    "max_completion_tokens": _integer("max_completion_tokens", 1),
    "stream_options": _stream_options,
    "thinking": _anything,
    "metadata": _anything,
    "tool_choice": _anything,
    "service_tier": _anything,
    "stop": _stop,
    "n": _integer("n", 1),
    "seed": _integer("seed", -(2**63)),
    "user": _string("user"),
    "frequency_penalty": _number("frequency_penalty", -2, 2),
    "presence_penalty": _number("presence_penalty", -2, 2),
    "response_format": _anything,
    "reasoning_effort": _anything,
    "parallel_tool_calls": _boolean("parallel_tool_calls"),
}


# --- messages --------------------------------------------------------------------------------------------------------


def _check_messages(messages: list[Any], rules: Rules, *, strict_blocks: bool) -> int:
    """Check every turn; give the number of cache marks in them."""
    marks = 0
    last = len(messages) - 1
    for index, message in enumerate(messages):
        path = f"messages.{index}"
        _mapping(message, path)
        role = message.get("role")
        if role is None:
            raise _bad(f"{path}.role: Field required")
        if not isinstance(role, str) or role not in rules.roles:
            allowed = " or ".join(f'"{name}"' for name in sorted(rules.roles, reverse=True))
            raise _bad(f'messages: Unexpected role "{role}". Allowed roles are {allowed}')
        if "content" not in message and not ("tool_calls" in message and not rules.by_model):
            raise _bad(f"{path}.content: Field required")
        if rules.by_model and len(message) > 2:
            _members(message, path, frozenset({"role", "content"}))
        content = message.get("content")
        if isinstance(content, str):
            _check_text(content, path, final_assistant=role == "assistant" and index == last)
        elif isinstance(content, list):
            marks += _check_blocks(content, path, role, rules, strict_blocks=strict_blocks)
            if not content and not (role == "assistant" and index == last):
                raise _empty(path)
        elif content is not None or rules.by_model:
            raise _bad(f"{path}.content: Input should be a valid string or list")
    if rules.by_model and messages[last]["role"] == "assistant":
        _check_prefill(messages[last].get("content"))
    return marks


def _empty(path: str) -> ApiError:
    return _bad(f"{path}: all messages must have non-empty content except for the optional final assistant message")


def _check_text(text: str, path: str, *, final_assistant: bool) -> None:
    if not text:
        if not final_assistant:
            raise _empty(path)
    elif text.isspace() and not final_assistant:
        raise _bad("messages: text content blocks must contain non-whitespace text")


def _check_prefill(content: Any) -> None:
    text = content[-1].get("text", "") if isinstance(content, list) and content else content
    if isinstance(text, str) and text and text[-1].isspace():
        raise _bad("messages: final assistant content cannot end with trailing whitespace")


def _check_blocks(blocks: list[Any], path: str, role: str, rules: Rules, *, strict_blocks: bool) -> int:
    marks = 0
    for index, block in enumerate(blocks):
        place = f"{path}.content.{index}"
        kind = _mapping(block, place).get("type")
        if kind is None:
            raise _bad(f"{place}.type: Field required")
        check_block = rules.blocks.get(kind) if isinstance(kind, str) else None
        if check_block is None:
            expected = ", ".join(f"'{name}'" for name in sorted(rules.blocks))
            raise _bad(
                f"{place}: Input tag '{kind}' found using 'type' does not match any of the expected tags: {expected}"
            )
        check_block(block, place)
        if block.get("cache_control") is not None:
            _cache_control(block["cache_control"], f"{place}.cache_control")
            marks += 1
        if strict_blocks:
            if kind == "document" and role == "assistant":
                raise _bad(f"{place}: document blocks are not permitted in assistant messages")
            if kind == "text" and role == "user" and block.get("citations"):
                raise _bad(f"{place}.text.citations: citations are not permitted in user messages")
    return marks


def _text_block(block: Body, path: str) -> None:
    text = block.get("text")
    if text is None:
        raise _bad(f"{path}.text.text: Field required")
    if not isinstance(text, str):
        raise _bad(f"{path}.text.text: Input should be a valid string")
    if not text:
        raise _bad("messages: text content blocks must be non-empty")
    if text.isspace():
        raise _bad("messages: text content blocks must contain non-whitespace text")
    if len(block) > 2:
        _members(block, f"{path}.text", frozenset({"type", "text", "cache_control", "citations"}))


_MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def _image_block(block: Body, path: str) -> None:
    _members(block, f"{path}.image", frozenset({"type", "source", "cache_control", "transformations"}), ("source",))
    place = f"{path}.image.source"
    source = _mapping(block["source"], place)
    kind = source.get("type")
    _one_of(f"{place}.type", "base64", "url", "file")(kind)
    if kind != "base64":
        _string(f"{place}.{kind}")(source.get("url" if kind == "url" else "file_id"))
        return
    place = f"{place}.base64"
    _members(source, place, frozenset({"type", "media_type", "data"}), ("media_type", "data"))
    _one_of(f"{place}.media_type", *_MEDIA_TYPES)(source["media_type"])
    _string(f"{place}.data")(source["data"])
    if len(source["data"]) > MAX_IMAGE_BASE64_BYTES:
        raise _bad(
            f"{place}: image exceeds 10 MB maximum: {len(source['data'])} bytes > {MAX_IMAGE_BASE64_BYTES} bytes"
        )


def _block_with(*required: str) -> Callable[[Body, str], None]:
    def check_block(block: Body, path: str) -> None:
        for name in required:
            if name not in block:
                raise _bad(f"{path}.{block['type']}.{name}: Field required")

    return check_block


NATIVE_BLOCKS: Mapping[str, Callable[[Body, str], None]] = {
    "text": _text_block,
    "image": _image_block,
    "document": _block_with("source"),
    "search_result": _block_with("source", "title", "content"),
    "tool_use": _block_with("id", "name", "input"),
    "tool_result": _block_with("tool_use_id"),
    "thinking": _block_with("thinking", "signature"),
    "redacted_thinking": _block_with("data"),
}
OPENAI_BLOCKS: Mapping[str, Callable[[Body, str], None]] = {**NATIVE_BLOCKS, "image_url": _block_with("image_url")}


def _count_marks(blocks: Any, path: str) -> int:
    if not isinstance(blocks, list):
        return 0
    marks = 0
    for index, block in enumerate(blocks):
        if block.get("cache_control") is not None:
            _cache_control(block["cache_control"], f"{path}.{index}.cache_control")
            marks += 1
    return marks


# --- what depends on the model ---------------------------------------------------------------------------------------


def _check_by_model(body: Body, model: ModelRules) -> None:
    most = model.max_output_tokens
    if most is not None and body["max_tokens"] > most:
        raise _bad(
            f"max_tokens: {body['max_tokens']} > {most}, which is the maximum allowed number of output tokens for "
            f"{body['model']}"
        )
    if not model.prefill and body["messages"][-1]["role"] == "assistant":
        raise _bad(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )
    if not model.sampling:
        for name in _SAMPLING:
            # 1 is the default of temperature and top_p; top_k has none.
            if name in body and (name == "top_k" or body[name] != 1):
                raise _bad(f"`{name}` is deprecated for this model.")
    if body.get("inference_geo") is not None and not model.geo:
        raise _bad("inference_geo: this model does not support inference_geo")
    thinks = _check_thinking(body, model)
    _check_tool_choice(body, model, thinks_by_budget=thinks)


def _check_thinking(body: Body, model: ModelRules) -> bool:
    thinking = body.get("thinking")
    if thinking is None:
        return False
    kind = thinking["type"]
    if kind not in model.thinking:
        if kind == "enabled":
            raise _bad(
                '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
                '"output_config.effort" to control thinking behavior.'
            )
        if kind == "adaptive":
            raise _bad("adaptive thinking is not supported on this model")
        raise _bad(f'"thinking.type.{kind}" is not supported for this model.')
    if kind == "disabled" and model.thinks_unasked and "opus" in body["model"]:
        effort = (body.get("output_config") or {}).get("effort")
        if effort in {"xhigh", "max"}:
            raise _bad(f'"thinking.type.disabled" is not supported for this model with effort "{effort}".')
    if kind in {"enabled", "adaptive"}:
        if body.get("temperature", 1) != 1:
            raise _bad("`temperature` may only be set to 1 when thinking is enabled.")
        if body.get("top_p", 1) < 0.95:
            raise _bad("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled.")
        if "top_k" in body:
            raise _bad("`top_k` must be unset when thinking is enabled.")
    if kind != "enabled":
        return False
    if thinking["budget_tokens"] >= body["max_tokens"]:
        raise _bad("`max_tokens` must be greater than `thinking.budget_tokens`.")
    return True


def _check_tool_choice(body: Body, model: ModelRules, *, thinks_by_budget: bool) -> None:
    choice = body.get("tool_choice")
    if choice is None or choice["type"] not in {"any", "tool"}:
        return
    if thinks_by_budget:
        raise _bad("Thinking may not be enabled when tool_choice forces tool use.")
    if not model.forced_tools:
        raise _bad(f'tool_choice: "{choice["type"]}" is not supported for this model.')
    raise _bad(f'tool_choice: the simulator calls no tools, so "{choice["type"]}" cannot be obeyed')


NATIVE_RULES = Rules(
    version_required=True,
    fields=NATIVE_FIELDS,
    required=("model", "max_tokens", "messages"),
    unknown_field="{}: Extra inputs are not permitted",
    roles=frozenset({"user", "assistant", "system"}),
    blocks=NATIVE_BLOCKS,
    by_model=True,
)
OPENAI_RULES = Rules(
    version_required=False,
    fields=OPENAI_FIELDS,
    required=("model", "messages"),
    unknown_field="Unrecognized request argument supplied: {}",
    roles=frozenset({"user", "assistant", "system", "developer", "tool"}),
    blocks=OPENAI_BLOCKS,
    by_model=False,
)

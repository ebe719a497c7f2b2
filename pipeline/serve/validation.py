"""What the real API refuses, and in which words: a request body is checked before anything is answered.

Rules and texts are those of messages-api §0, §1, §2 and §5. The first fault found is the one told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.serve.asked import choice_of
from pipeline.serve.blocks import SERVER_TURNS, BlockCheck
from pipeline.serve.fields import ApiError, Body, Check, bad, cache_control, mapping, members
from pipeline.serve.models import ModelRules, rules_of

__all__ = ["ApiError", "Body", "Rules", "check", "check_count"]

VERSIONS = frozenset({"2023-01-01", "2023-06-01", "2026-10-21"})
WITHOUT_SAMPLING = "2026-10-21"
"""The API version from which sampling parameters are unknown fields."""

MAX_CACHE_BREAKPOINTS = 4

NOT_COUNTED = frozenset({"max_tokens", "stream", "metadata", "stop_sequences", "service_tier"})
"""Members that a request for a count of tokens has not."""

_SAMPLING = ("temperature", "top_p", "top_k")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a dialect asks of a request.

    Attributes:
        fields: the members that a body may have, each with the check of its value.
        blocks: types of content blocks, each with its check.
        required: members that must be there.
        version_required: `anthropic-version` must be there and known.
        unknown_field: how an unknown member is refused, with ``{}`` for its name; None where it changes nothing.
        roles: who may speak.
        openai_turns: turns may have members that chat completions know, and no content.
        by_model: the limits of the named model apply.
        models_known: a model that is not served is refused; else any name means the one that is loaded.
    """

    fields: Mapping[str, Check]
    blocks: Mapping[str, BlockCheck]
    required: tuple[str, ...] = ("model", "max_tokens", "messages")
    version_required: bool = False
    unknown_field: str | None = None
    roles: frozenset[str] = frozenset({"user", "assistant", "system"})
    openai_turns: bool = False
    by_model: bool = False
    models_known: bool = True


def check(body: Any, version: str | None, rules: Rules, models: frozenset[str] = frozenset()) -> Body:
    """Give the body back as the server understands it, if it would answer it: without what changes nothing there.

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
        raise bad("Input should be a valid dictionary or object to extract fields from")
    understood = _check_fields(body, rules)
    for name in rules.required:
        if name not in body:
            raise bad(f"{name}: Field required")
    strict = rules.version_required and version == WITHOUT_SAMPLING
    if strict:
        for name in _SAMPLING:
            if name in body:
                raise bad(f"{name}: Extra inputs are not permitted")
    if understood.get("stream_options") is not None and not body.get("stream"):
        raise bad("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
    marks = _check_messages(understood["messages"], rules, strict_blocks=strict)
    tools, system = understood.get("tools"), understood.get("system")
    if tools or isinstance(system, list):
        marks = [*_marks(tools, "tools"), *_marks(system, "system"), *marks]
    if marks:
        _check_marks(understood, marks)
    if rules.models_known:
        _check_model(body["model"], models)
    if rules.by_model:
        _check_by_model(understood, rules_of(body["model"]))
    return understood


def check_count(body: Any, version: str | None, rules: Rules, models: frozenset[str] = frozenset()) -> Body:
    """Check the body of a request for a count of tokens, as `check` does one for an answer.

    Raises:
        ApiError: likewise.
    """
    if isinstance(body, dict) and rules.unknown_field is not None:
        for name in body:
            if name in NOT_COUNTED:
                raise bad(rules.unknown_field.format(name))
    most = rules_of(str(body.get("model"))).max_output_tokens if isinstance(body, dict) else None
    return check({**body, "max_tokens": most or 64_000} if isinstance(body, dict) else body, version, rules, models)


def _check_fields(body: Body, rules: Rules) -> Body:
    fields, known = rules.fields, True
    for name, value in body.items():
        check_value = fields.get(name)
        if check_value is not None:
            check_value(value)
        elif rules.unknown_field is None:
            known = False
        else:
            raise bad(rules.unknown_field.format(name))
    return body if known else {name: value for name, value in body.items() if name in fields}


def _check_version(version: str | None) -> None:
    if version is None:
        raise bad("anthropic-version: header is required")
    if version not in VERSIONS:
        raise bad(f'anthropic-version: "{version}" is not a valid version')


def _check_model(model: str, models: frozenset[str]) -> None:
    if (models and model not in models) or rules_of(model).retired:
        raise ApiError(404, f"model: {model}")


# --- marks of the prompt cache ---------------------------------------------------------------------------------------


def _marks(blocks: Any, path: str) -> list[tuple[str, str]]:
    """Give place and time of each mark among blocks."""
    found = []
    if isinstance(blocks, list):
        for index, block in enumerate(blocks):
            if block.get("cache_control") is not None:
                found.append(_mark(block["cache_control"], f"{path}.{index}.cache_control"))
    return found


def _mark(value: Any, path: str) -> tuple[str, str]:
    cache_control(value, path)
    return path, value.get("ttl", "5m")


def _check_marks(body: Body, marks: list[tuple[str, str]]) -> None:
    if len(marks) + (body.get("cache_control") is not None) > MAX_CACHE_BREAKPOINTS:
        raise bad(
            f"A maximum of {MAX_CACHE_BREAKPOINTS} blocks with cache_control may be provided. Found {len(marks)}."
        )
    for (_, earlier), (path, ttl) in pairwise(marks):
        if ttl == "1h" and earlier == "5m":
            raise bad(
                f"{path}.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. Note "
                "that blocks are processed in the following order: `tools`, `system`, `messages`."
            )


# --- messages --------------------------------------------------------------------------------------------------------


def _check_messages(messages: list[Any], rules: Rules, *, strict_blocks: bool) -> list[tuple[str, str]]:
    """Check every turn; give the marks in them."""
    marks: list[tuple[str, str]] = []
    kinds: set[str] = set()
    last = len(messages) - 1
    for index, message in enumerate(messages):
        path = f"messages.{index}"
        role, content = _check_head(mapping(message, path), path, rules), message.get("content")
        if isinstance(content, str):
            _check_text(content, path, final_assistant=role == "assistant" and index == last)
        elif isinstance(content, list):
            kinds |= _check_blocks(content, path, role, rules, strict_blocks=strict_blocks)
            marks += _marks(content, f"{path}.content")
            if not content and not (role == "assistant" and index == last):
                raise _empty(path)
        elif content is not None or not rules.openai_turns:
            raise bad(f"{path}.content: Input should be a valid string or list")
    if rules.by_model and messages[last]["role"] == "assistant":
        _check_prefill(messages[last].get("content"))
    if kinds & {"tool_use", "tool_result"}:
        _check_results(messages)
    if rules.openai_turns and any(message["role"] == "tool" for message in messages):
        _check_tool_turns(messages)
    return marks


def _check_head(message: Body, path: str, rules: Rules) -> str:
    """Check what a turn has beside its content; give its role."""
    role = message.get("role")
    if role is None:
        raise bad(f"{path}.role: Field required")
    if not isinstance(role, str) or role not in rules.roles:
        allowed = " or ".join(f'"{name}"' for name in sorted(rules.roles, reverse=True))
        raise bad(f'messages: Unexpected role "{role}". Allowed roles are {allowed}')
    if "content" not in message and not ("tool_calls" in message and rules.openai_turns):
        raise bad(f"{path}.content: Field required")
    if len(message) > 2 and rules.unknown_field is not None and not rules.openai_turns:
        members(message, path, frozenset({"role", "content"}))
    return role


def _empty(path: str) -> ApiError:
    return bad(f"{path}: all messages must have non-empty content except for the optional final assistant message")


def _check_text(text: str, path: str, *, final_assistant: bool) -> None:
    if not text:
        if not final_assistant:
            raise _empty(path)
    elif text.isspace() and not final_assistant:
        raise bad("messages: text content blocks must contain non-whitespace text")


def _check_prefill(content: Any) -> None:
    text = content[-1].get("text", "") if isinstance(content, list) and content else content
    if isinstance(text, str) and text and text[-1].isspace():
        raise bad("messages: final assistant content cannot end with trailing whitespace")


def _check_blocks(blocks: list[Any], path: str, role: str, rules: Rules, *, strict_blocks: bool) -> set[str]:
    """Check the blocks of a turn; give their types."""
    kinds = set()
    for index, block in enumerate(blocks):
        place = f"{path}.content.{index}"
        kind = mapping(block, place).get("type")
        if kind is None:
            raise bad(f"{place}.type: Field required")
        check_block = rules.blocks.get(kind) if isinstance(kind, str) else None
        if check_block is None:
            expected = ", ".join(f"'{name}'" for name in sorted(rules.blocks))
            raise bad(
                f"{place}: Input tag '{kind}' found using 'type' does not match any of the expected tags: {expected}"
            )
        check_block(block, place)
        kinds.add(kind)
        if strict_blocks:
            if kind == "document" and role == "assistant":
                raise bad(f"{place}: document blocks are not permitted in assistant messages")
            if kind == "text" and role == "user" and block.get("citations"):
                raise bad(f"{place}.text.citations: citations are not permitted in user messages")
    return kinds


def _check_results(messages: list[Any]) -> None:
    """Ask that each call of a tool is followed by its result, and each result follows its call."""
    turns = [(index, message["role"], _ids(message.get("content"))) for index, message in enumerate(messages)]
    called: list[str] = []
    called_at = 0
    for index, role, (calls, results) in turns:
        if role == "assistant":
            _check_answered(called_at, called, ())
            if len(set(calls)) < len(calls):
                raise bad(f"messages.{index}.content: `tool_use` ids must be unique")
            called, called_at = calls, index
            continue
        for place, found in results:
            if found not in called:
                raise bad(
                    f"messages.{index}.content.{place}: unexpected `tool_use_id` found in `tool_result` blocks: {found}"
                    ". Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
                )
        _check_answered(called_at, called, [found for _, found in results])
        called = []
    _check_answered(called_at, called, ())


def _check_answered(index: int, called: Iterable[str], answered: Iterable[str]) -> None:
    missing = [found for found in called if found not in answered]
    if missing:
        raise bad(
            f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the next "
            "message."
        )


def _ids(content: Any) -> tuple[list[str], list[tuple[int, str]]]:
    """Give the ids of a turn's calls, and place and id of its results."""
    blocks = content if isinstance(content, list) else []
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    return calls, [
        (place, block["tool_use_id"]) for place, block in enumerate(blocks) if block["type"] == "tool_result"
    ]


def _check_tool_turns(messages: list[Any]) -> None:
    """Ask that each turn of a tool, as chat completions have it, answers a call."""
    called: set[Any] = set()
    for message in messages:
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            called = {call["id"] for call in calls if isinstance(call, dict) and isinstance(call.get("id"), str)}
        id_ = message.get("tool_call_id")
        if message["role"] == "tool" and (not isinstance(id_, str) or id_ not in called):
            raise bad("messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.")


# --- what depends on the model ---------------------------------------------------------------------------------------


def _check_by_model(body: Body, model: ModelRules) -> None:
    most = model.max_output_tokens
    if most is not None and body.get("max_tokens", 0) > most:
        raise bad(
            f"max_tokens: {body['max_tokens']} > {most}, which is the maximum allowed number of output tokens for "
            f"{body['model']}"
        )
    last = body["messages"][-1]
    if not model.prefill and last["role"] == "assistant" and not _paused(last.get("content")):
        raise bad(
            "This model does not support assistant message prefill. The conversation must end with a user message."
        )
    if not model.sampling:
        for name in _SAMPLING:
            # 1 is the default of temperature and top_p; top_k has none.
            if name in body and (name == "top_k" or body[name] != 1):
                raise bad(f"`{name}` is deprecated for this model.")
    if body.get("inference_geo") is not None and not model.geo:
        raise bad("inference_geo: this model does not support inference_geo")
    thinks = _check_thinking(body, model)
    _check_tool_choice(body, model, thinks_by_budget=thinks)


def _paused(content: Any) -> bool:
    """Whether a turn of the assistant was broken off by `pause_turn`, so that it is sent back to be ended."""
    return isinstance(content, list) and bool(content) and content[-1].get("type") in SERVER_TURNS


def _check_thinking(body: Body, model: ModelRules) -> bool:
    thinking = body.get("thinking")
    if thinking is None:
        return False
    kind = thinking["type"]
    if kind not in model.thinking:
        if kind == "enabled":
            raise bad(
                '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
                '"output_config.effort" to control thinking behavior.'
            )
        if kind == "adaptive":
            raise bad("adaptive thinking is not supported on this model")
        raise bad(f'"thinking.type.{kind}" is not supported for this model.')
    if kind == "disabled" and model.thinks_unasked and "opus" in body["model"]:
        effort = (body.get("output_config") or {}).get("effort")
        if effort in {"xhigh", "max"}:
            raise bad(f'"thinking.type.disabled" is not supported for this model with effort "{effort}".')
    if kind in {"enabled", "adaptive"}:
        if body.get("temperature", 1) != 1:
            raise bad("`temperature` may only be set to 1 when thinking is enabled.")
        if body.get("top_p", 1) < 0.95:
            raise bad("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled.")
        if "top_k" in body:
            raise bad("`top_k` must be unset when thinking is enabled.")
    if kind != "enabled":
        return False
    if thinking["budget_tokens"] >= body.get("max_tokens", math.inf):
        raise bad("`max_tokens` must be greater than `thinking.budget_tokens`.")
    return True


def _check_tool_choice(body: Body, model: ModelRules, *, thinks_by_budget: bool) -> None:
    kind, name = choice_of(body.get("tool_choice"))
    tools = body.get("tools") or ()
    if body.get("tool_choice") is not None and kind != "none" and not tools:
        raise bad("tool_choice: tool_choice may only be specified while providing tools.")
    if kind not in {"any", "tool"}:
        return
    if thinks_by_budget:
        raise bad("Thinking may not be enabled when tool_choice forces tool use.")
    if not model.forced_tools:
        raise bad(f'tool_choice: "{kind}" is not supported for this model.')
    if kind == "tool" and name not in {tool.get("function", tool).get("name") for tool in tools}:
        raise bad(f"Tool '{name}' not found in provided tools")

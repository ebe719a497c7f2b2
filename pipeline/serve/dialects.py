"""How an answer, an error and a limit look on the wire: native, or OpenAI-like (messages-api §2 to §5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pipeline.serve.answers import Answer
from pipeline.serve.buckets import Standing
from pipeline.serve.events import Events, native_error_event, native_events, openai_error_event, openai_events
from pipeline.serve.validation import NATIVE_RULES, OPENAI_RULES, Rules

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}

_CREATED = 1_627_684_940
"""An answer is a function of the request alone, so its time of creation stands still."""


def error_type(status: int) -> str:
    """Name the error of a status, as the envelope does."""
    return ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to speak /messages.

    Attributes:
        name: as `--dialect` says it.
        rules: what a request must be.
        write_answer: an answer as a JSON object.
        write_stream: an answer as events; the second argument is whether chunks tell the usage.
        write_error: status, message and request id as a JSON object.
        write_error_event: such an object as an event in mid-stream.
        limit_headers: the limits in force as response headers, at a wall-clock time.
    """

    name: str
    rules: Rules
    write_answer: Callable[[Answer], dict[str, Any]]
    write_stream: Callable[[Answer, bool], Events]
    write_error: Callable[[int, str, str], dict[str, Any]]
    write_error_event: Callable[[Mapping[str, Any]], bytes]
    limit_headers: Callable[[Iterable[Standing], datetime], dict[str, str]]


def _native_answer(answer: Answer) -> dict[str, Any]:
    content: list[dict[str, str]] = []
    if answer.thought:
        content.append({"type": "thinking", "thinking": "", "signature": f"sig_{answer.name}"})
    if answer.text is not None:
        content.append({"type": "text", "text": answer.text})
    usage: dict[str, Any] = {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": answer.output_tokens,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }
    if answer.thinking_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": answer.thinking_tokens}
    return {
        "id": f"msg_{answer.name}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": content,
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
        "stop_details": None,
        "usage": usage,
    }


def _native_stream(answer: Answer, _include_usage: bool) -> Events:
    return native_events(_native_answer(answer), answer.pieces)


def _native_error(status: int, message: str, request_id: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": error_type(status), "message": message}, "request_id": request_id}


def _native_limits(standings: Iterable[Standing], now: datetime) -> dict[str, str]:
    headers = {}
    for standing in standings:
        name = f"anthropic-ratelimit-{standing.kind}"
        left = standing.remaining
        headers[f"{name}-limit"] = f"{standing.per_minute:.0f}"
        # Token kinds are told to the nearest thousand.
        headers[f"{name}-remaining"] = str(int(left) if standing.kind == "requests" else round(left / 1000) * 1000)
        reset = now + timedelta(seconds=standing.full_in_secs)
        headers[f"{name}-reset"] = reset.strftime("%Y-%m-%dT%H:%M:%SZ")
    return headers


_FINISH_REASONS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}


def _openai_answer(answer: Answer) -> dict[str, Any]:
    usage: dict[str, Any] = {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    if answer.thinking_tokens:
        usage["completion_tokens_details"] = {"reasoning_tokens": answer.thinking_tokens}
    return {
        "id": f"chatcmpl-{answer.name}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": answer.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "finish_reason": _FINISH_REASONS[answer.stop_reason],
            }
        ],
        "usage": usage,
    }


def _openai_stream(answer: Answer, include_usage: bool) -> Events:
    return openai_events(_openai_answer(answer), answer.pieces, include_usage=include_usage)


def _openai_error(status: int, message: str, _request_id: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": error_type(status), "param": None, "code": None}}


def _openai_limits(standings: Iterable[Standing], _now: datetime) -> dict[str, str]:
    headers = {}
    for standing in standings:
        if standing.kind == "output-tokens":
            continue
        kind = "requests" if standing.kind == "requests" else "tokens"
        headers[f"x-ratelimit-limit-{kind}"] = f"{standing.per_minute:.0f}"
        headers[f"x-ratelimit-remaining-{kind}"] = str(int(standing.remaining))
        headers[f"x-ratelimit-reset-{kind}"] = f"{standing.full_in_secs:.2f}s"
    return headers


NATIVE = Dialect(
    "native", NATIVE_RULES, _native_answer, _native_stream, _native_error, native_error_event, _native_limits
)
OPENAI = Dialect(
    "openai", OPENAI_RULES, _openai_answer, _openai_stream, _openai_error, openai_error_event, _openai_limits
)
DIALECTS = {dialect.name: dialect for dialect in (NATIVE, OPENAI)}

"""Answers and errors in the shape of chat completions (messages-api §3.2, §4.2)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import orjson

from pipeline.serve.answers import Answer
from pipeline.serve.buckets import Standing
from pipeline.serve.events import Events, openai_events
from pipeline.serve.native import error_type

_CREATED = 1_627_684_940
"""An answer is a function of the request alone, so its time of creation stands still."""

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "pause_turn": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def completion(answer: Answer) -> dict[str, Any]:
    """Write an answer down."""
    read = answer.cached.read
    prompt_tokens = answer.input_tokens + answer.cached.created + read
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": prompt_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": read},
    }
    if answer.thinking_tokens:
        usage["completion_tokens_details"] = {"reasoning_tokens": answer.thinking_tokens}
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.stop_reason == "refusal":
        message["refusal"] = "This request was refused (simulated)."
    if answer.call is not None and not answer.call.server:
        function = {"name": answer.call.name, "arguments": orjson.dumps(answer.call.input).decode()}
        message["tool_calls"] = [{"id": f"call_{answer.name[:24]}", "type": "function", "function": function}]
    return {
        "id": f"chatcmpl-{answer.name}",
        "object": "chat.completion",
        "created": _CREATED,
        "model": answer.model,
        "choices": [{"index": 0, "message": message, "finish_reason": _FINISH_REASONS[answer.stop_reason]}],
        "usage": usage,
    }


def chunks(answer: Answer, include_usage: bool) -> Events:
    """Write an answer down as events."""
    return openai_events(completion(answer), answer.name, include_usage=include_usage)


def openai_error(status: int, message: str, _request_id: str, error_code: str | None = None) -> dict[str, Any]:
    """Write an error down."""
    return {"error": {"message": message, "type": error_type(status), "param": None, "code": error_code}}


def limit_headers(standings: Iterable[Standing], _now: datetime) -> dict[str, str]:
    """Tell the limits in force: those of requests and of input tokens."""
    headers = {}
    for standing in standings:
        if standing.kind == "output-tokens":
            continue
        kind = "requests" if standing.kind == "requests" else "tokens"
        headers[f"x-ratelimit-limit-{kind}"] = f"{standing.per_minute:.0f}"
        headers[f"x-ratelimit-remaining-{kind}"] = str(int(standing.remaining))
        headers[f"x-ratelimit-reset-{kind}"] = f"{standing.full_in_secs:.2f}s"
    return headers

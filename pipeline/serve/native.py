"""Answers and errors in the shape of the Messages API, and what each server that speaks it does otherwise.

Source: messages-api §3.1, §3.3, §4.1, §5, §11.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pipeline.serve.answers import Answer
from pipeline.serve.buckets import Standing
from pipeline.serve.events import Events, StreamShape, native_events

ERROR_TYPES: Mapping[int, str] = {
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


def error_type(status: int) -> str:
    """Name the error of a status, as the envelope does."""
    return ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def full_usage(answer: Answer) -> dict[str, Any]:
    """Usage as the API itself tells it."""
    cached = answer.cached
    written = cached.written or {}
    usage: dict[str, Any] = {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": cached.created,
        "cache_read_input_tokens": cached.read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written.get("5m", 0),
            "ephemeral_1h_input_tokens": written.get("1h", 0),
        },
        "output_tokens": answer.output_tokens,
        "service_tier": "standard",
        "inference_geo": "not_available",
    }
    if answer.thinking_tokens:
        usage["output_tokens_details"] = {"thinking_tokens": answer.thinking_tokens}
    return usage


def usage_with_cache_read(answer: Answer) -> dict[str, Any]:
    """Usage as llama.cpp tells it: input without what was cached, and that."""
    return {
        "input_tokens": answer.input_tokens,
        "cache_read_input_tokens": answer.cached.read,
        "output_tokens": answer.output_tokens,
    }


def bare_usage(answer: Answer) -> dict[str, Any]:
    """Usage of input and output alone."""
    return {"input_tokens": answer.input_tokens, "output_tokens": answer.output_tokens}


@dataclass(frozen=True, slots=True)
class NativeShape:
    """What a server that speaks the Messages API does with an answer.

    Attributes:
        id_prefix: before the hex digits of an id.
        usage: how it tells what was used.
        stop_reasons: those that it calls otherwise.
        says_stop_sequence: it names the word that ended an answer.
        signature: that of an answer's thinking, by its name; None where there is none.
        meta: members that stand beside the message's own.
        stream: how it streams.
    """

    id_prefix: str = "msg_"
    usage: Callable[[Answer], dict[str, Any]] = full_usage
    stop_reasons: Mapping[str, str] = field(default_factory=dict)
    says_stop_sequence: bool = True
    signature: Callable[[str], str | None] = "sig_{}".format
    meta: Callable[[Answer], dict[str, Any]] | None = None
    stream: StreamShape = field(default_factory=StreamShape)

    def message(self, answer: Answer) -> dict[str, Any]:
        """Write an answer down."""
        reason = answer.stop_reason
        message = {
            "id": f"{self.id_prefix}{answer.name}",
            "type": "message",
            "role": "assistant",
            "model": answer.model,
            "content": self._content(answer),
            "stop_reason": self.stop_reasons.get(reason, reason),
            "stop_sequence": answer.stop_sequence if self.says_stop_sequence else None,
            "stop_details": None,
            "usage": self.usage(answer),
        }
        if reason == "refusal":
            message["stop_details"] = {
                "type": "refusal",
                "category": "general_harms",
                "explanation": "This request was refused (simulated).",
            }
        if not self.stream.nulls:
            message = {name: value for name, value in message.items() if value is not None}
        if self.meta is not None:
            message["meta"] = self.meta(answer)
        return message

    def _content(self, answer: Answer) -> list[dict[str, Any]]:
        content: list[dict[str, Any]] = []
        if answer.thought is not None:
            block = {"type": "thinking", "thinking": answer.thought}
            signature = self.signature(answer.name)
            content.append(block if signature is None else {**block, "signature": signature})
        if answer.text is not None:
            content.append({"type": "text", "text": answer.text})
        if answer.call is not None:
            kind, prefix = ("server_tool_use", "srvtoolu_") if answer.call.server else ("tool_use", "toolu_")
            content.append(
                {"type": kind, "id": prefix + answer.name[:24], "name": answer.call.name, "input": answer.call.input}
            )
        return content

    def events(self, answer: Answer, _include_usage: bool) -> Events:
        """Write an answer down as events."""
        return native_events(self.message(answer), answer.name, self.stream)


# --- errors ----------------------------------------------------------------------------------------------------------


def envelope(status: int, message: str, request_id: str, error_code: str | None = None) -> dict[str, Any]:
    """Write an error as the API does, and Ollama."""
    error: dict[str, Any] = {"type": error_type(status), "message": message}
    if error_code is not None:
        error["details"] = {"error_code": error_code}
    return {"type": "error", "error": error, "request_id": request_id}


_VLLM_TYPES = {400: "BadRequestError", 401: "AuthenticationError", 404: "NotFoundError", 429: "RateLimitError"}


def vllm_error(status: int, message: str, _request_id: str, _error_code: str | None = None) -> dict[str, Any]:
    """Write an error in the envelope, of a type that OpenAI's servers use."""
    kind = _VLLM_TYPES.get(status, "internal_error" if status >= 500 else "BadRequestError")
    return {"type": "error", "error": {"type": kind, "message": message}}


_LLAMACPP_TYPES = {503: "unavailable_error", 501: "not_supported_error", 500: "server_error"}


def llamacpp_error(status: int, message: str, _request_id: str, _error_code: str | None = None) -> dict[str, Any]:
    """Write an error without the outer type."""
    kind = _LLAMACPP_TYPES.get(status) or ("server_error" if status >= 500 else error_type(status))
    return {"error": {"code": status, "message": message, "type": kind}}


# --- limits ----------------------------------------------------------------------------------------------------------


def limit_headers(standings: Iterable[Standing], now: datetime) -> dict[str, str]:
    """Tell the limits in force at a wall-clock time, as the API does."""
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


def no_limit_headers(_standings: Iterable[Standing], _now: datetime) -> dict[str, str]:
    """Tell nothing, as servers of one's own do and aimlapi does."""
    return {}

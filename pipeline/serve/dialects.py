"""The dialects of /messages that the simulator speaks: one object each (messages-api §11)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from pipeline.serve import events, native, openai_like, reseller
from pipeline.serve.answers import Answer
from pipeline.serve.asked import FULL, Reading
from pipeline.serve.blocks import LOCAL_BLOCKS, NATIVE_BLOCKS, OLLAMA_BLOCKS, OPENAI_BLOCKS
from pipeline.serve.buckets import Standing
from pipeline.serve.events import Events, StreamShape
from pipeline.serve.fields import (
    AIMLAPI_FIELDS,
    LLAMACPP_FIELDS,
    NATIVE_FIELDS,
    OLLAMA_FIELDS,
    OPENAI_FIELDS,
    VLLM_FIELDS,
)
from pipeline.serve.native import NativeShape
from pipeline.serve.refusals import REFUSALS, Refusal
from pipeline.serve.validation import Rules

BOTH_PATHS = ("/v1/messages", "/messages")
COUNT = ("/v1/messages/count_tokens", "/messages/count_tokens")
CHAT_PATHS = ("/v1/chat/completions", "/chat/completions")


class WriteError(Protocol):
    """Writes an error down."""

    def __call__(self, status: int, message: str, request_id: str, error_code: str | None = None, /) -> dict[str, Any]:
        """Give it as a JSON object."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way to speak /messages.

    Attributes:
        name: as `--dialect` says it.
        rules: what a request must be.
        write_answer: an answer as a JSON object.
        write_stream: an answer as events; the second argument is whether chunks tell the usage.
        write_error: status, message, request id and error code as a JSON object.
        write_error_event: such an object as an event in mid-stream.
        limit_headers: the limits in force as response headers, at a wall-clock time.
        reading: what it makes of a request.
        paths: where messages are asked for.
        count_paths: where their tokens are counted; empty where they are not.
        key_headers: where the key may stand, the winner first.
        answer_headers: response headers of a plain answer.
        refusals: errors that a rehearsal asks for by name.
        request_id_header: the header that brings the request's id.
        echoed_header: a header of the request that comes back if it is an id.
        caches: it has a prompt cache.
        lists_without_key: the list of models is for everybody.
    """

    name: str
    rules: Rules
    write_answer: Callable[[Answer], dict[str, Any]]
    write_stream: Callable[[Answer, bool], Events]
    write_error: WriteError
    write_error_event: Callable[[Mapping[str, Any]], bytes]
    limit_headers: Callable[[Iterable[Standing], datetime], dict[str, str]]
    reading: Reading = FULL
    paths: tuple[str, ...] = BOTH_PATHS
    count_paths: tuple[str, ...] = ()
    key_headers: tuple[str, ...] = ("x-api-key", "authorization")
    answer_headers: Callable[[Answer], dict[str, str]] | None = None
    refusals: Mapping[str, Refusal] = field(default_factory=lambda: REFUSALS)
    request_id_header: str = "request-id"
    echoed_header: str | None = None
    caches: bool = False
    lists_without_key: bool = False


_AS_DOCUMENTED = NativeShape()
NATIVE = Dialect(
    name="native",
    rules=Rules(
        fields=NATIVE_FIELDS,
        blocks=NATIVE_BLOCKS,
        version_required=True,
        unknown_field="{}: Extra inputs are not permitted",
        by_model=True,
    ),
    write_answer=_AS_DOCUMENTED.message,
    write_stream=_AS_DOCUMENTED.events,
    write_error=native.envelope,
    write_error_event=events.native_error_event,
    limit_headers=native.limit_headers,
    count_paths=COUNT,
    caches=True,
)

_WITH_COST = NativeShape(meta=reseller.meta)
AIMLAPI = Dialect(
    name="aimlapi",
    rules=Rules(
        fields=AIMLAPI_FIELDS,
        blocks=OPENAI_BLOCKS,
        required=("model", "messages"),
        roles=frozenset({"user", "assistant", "system", "developer", "tool"}),
        openai_turns=True,
        by_model=True,
    ),
    write_answer=_WITH_COST.message,
    write_stream=_WITH_COST.events,
    write_error=reseller.error,
    write_error_event=events.plain_error_event,
    limit_headers=native.no_limit_headers,
    reading=Reading(default_max_tokens=64_000),
    key_headers=("authorization",),
    answer_headers=reseller.cost_headers,
    refusals=reseller.REFUSALS_HERE,
    request_id_header="x-inference-id",
    echoed_header="x-client-request-id",
    lists_without_key=True,
)

OPENAI = Dialect(
    name="openai",
    rules=Rules(
        fields=OPENAI_FIELDS,
        blocks=OPENAI_BLOCKS,
        required=("model", "messages"),
        unknown_field="Unrecognized request argument supplied: {}",
        roles=frozenset({"user", "assistant", "system", "developer", "tool"}),
        openai_turns=True,
    ),
    write_answer=openai_like.completion,
    write_stream=openai_like.chunks,
    write_error=openai_like.openai_error,
    write_error_event=events.openai_error_event,
    limit_headers=openai_like.limit_headers,
    paths=(*BOTH_PATHS, *CHAT_PATHS),
)

_VLLM = NativeShape(
    id_prefix="chatcmpl-",
    usage=native.bare_usage,
    stop_reasons={"stop_sequence": "end_turn", "pause_turn": "max_tokens", "refusal": "end_turn"},
    says_stop_sequence=False,
    stream=StreamShape(ping=False, done=True, nulls=False, usage_at_end=("input_tokens", "output_tokens")),
)
VLLM = Dialect(
    name="vllm",
    rules=Rules(fields=VLLM_FIELDS, blocks=LOCAL_BLOCKS),
    write_answer=_VLLM.message,
    write_stream=_VLLM.events,
    write_error=native.vllm_error,
    write_error_event=events.native_error_event,
    limit_headers=native.no_limit_headers,
    reading=Reading(thinks_unasked=False),
    paths=BOTH_PATHS[:1],
    count_paths=COUNT[:1],
    key_headers=("authorization",),
)

_LLAMACPP = NativeShape(
    id_prefix="chatcmpl-",
    usage=native.usage_with_cache_read,
    # A word that ended the answer is named, and still it is called the end of the turn.
    stop_reasons={"stop_sequence": "end_turn", "pause_turn": "end_turn", "refusal": "end_turn"},
    signature=lambda _name: "",
    stream=StreamShape(ping=False, input_at_start=False, signature_at_start=False, usage_at_end=("output_tokens",)),
)
LLAMACPP = Dialect(
    name="llamacpp",
    rules=Rules(fields=LLAMACPP_FIELDS, blocks=LOCAL_BLOCKS, required=("messages",), models_known=False),
    write_answer=_LLAMACPP.message,
    write_stream=_LLAMACPP.events,
    write_error=native.llamacpp_error,
    write_error_event=events.bare_error_event,
    limit_headers=native.no_limit_headers,
    reading=Reading(
        default_max_tokens=4096,
        choices={"tool": "any", "none": "auto"},
        thinking=frozenset({"enabled"}),
        thinks_unasked=False,
    ),
    paths=BOTH_PATHS[:1],
    count_paths=COUNT[:1],
    key_headers=("authorization", "x-api-key"),
)

_OLLAMA = NativeShape(
    usage=native.bare_usage,
    stop_reasons={"pause_turn": "end_turn", "refusal": "end_turn"},
    signature=lambda _name: None,
    stream=StreamShape(whole_calls=True, nulls=False, usage_at_end=("input_tokens", "output_tokens")),
)
OLLAMA = Dialect(
    name="ollama",
    rules=Rules(fields=OLLAMA_FIELDS, blocks=OLLAMA_BLOCKS),
    write_answer=_OLLAMA.message,
    write_stream=_OLLAMA.events,
    write_error=native.envelope,
    write_error_event=events.native_error_event,
    limit_headers=native.no_limit_headers,
    reading=Reading(
        choices={"any": "auto", "tool": "auto", "none": "auto"},
        thinking=frozenset({"enabled"}),
        thinks_unasked=False,
    ),
    paths=BOTH_PATHS[:1],
    count_paths=COUNT[:1],
    key_headers=("authorization",),
)

DIALECTS = {dialect.name: dialect for dialect in (NATIVE, AIMLAPI, OPENAI, VLLM, LLAMACPP, OLLAMA)}

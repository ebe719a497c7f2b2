"""The values that travel with a row: Row, Request, Response, Usage, Attempt, Outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

Key = bytes
"""The content hash of what is asked: 16 bytes. `key_text` writes it as people and columns see it."""

KEY_PREFIX = "k1-"

Status = Literal["ok", "truncated", "refused", "invalid", "failed"]
STATUSES: tuple[Status, ...] = ("ok", "truncated", "refused", "invalid", "failed")

NANOS_PER_USD = 1_000_000_000


def key_text(key: Key) -> str:
    """Write a key as `request_key` shows it: ``k1-`` and 32 hex digits."""
    return KEY_PREFIX + key.hex()


@dataclass(frozen=True, slots=True)
class Row:
    """What one request is rendered from: a row of the source, or a group or chunk of rows.

    Attributes:
        id: names the row in messages: its `source.id` values, or ``file:row``, or the group's keys and chunk.
        rows: the source rows as column-to-value mappings, in order; exactly one unless rows are grouped or chunked.
    """

    id: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Request:
    """One call to make.

    Attributes:
        key: what the answer is kept under.
        row_id: names the row in messages.
        prompt: the members of the JSON body that vary by row, without braces: ``"system":…,"messages":[…]``
            (`system` only where the job has one), as UTF-8.
    """

    key: Key
    row_id: str
    prompt: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, normalised: `input_tokens` never includes cached ones, whatever the dialect.

    Wire names: messages-api §3.3. Without a split by lifetime, cache writes count as 5-minute ones.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    cache_read_tokens: int = 0

    @property
    def cache_write_tokens(self) -> int:
        """Tokens written to the cache, of either lifetime."""
        return self.cache_write_5m_tokens + self.cache_write_1h_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_write_5m_tokens + other.cache_write_5m_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """How a call was served, as far as it is charged for. The factors stack.

    Attributes:
        batch: by the batch endpoint, at half the price.
        us: kept in the United States (`inference_geo: us`), at 1.1 times the price from version 4.6 on.
        fast: in fast mode, at twice the price.
        web_searches: searches that the server made, each at a price of its own that no factor changes.
    """

    batch: bool = False
    us: bool = False
    fast: bool = False
    web_searches: int = 0

    @classmethod
    def of(cls, usage: object) -> Terms:
        """Read the usage object of an answer (messages-api §3.3); what is missing or no known word is usual."""
        if not isinstance(usage, dict):
            return USUAL
        tools = usage.get("server_tool_use")
        searches = tools.get("web_search_requests") if isinstance(tools, dict) else None
        batch = _is(usage, "service_tier", "batch")
        us = _is(usage, "inference_geo", "us")
        fast = _is(usage, "speed", "fast")
        searches = searches if type(searches) is int and searches > 0 else 0
        return cls(batch, us, fast, searches) if batch or us or fast or searches else USUAL

    @classmethod
    def asked(cls, *, speed: str | None, inference_geo: str | None) -> Terms:
        """The terms that a request with these fields asks for; those that it is served on may be cheaper."""
        return cls.of({"speed": speed, "inference_geo": inference_geo})

    @property
    def words(self) -> str:
        """What is unusual, for the price's identity: ``batch us``; empty where nothing is."""
        return " ".join(name for name in ("batch", "us", "fast") if getattr(self, name))


USUAL = Terms()
"""Tokens at the list price, nothing else."""


def _is(usage: Mapping[Any, Any], name: str, word: str) -> bool:
    value = usage.get(name)
    return isinstance(value, str) and value.lower() == word


RateKind = Literal["requests", "input_tokens", "output_tokens", "tokens"]
RATE_KINDS: tuple[RateKind, ...] = ("requests", "input_tokens", "output_tokens", "tokens")


@dataclass(frozen=True, slots=True)
class RateLimit:
    """One rate limit as the server tells it; None for what it leaves out.

    Attributes:
        limit: how much a minute allows.
        remaining: how much is left; the API rounds tokens to thousands.
        reset_secs: seconds until all of it is back.
    """

    limit: float | None = None
    remaining: float | None = None
    reset_secs: float | None = None


@dataclass(frozen=True, slots=True)
class RateHeaders:
    """Every rate limit that an answer's headers tell. `tokens` is input and output together."""

    limits: Mapping[RateKind, RateLimit]


@dataclass(frozen=True, slots=True)
class Response:
    """What the server answered to one call.

    Attributes:
        raw: the body as received, JSON in UTF-8.
        text: the join of all text blocks; empty where there are none.
        stop_reason: in native words (`end_turn`, `max_tokens`, …), or None where the server gave none.
        model: the model that answered, where the server says.
        usage: None where the server gave no usable count.
        request_id: the server's name of the call.
        reported_nanos: what the server says the call cost, in nano-dollars.
        terms: how the call was served, as far as that is charged for.
        rate: what the server said of its rate limits beside, where that was read.
    """

    raw: bytes
    text: str
    stop_reason: str | None
    model: str | None
    usage: Usage | None
    request_id: str | None = None
    reported_nanos: int | None = None
    terms: Terms = USUAL
    rate: RateHeaders | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call and how it ended: with a response, or with an error.

    Attributes:
        started_at: when it was sent, UTC.
        latency_ms: from sending to the end of the body, or to the error.
        maybe_billed: it ended without an answer after it was sent, so it may have been billed.
    """

    started_at: datetime
    latency_ms: int
    response: Response | None = None
    error_type: str | None = None
    error_message: str | None = None
    http_status: int | None = None
    request_id: str | None = None
    maybe_billed: bool = False


@dataclass(frozen=True, slots=True)
class Price:
    """What a call cost and who says so.

    Attributes:
        nanos: nano-dollars; None where no price is known.
        priced_by: `server`, `override` or `table`; None where unknown.
        source: identity of the price used, such as ``genai-prices 0.2.3 claude-sonnet-4-5``.
    """

    nanos: int | None
    priced_by: Literal["server", "override", "table"] | None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one turn of a row ended: its attempts in order, of which the last one decides.

    Most rows have one turn. A turn that is followed by another (a paused answer goes on, an invalid one is repaired),
    and a row that was given up between two attempts, have the status None: the attempts are kept, the key stays open.

    Attributes:
        claim: id of the claim that this outcome settles.
        key: the row's request key.
        status: the verdict; None where there is none yet.
        attempts: each with the price of its usage; empty where an earlier attempt turns out to decide.
        asked: key of the turn, where it is not the row's first.
        continues: id of the attempt whose paused answer this turn goes on from.
        decided: id of the earlier attempt that decides, where there are no new ones.
        rules: hash of the reading rules that gave the verdict; None where the stop reason alone decides.
        worst_nanos: nano-dollars that a call of it may have cost, if it ended without an answer.
    """

    claim: int
    key: Key
    status: Status | None
    attempts: tuple[tuple[Attempt, Price], ...]
    error_type: str | None = None
    error_message: str | None = None
    asked: Key | None = None
    continues: int | None = None
    decided: int | None = None
    rules: bytes | None = None
    worst_nanos: int = 0

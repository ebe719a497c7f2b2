"""Errors that a rehearsal can ask for by name: status, words, details and headers (messages-api §2, §5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Literal

RATE_LIMIT = "This request would exceed your organization's rate limit (simulated)."
CREDIT = (
    "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase "
    "credits."
)
SPEND_LIMIT = "You have reached your specified API usage limits. You will regain access on 2027-01-01 at 00:00 UTC."

MESSAGES: Mapping[str, str] = {
    "401": "invalid x-api-key",
    "402": CREDIT,
    "403": "Your API key does not have permission to use the specified resource.",
    "408": "Request timeout",
    "409": "Conflict",
    "429": RATE_LIMIT,
    "500": "Internal server error",
    "502": "Bad gateway",
    "503": "Service unavailable",
    "504": "Request timed out",
    "529": "Overloaded",
}
"""What a status says where a rehearsal asks for it by number."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error with what is special about it.

    Attributes:
        status: HTTP status.
        says: what the client sees, for `--help`.
        message: `error.message`; None for that of the status.
        error_code: of `error.details`.
        headers: response headers.
        dated: response headers that tell a time, made from the time of the answer.
        body: JSON, a page of HTML, or text that is neither.
    """

    status: int
    says: str
    message: str | None = None
    error_code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    dated: Mapping[str, Callable[[datetime], str]] = field(default_factory=dict)
    body: Literal["json", "html", "text"] = "json"


def _in_two_secs(now: datetime) -> str:
    return format_datetime(now + timedelta(seconds=2), usegmt=True)


REFUSALS: Mapping[str, Refusal] = {
    "429-int": Refusal(429, "429 with retry-after: 1", headers={"retry-after": "1"}),
    "429-float": Refusal(429, "429 with retry-after: 0.5", headers={"retry-after": "0.5"}),
    "429-date": Refusal(429, "429 with retry-after as a date, 2 s ahead", dated={"retry-after": _in_two_secs}),
    "429-ms": Refusal(429, "429 with retry-after-ms: 250.5", headers={"retry-after-ms": "250.5"}),
    "429-none": Refusal(429, "429 that names no time"),
    "429-ramp": Refusal(429, "429 of a sharp ramp", error_code="ramp_limit_exceeded", headers={"retry-after": "1"}),
    "spend-cap": Refusal(
        429,
        "429 of the monthly cap, not to be sent again",
        "You have reached the spend limit of your plan.",
        "enforced_spend_limit_reached",
    ),
    "spend-limit": Refusal(400, "400 of one's own spend limit", SPEND_LIMIT),
    "credit": Refusal(400, "400 without credit (aimlapi: 403)", CREDIT),
    "too-long": Refusal(400, "400 of a prompt that is too long", "prompt is too long: 210000 tokens > 200000 maximum"),
    "500-html": Refusal(500, "500 with a page of HTML", "500 Internal Server Error", body="html"),
    "413-text": Refusal(413, "413 with a body that is no JSON", "Payload Too Large", body="text"),
    "529-no-retry": Refusal(529, "529 with x-should-retry: false", headers={"x-should-retry": "false"}),
    "400-retry": Refusal(400, "400 with x-should-retry: true", "Please try again.", headers={"x-should-retry": "true"}),
}

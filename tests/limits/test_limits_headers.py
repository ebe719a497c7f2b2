from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.records import RateHeaders, RateLimit
from pipeline.wire.ratelimits import RateReader, named_limit, rate_headers, reset_secs

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def test_the_apis_own_headers() -> None:
    headers = {
        "anthropic-ratelimit-requests-limit": "1000",
        "anthropic-ratelimit-requests-remaining": "999",
        "anthropic-ratelimit-requests-reset": "2026-11-22T12:00:30Z",
        "anthropic-ratelimit-input-tokens-limit": "2000000",
        "anthropic-ratelimit-input-tokens-remaining": "1999000",
        "anthropic-ratelimit-input-tokens-reset": "2026-11-22T13:00:01+01:00",
        "anthropic-ratelimit-output-tokens-limit": "400000",
        "anthropic-ratelimit-tokens-limit": "2400000",
    }
    assert rate_headers(headers, NOW) == RateHeaders(
        {
            "requests": RateLimit(1000, 999, 30),
            "input_tokens": RateLimit(2_000_000, 1_999_000, 1),
            "output_tokens": RateLimit(400_000),
            "tokens": RateLimit(2_400_000),
        }
    )


def test_headers_as_others_spell_them() -> None:
    headers = {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "150000",
        "x-ratelimit-remaining-tokens": "149984",
        "x-ratelimit-reset-tokens": "6m0s",
    }
    assert rate_headers(headers) == RateHeaders(
        {"requests": RateLimit(60, 59, 1), "tokens": RateLimit(150_000, 149_984, 360)}
    )


@pytest.mark.parametrize("headers", [{}, {"x-ratelimit-limit-tokens": "lots"}, {"retry-after": "3"}])
def test_headers_that_tell_nothing(headers: dict[str, str]) -> None:
    assert rate_headers(headers) is None


@pytest.mark.parametrize(
    ("text", "secs"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("2m59.56s", 179.56),
        ("120ms", 0.12),
        ("1h2m3s", 3723),
        ("1d", 86_400),
        ("7.5", 7.5),
        ("0", 0),
        ("2026-11-22T12:00:10Z", 10),
        ("2026-11-22T12:00:10.25Z", 10.25),
        ("2026-11-22T11:59:00Z", 0),  # it has passed
        ("2026-11-22T12:00:10", 10),
        ("soon", None),
        ("-3", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_when_a_limit_is_whole_again(text: str | None, secs: float | None) -> None:
    found = reset_secs(text, {}, NOW)
    assert found == (None if secs is None else pytest.approx(secs))


def test_a_time_of_day_is_held_against_the_servers_own_clock() -> None:
    headers = {"date": "Sun, 22 Nov 2026 12:05:00 GMT"}
    assert reset_secs("2026-11-22T12:05:07Z", headers, NOW) == pytest.approx(7)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (
            "api answered 429: this would exceed your organization's rate limit of 40,000 input tokens per minute",
            ("input_tokens", 40_000),
        ),
        ("exceed the rate limit of 600 requests per minute.", ("requests", 600)),
        ("rate limit of 8,000 output tokens per minute", ("output_tokens", 8_000)),
        ("Rate limit reached for tokens per min (TPM): Limit 90000", ("tokens", None)),
        ("Rate limit reached on requests per min. Limit: 3", ("requests", None)),
        ("too many output tokens", ("output_tokens", None)),
        ("Too Many Requests", None),
        ("slow down", None),
    ],
)
def test_which_limit_a_refusal_names(words: str, named: tuple[str, float | None] | None) -> None:
    assert named_limit(words) == named


def test_headers_are_read_now_and_then() -> None:
    now = 0.0
    reader = RateReader(lambda: now, every_secs=0.25)
    headers = {"x-ratelimit-limit-requests": "60"}
    assert reader.read(headers) is not None
    now = 0.2
    assert reader.read(headers) is None
    now = 0.3
    assert reader.read(headers) is not None

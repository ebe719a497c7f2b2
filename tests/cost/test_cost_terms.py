"""M3, the terms of a call: what batch, geography, fast mode and searches make of its price, worked out by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cost import Pricer
from pipeline.cost.rates import PerMillion, Rates
from pipeline.records import Price, Terms, Usage

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
EACH = Usage(1_000, 100, 1_000, 1_000, 1_000)  # input, output, 5-minute and 1-hour writes, reads


def usd(model: str, usage: Usage, terms: Terms) -> float | None:
    nanos = Pricer({}).price(usage, answered=model, asked=model, at=NOW, reported_nanos=None, terms=terms).nanos
    return None if nanos is None else nanos / 1e9


@pytest.mark.parametrize(
    ("model", "usage", "terms", "expected"),
    [
        # Sonnet 5: 2 in, 2.50 and 4 written, 0.20 read, 10 out: 0.002 + 0.001 + 0.0025 + 0.004 + 0.0002.
        ("claude-sonnet-5", EACH, Terms(), 0.0097),
        ("claude-sonnet-5", EACH, Terms(batch=True), 0.00485),
        ("claude-sonnet-5", EACH, Terms(us=True), 0.01067),
        ("claude-sonnet-5", EACH, Terms(batch=True, us=True), 0.005335),
        # Opus 5.5: 4 in, 5 and 8 written, 0.20 read, 20 out: 0.004 + 0.002 + 0.005 + 0.008 + 0.0002.
        ("claude-opus-5-5", EACH, Terms(fast=True), 0.0384),
        ("claude-opus-5-5", EACH, Terms(batch=True, us=True, fast=True), 0.02112),
        # Up to 4.5 a call that stays in the US costs what others cost.
        ("claude-haiku-4-5", Usage(1_000, 100), Terms(us=True), 0.0015),
        ("claude-haiku-4-5-20251001", Usage(1_000, 100), Terms(us=True), 0.0015),
        ("claude-sonnet-4-6", Usage(1_000, 100), Terms(us=True), 0.00495),
        ("anthropic/claude-sonnet-4.6", Usage(1_000, 100), Terms(us=True), 0.00495),
        # The band first, then the factors: above 100,000 tokens 0.50 in and 2.50 out.
        ("claude-haiku-5-5", Usage(100_000, 1_000), Terms(batch=True), 0.00525),
        ("claude-haiku-5-5", Usage(100_001, 1_000), Terms(batch=True), 0.02625025),
        ("claude-haiku-5-5", Usage(60_000, 1_000, 0, 0, 40_001), Terms(us=True), 0.037950055),
        # Searches cost a cent each, whatever the terms of the tokens.
        ("claude-sonnet-5", Usage(1_000, 0), Terms(web_searches=3), 0.032),
        ("claude-sonnet-5", Usage(1_000, 0), Terms(batch=True, web_searches=3), 0.031),
    ],
)
def test_a_call_on_these_terms_costs(model: str, usage: Usage, terms: Terms, expected: float) -> None:
    assert usd(model, usage, terms) == pytest.approx(expected, abs=1e-9)


def test_a_fast_call_of_a_model_whose_fast_price_is_not_known_is_unknown() -> None:
    pricer = Pricer({})
    price = pricer.price(
        EACH,
        answered="claude-sonnet-5",
        asked="claude-sonnet-5",
        at=NOW,
        reported_nanos=None,
        terms=Terms(fast=True),
    )
    assert price == Price(None, None)
    assert pricer.unpriced == {"claude-sonnet-5"}


def test_a_factor_changes_the_price_of_tokens_and_not_that_of_the_call() -> None:
    one = Decimal(1)
    rates = Rates.exactly(PerMillion(one, one, one, one, one, call=Decimal("0.001")))
    assert rates.nanos(Usage(10)) == 10_000 + 1_000_000
    assert rates.times(Decimal("0.55")).nanos(Usage(10)) == 5_500 + 1_000_000


def test_what_the_server_reports_goes_before_terms() -> None:
    price = Pricer({}).price(EACH, answered=None, asked="m", at=NOW, reported_nanos=5, terms=Terms(batch=True))
    assert price.nanos == 5


def test_the_identity_of_a_price_names_the_terms() -> None:
    price = Pricer({}).price(
        EACH, answered=None, asked="claude-sonnet-5", at=NOW, reported_nanos=None, terms=Terms(batch=True, us=True)
    )
    assert price.source is not None
    assert price.source.endswith(" claude-sonnet-5 batch us")


@pytest.mark.parametrize(
    ("usage", "terms"),
    [
        ({}, Terms()),
        (None, Terms()),
        ("usage", Terms()),
        ({"service_tier": "batch"}, Terms(batch=True)),
        ({"service_tier": "priority", "speed": "standard", "inference_geo": "global"}, Terms()),
        ({"service_tier": None, "speed": None, "inference_geo": None, "server_tool_use": None}, Terms()),
        ({"speed": "fast", "inference_geo": "us"}, Terms(us=True, fast=True)),
        ({"inference_geo": "not_available"}, Terms()),
        ({"server_tool_use": {"web_search_requests": 4, "web_fetch_requests": 2}}, Terms(web_searches=4)),
        ({"server_tool_use": {"web_search_requests": "many"}}, Terms()),
        ({"server_tool_use": {"web_search_requests": -1}}, Terms()),
        ({"server_tool_use": {"web_search_requests": True}}, Terms()),
    ],
)
def test_terms_are_read_from_a_usage_object(usage: Any, terms: Terms) -> None:
    assert Terms.of(usage) == terms


@given(st.integers(0, 200_000), st.integers(0, 9_000), st.sampled_from(["claude-opus-5", "claude-haiku-5-5"]))
def test_a_batch_call_never_costs_more_than_half_a_nano_dollar_beside_the_half(
    tokens: int, out: int, model: str
) -> None:
    usage = Usage(tokens, out)
    whole = Pricer({}).price(usage, answered=None, asked=model, at=NOW, reported_nanos=None).nanos
    half = (
        Pricer({}).price(usage, answered=None, asked=model, at=NOW, reported_nanos=None, terms=Terms(batch=True)).nanos
    )
    assert whole is not None
    assert half == (whole + 1) // 2

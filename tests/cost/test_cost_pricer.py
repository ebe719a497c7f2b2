"""M3: what calls cost, worked out by hand, to the nano-dollar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cost import Pricer
from pipeline.records import Price, Usage

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Stated:
    input: Decimal | float
    output: Decimal | float
    cache_write: Decimal | float | None = None
    cache_write_1h: Decimal | float | None = None
    cache_read: Decimal | float | None = None
    from_: date | None = None
    until: date | None = None
    batch: float | None = None
    longer: Mapping[int, Stated] = field(default_factory=dict)


def nanos(model: str, usage: Usage, *, at: datetime = NOW) -> int | None:
    return Pricer({}).price(usage, answered=model, asked=model, at=at, reported_nanos=None).nanos


# messages-api §9 in nano-dollars a token (USD per million times 1,000): input, 5-minute write, 1-hour write, read, out.
LIST = {
    "claude-fable-5-1": (10_000, 12_500, 20_000, 250, 50_000),
    "claude-mythos-5-1": (10_000, 12_500, 20_000, 250, 50_000),
    "claude-fable-5": (10_000, 12_500, 20_000, 1_000, 50_000),
    "claude-mythos-5": (10_000, 12_500, 20_000, 1_000, 50_000),
    "claude-opus-5-5": (4_000, 5_000, 8_000, 200, 20_000),
    "claude-opus-5": (5_000, 6_250, 10_000, 500, 25_000),
    "claude-opus-4-8": (5_000, 6_250, 10_000, 500, 25_000),
    "claude-opus-4-7": (5_000, 6_250, 10_000, 500, 25_000),
    "claude-opus-4-6": (5_000, 6_250, 10_000, 500, 25_000),
    "claude-opus-4-5": (5_000, 6_250, 10_000, 500, 25_000),
    "claude-opus-4-5-20251101": (5_000, 6_250, 10_000, 500, 25_000),
    "claude-sonnet-5-5": (2_000, 2_500, 4_000, 100, 10_000),
    "claude-sonnet-5": (2_000, 2_500, 4_000, 200, 10_000),
    "claude-sonnet-4-6": (3_000, 3_750, 6_000, 300, 15_000),
    "claude-sonnet-4-5": (3_000, 3_750, 6_000, 300, 15_000),
    "claude-sonnet-4-5-20250929": (3_000, 3_750, 6_000, 300, 15_000),
    "claude-haiku-5-5": (100, 125, 200, 10, 500),
    "claude-haiku-4-5": (1_000, 1_250, 2_000, 100, 5_000),
    "claude-haiku-4-5-20251001": (1_000, 1_250, 2_000, 100, 5_000),
    "claude-opus-4-1": (15_000, 18_750, 30_000, 1_500, 75_000),
    "claude-opus-4": (15_000, 18_750, 30_000, 1_500, 75_000),
    "claude-3-opus-20240229": (15_000, 18_750, 30_000, 1_500, 75_000),
    "claude-sonnet-4": (3_000, 3_750, 6_000, 300, 15_000),
    "claude-3-7-sonnet": (3_000, 3_750, 6_000, 300, 15_000),
    "claude-3-5-sonnet-20240620": (3_000, 3_750, 6_000, 300, 15_000),
    "claude-3-5-haiku": (800, 1_000, 1_600, 80, 4_000),
    "claude-3-haiku-20240307": (250, 300, 500, 30, 1_250),
}


@pytest.mark.parametrize(("model", "rates"), LIST.items())
def test_the_table_is_the_published_list(model: str, rates: tuple[int, int, int, int, int]) -> None:
    kinds = (
        Usage(input_tokens=1),
        Usage(cache_write_5m_tokens=1),
        Usage(cache_write_1h_tokens=1),
        Usage(cache_read_tokens=1),
        Usage(output_tokens=1),
    )
    assert tuple(nanos(model, usage) for usage in kinds) == rates


@pytest.mark.parametrize(
    ("model", "usage", "expected"),
    [
        ("claude-sonnet-4-5", Usage(), 0),
        # 1,000 in at $3 and 200 out at $15 per million: $0.003 + $0.003.
        ("claude-sonnet-4-5", Usage(1_000, 200), 6_000_000),
        # 10 in, 20 out, 5,000 written for 5 minutes, 3,000 for an hour, 100,000 read, at $3, $15, $3.75, $6, $0.30.
        ("claude-sonnet-4-5", Usage(10, 20, 5_000, 3_000, 100_000), 330_000 + 18_750_000 + 18_000_000 + 30_000_000),
        # Cached tokens are no input tokens: 90,000 read at $0.50 and 10 in at $5.
        ("claude-opus-5", Usage(10, 0, 0, 0, 90_000), 50_000 + 45_000_000),
        # Haiku 5.5's band: up to 100,000 tokens of prompt, read and written ones counted, …
        ("claude-haiku-5-5", Usage(100_000, 1_000), 10_000_000 + 500_000),
        ("claude-haiku-5-5", Usage(40_000, 1_000, 20_000, 10_000, 30_000), 4_500_000 + 2_500_000 + 2_000_000 + 300_000),
        # … and one token more prices the whole call five times higher, its output too.
        ("claude-haiku-5-5", Usage(100_001, 1_000), 50_000_500 + 2_500_000),
        (
            "claude-haiku-5-5",
            Usage(40_001, 1_000, 20_000, 10_000, 30_000),
            22_500_500 + 12_500_000 + 10_000_000 + 1_500_000,
        ),
        # A long output does not lift a short prompt into the higher band.
        ("claude-haiku-5-5", Usage(1, 200_000), 100 + 100_000_000),
    ],
)
def test_a_call_costs(model: str, usage: Usage, expected: int) -> None:
    assert nanos(model, usage) == expected


def test_prices_are_those_of_the_attempts_utc_date() -> None:
    """Opus 4.6 charged double beyond 200,000 tokens until 2026-03-13."""
    usage = Usage(200_001)
    assert nanos("claude-opus-4-6", usage, at=datetime(2026, 3, 12, 23, 59, tzinfo=UTC)) == 2_000_010_000
    assert nanos("claude-opus-4-6", usage, at=datetime(2026, 3, 13, tzinfo=UTC)) == 1_000_005_000
    east = timezone(timedelta(hours=9))
    assert nanos("claude-opus-4-6", usage, at=datetime(2026, 3, 13, 8, 59, tzinfo=east)) == 2_000_010_000


@pytest.mark.parametrize(
    "name",
    [
        "claude-sonnet-4-5",
        "Claude-Sonnet-4-5",
        "claude-sonnet-4.5",
        "anthropic/claude-sonnet-4.5",
        "anthropic/claude-sonnet-4-5-20250929",
        "openrouter/anthropic/claude-sonnet-4.5",
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0",
        "claude-sonnet-4-5@20250929",
        "anthropic/claude-sonnet-4.5:thinking",
    ],
)
def test_a_model_is_found_however_a_router_spells_it(name: str) -> None:
    price = Pricer({}).price(Usage(1), answered=name, asked=name, at=NOW, reported_nanos=None)
    assert price.nanos == 3_000
    assert price.source is not None
    assert price.source.startswith("genai-prices ")
    assert price.source.endswith(" claude-sonnet-4-5")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("anthropic/claude-opus-5.5", 4_000),
        ("anthropic.claude-opus-5-5-v1:0", 4_000),
        ("claude-sonnet-5-latest", 2_000),
        ("anthropic/claude-haiku-5.5", 100),
        ("claude-mythos-5.1", 10_000),
        ("openai/gpt-4o", 2_500),
        ("gpt-4o", 2_500),
    ],
)
def test_spellings_of_other_models(name: str, expected: int) -> None:
    assert nanos(name, Usage(1)) == expected


@pytest.mark.parametrize(
    "name", ["smollm2", "llama-3-70b-local", "somebody/gpt-4o-clone", "", "claude", "claude-sonnet-9"]
)
def test_an_unknown_model_is_unknown_and_never_free(name: str) -> None:
    pricer = Pricer({})
    assert pricer.price(Usage(1, 1), answered=None, asked=name, at=NOW, reported_nanos=None) == Price(None, None)
    assert pricer.unpriced == {name}


def test_missing_usage_is_unknown_and_blames_no_model() -> None:
    pricer = Pricer({"m": Stated(1, 1)})
    for model in ("claude-opus-5", "m"):
        assert pricer.price(None, answered=model, asked=model, at=NOW, reported_nanos=None) == Price(None, None)
    assert pricer.unpriced == set()


ANSWERED, ASKED = "claude-opus-5", "claude-sonnet-5"
MILLION = Usage(input_tokens=1_000_000)


@pytest.mark.parametrize(
    ("reported", "overrides", "answered", "asked", "nanos", "by", "source"),
    [
        (7, (ANSWERED, ASKED), ANSWERED, ASKED, 7, "server", "server"),
        (0, (), "unknown", "unknown", 0, "server", "server"),
        (None, (ANSWERED, ASKED), ANSWERED, ASKED, 1_000_000_000, "override", f"job {ANSWERED}"),
        (None, (ASKED,), ANSWERED, ASKED, 1_000_000_000, "override", f"job {ASKED}"),
        (None, ("claude-opus-5.0",), ANSWERED, ASKED, 5_000_000_000, "table", "claude-opus-5"),
        (None, (), ANSWERED, ASKED, 5_000_000_000, "table", "claude-opus-5"),
        (None, (), "unknown", ASKED, 2_000_000_000, "table", "claude-sonnet-5"),
        (None, (), None, ASKED, 2_000_000_000, "table", "claude-sonnet-5"),
    ],
)
def test_who_says_what_a_call_costs(
    reported: int | None,
    overrides: tuple[str, ...],
    answered: str | None,
    asked: str,
    nanos: int,
    by: str,
    source: str,
) -> None:
    pricer = Pricer({model: Stated(1, 1) for model in overrides})
    price = pricer.price(MILLION, answered=answered, asked=asked, at=NOW, reported_nanos=reported)
    assert (price.nanos, price.priced_by) == (nanos, by)
    assert price.source is not None
    assert price.source.endswith(source)
    assert pricer.unpriced == set()


def test_what_the_server_reports_needs_no_usage() -> None:
    price = Pricer({}).price(None, answered=None, asked="m", at=NOW, reported_nanos=788_000)
    assert (price.nanos, price.priced_by) == (788_000, "server")


def test_the_embedded_endpoint_is_free_whatever_it_answers() -> None:
    pricer = Pricer({"m": Stated(1, 1)}, free=True)
    for usage in (None, Usage(5, 5)):
        assert pricer.price(usage, answered="m", asked="m", at=NOW, reported_nanos=None) == Price(
            0, "table", "embedded"
        )
    assert pricer.unpriced == set()


@pytest.mark.parametrize(
    ("stated", "usage", "expected"),
    [
        (Stated(2.6, 13), Usage(1_000, 100), 3_900_000),
        # What is left out follows from the input price: 1.25 times, twice, a tenth.
        (Stated(2.6, 13), Usage(0, 0, 1_000, 0, 0), 3_250_000),
        (Stated(2.6, 13), Usage(0, 0, 0, 1_000, 0), 5_200_000),
        (Stated(2.6, 13), Usage(0, 0, 0, 0, 1_000), 260_000),
        (Stated(2.6, 13, 1, 2, 0), Usage(0, 0, 1, 1, 1), 3_000),
        (Stated(0, 0), Usage(9, 9, 9, 9, 9), 0),
        # 1.3754 USD per million is 1,375.4 nano-dollars a token: a whole only at the end, half up.
        (Stated(1.3754, 6.877, cache_read=0.13754), Usage(1, 0, 0, 0, 0), 1_375),
        (Stated(1.3754, 6.877, cache_read=0.13754), Usage(5, 0, 0, 0, 0), 6_877),
        (Stated(1.3754, 6.877, cache_read=0.13754), Usage(1_000_000, 1_000_000, 0, 0, 1_000_000), 8_389_940_000),
        (Stated(0.0005, 0), Usage(1), 1),
        (Stated(0.00049, 0), Usage(1), 0),
        (Stated(Decimal("0.1"), Decimal(0)), Usage(3), 300),
    ],
)
def test_the_jobs_own_prices_are_exact(stated: Stated, usage: Usage, expected: int) -> None:
    price = Pricer({"m": stated}).price(usage, answered="m", asked="m", at=NOW, reported_nanos=None)
    assert price.nanos == expected


COUNTS = st.integers(0, 300_000)
USAGES = st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)


@settings(deadline=None)
@given(USAGES, st.sampled_from(sorted(LIST)), st.sampled_from([NOW, datetime(2026, 1, 1, tzinfo=UTC)]))
def test_the_table_agrees_with_the_package_whose_data_it_reads(usage: Usage, model: str, at: datetime) -> None:
    from genai_prices import Usage as Theirs
    from genai_prices import calc_price

    if "mythos" in model:
        return
    theirs = calc_price(
        Theirs(
            # Their input tokens include the cached ones, and their writes those of an hour.
            input_tokens=usage.input_tokens + usage.cache_write_tokens + usage.cache_read_tokens,
            output_tokens=usage.output_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            cache_read_tokens=usage.cache_read_tokens,
        ),
        model,
        provider_id="anthropic",
        genai_request_timestamp=at,
    )
    assert nanos(model, usage, at=at) == theirs.total_price * 1_000_000_000


@settings(deadline=None)
@given(st.lists(USAGES, max_size=5), st.randoms())
def test_usage_adds_up_in_any_order_and_so_does_a_bill_without_bands(usages: list[Usage], shuffle: Any) -> None:
    shuffled = list(usages)
    shuffle.shuffle(shuffled)
    assert sum(usages, Usage()) == sum(shuffled, Usage())
    assert sum(nanos("claude-sonnet-5", usage) or 0 for usage in usages) == nanos(
        "claude-sonnet-5", sum(shuffled, Usage())
    )


def test_a_bill_with_bands_is_priced_by_the_call() -> None:
    """Ten short prompts stay in the lower band, though their sum would not."""
    each = Usage(20_000, 0)
    assert 10 * (nanos("claude-haiku-5-5", each) or 0) == 20_000_000
    assert nanos("claude-haiku-5-5", Usage(200_000, 0)) == 100_000_000

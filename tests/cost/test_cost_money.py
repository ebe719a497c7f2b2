from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cost import nanos, usd, usd_text, usd_texts


@settings(deadline=None)
@given(st.integers(-(10**15), 10**15))
def test_usd_is_a_whole_number_of_nano_dollars(amount: int) -> None:
    assert round(usd(amount) * 1_000_000_000) == amount
    assert nanos(Decimal(repr(usd(amount)))) == amount


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0"),
        (1, "$0.000000001"),
        (99_999, "$0.0001"),
        (52_000, "$0.000052"),
        (1_234, "$0.0000012"),
        (100_000, "$0.0001"),
        (12_345_678, "$0.0123"),
        (12_350_000, "$0.0124"),
        (1_000_000_000, "$1.0000"),
        (12_345_000_000, "$12.35"),
        (1_234_567_000_000_000, "$1,234,567.00"),
        (-12_300_000, "-$0.0123"),
        (-52_000, "-$0.000052"),
    ],
)
def test_an_amount_is_shown_as(amount: int, text: str) -> None:
    assert usd_text(amount) == text


@pytest.mark.parametrize(
    ("amounts", "texts"),
    [
        ((25 * 10**9, 24_998_100_000, 3_100_000), ("$25.0000", "$24.9981", "$0.0031")),
        ((50_000, 31_000, 21_000), ("$0.000050", "$0.000031", "$0.000021")),
        ((400 * 10**9, 399_980_000_000, 12 * 10**9), ("$400.00", "$399.98", "$12.00")),
        ((6_000_000, 0, 7_000_000), ("$0.0060", "$0", "$0.0070")),
        ((0, 0), ("$0", "$0")),
    ],
)
def test_amounts_beside_each_other_have_the_same_digits(amounts: tuple[int, ...], texts: tuple[str, ...]) -> None:
    assert usd_texts(*amounts) == texts


@given(st.integers(1, 10**15), st.integers(1, 10**15))
def test_of_two_amounts_that_differ_by_much_none_is_shown_as_nothing(one: int, other: int) -> None:
    assert not any(set(text) <= set("$0.,") for text in usd_texts(one, other))


@pytest.mark.parametrize(
    ("dollars", "expected"), [("0.000788", 788_000), ("0.0000000005", 1), ("0.00000000049", 0), ("25", 25 * 10**9)]
)
def test_dollars_become_whole_nano_dollars_half_up(dollars: str, expected: int) -> None:
    assert nanos(Decimal(dollars)) == expected


def test_the_price_table_is_loaded_by_the_first_look_up_only() -> None:
    code = (
        "import sys; from datetime import datetime\n"
        "from pipeline.cost import Pricer; from pipeline.records import Usage;"
        "p = Pricer({}); p.price(Usage(), answered=None, asked='m', at=datetime(2026, 1, 1), reported_nanos=1);"
        "assert 'genai_prices' not in sys.modules;"
        "p.price(Usage(), answered=None, asked='m', at=datetime(2026, 1, 1), reported_nanos=None);"
        "assert 'genai_prices' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

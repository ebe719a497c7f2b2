from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cost import nanos, usd, usd_text


@settings(deadline=None)
@given(st.integers(-(10**15), 10**15))
def test_usd_is_a_whole_number_of_nano_dollars(amount: int) -> None:
    assert round(usd(amount) * 1_000_000_000) == amount
    assert nanos(Decimal(repr(usd(amount)))) == amount


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "$0"),
        (1, "under $0.0001"),
        (99_999, "under $0.0001"),
        (100_000, "$0.0001"),
        (12_345_678, "$0.0123"),
        (12_350_000, "$0.0124"),
        (1_000_000_000, "$1.0000"),
        (12_345_000_000, "$12.35"),
        (1_234_567_000_000_000, "$1,234,567.00"),
        (-12_300_000, "-$0.0123"),
        (-1, "under -$0.0001"),
    ],
)
def test_an_amount_is_shown_as(amount: int, text: str) -> None:
    assert usd_text(amount) == text


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

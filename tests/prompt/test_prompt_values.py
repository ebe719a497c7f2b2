from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.prompt.values import NoTextError, json_bytes, text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, ""),
        ("", ""),
        ("as it is ", "as it is "),
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (2**80, "1208925819614629174706176"),
        (0.1, "0.1"),
        (3.0, "3.0"),
        (-0.0, "-0.0"),
        (1e16, "1e+16"),
        (5e-324, "5e-324"),
        (float("nan"), "NaN"),
        (float("inf"), "inf"),
        (float("-inf"), "-inf"),
        (Decimal("12.50"), "12.50"),
        (Decimal("1E+3"), "1000"),
        (Decimal("NaN"), "NaN"),
        (date(2026, 11, 22), "2026-11-22"),
        (datetime(2026, 11, 22, 1, 2, 3), "2026-11-22T01:02:03"),  # noqa: DTZ001 - sources have times without a zone
        (datetime(2026, 11, 22, 1, 2, 3, 4, UTC), "2026-11-22T01:02:03.000004+00:00"),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-5))), "2026-01-02T00:00:00-05:00"),
        (time(12, 30), "12:30:00"),
        (timedelta(seconds=90, milliseconds=500), "PT90.5S"),
        (timedelta(days=-1), "-PT86400S"),
        ([1, None, "a", True], '[1,null,"a",true]'),
        ({"a": Decimal("1.50"), "b": [date(2026, 1, 2)]}, '{"a":1.50,"b":["2026-01-02"]}'),
        (OrderedDict(a=1), '{"a":1}'),
        ({1: float("nan")}, '{"1":null}'),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    ],
)
def test_a_value_is_written_so(value: object, written: str) -> None:
    assert text(value) == written


@pytest.mark.parametrize("value", [b"secret", bytearray(b"secret"), [b"secret"], {"secret"}, iter(["secret"]), object])
def test_what_has_no_text_form_is_refused_without_showing_it(value: object) -> None:
    with pytest.raises(NoTextError) as refused:
        text(value)
    assert "secret" not in str(refused.value)


def scalars() -> st.SearchStrategy[Any]:
    return st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        st.decimals(allow_nan=False, allow_infinity=False, places=4),
        st.text(st.characters(exclude_categories=["Cs"])),
        st.dates(),
        st.datetimes(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=5, minutes=30))])),
        st.times(),
        st.timedeltas(),
    )


@settings(deadline=None)
@given(scalars())
@example(time(0, 0, 0, 10_000))
@example(datetime(2026, 1, 1, 0, 0, 0, 10_000, UTC))
def test_a_scalar_is_spelled_in_json_as_in_text(value: Any) -> None:
    read = json.loads(json_bytes(value), parse_float=str, parse_int=str)
    if value is None or isinstance(value, bool):
        assert read is value
    elif isinstance(value, float):
        assert float(read) == float(text(value)) == value
    else:
        assert read == text(value)


def some_rows() -> Iterator[int]:
    yield 1


def test_a_generator_is_told_how_to_become_text() -> None:
    with pytest.raises(NoTextError, match="a value of type generator has no text form; a list"):
        text(some_rows())

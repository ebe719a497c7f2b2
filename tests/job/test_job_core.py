"""Plain scalars by YAML 1.2, and by the fields that read them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.job.core import core, number
from pipeline.job.fields import Flag, Free, Number, ProblemError, Seconds, Text, Texts, Whole
from pipeline.job.nodes import Scalar

TEXTS = [
    "yes",
    "no",
    "on",
    "off",
    "22:00",
    "007",
    "+007",
    "00.5",
    "2023-06-01",
    "2023-06-01T10:00:00Z",
    "1_000",
    "1e",
    "-",
]


@pytest.mark.parametrize("text", [*TEXTS, "9" * 30, "0x" + "f" * 30, "9" * 5000, "0b1", ".", "e5", "\u0661"])
def test_a_scalar_that_yaml_1_2_does_not_know_stays_text(text: str) -> None:
    assert core(text) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("0", 0),
        ("-12", -12),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("1e3", 1000.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("-1.", -1.0),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        (str(2**64 - 1), 2**64 - 1),
    ],
)
def test_a_scalar_of_the_core_schema_is_read_by_its_looks(text: str, value: Any) -> None:
    read = core(text)
    assert read == value
    assert type(read) is type(value)


@given(st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_that_python_writes_is_read_back(value: float) -> None:
    assert core(repr(value)) == value
    assert number(repr(value)) == value


@pytest.mark.parametrize("text", [*TEXTS, "true", "12", "1e3", "0x1F"])
def test_a_text_field_takes_every_scalar_as_it_is_written(text: str) -> None:
    assert Text().read(Scalar(text)) == text


def test_null_is_no_text_unless_quoted() -> None:
    with pytest.raises(ProblemError, match="put the word in quotes if you mean it"):
        Text().read(Scalar("null"))
    assert Text().read(Scalar("null", plain=False)) == "null"


def test_a_list_of_null_values_takes_the_words_for_nothing_as_text() -> None:
    assert Texts(null_words=True).read([Scalar("NULL"), Scalar("~"), Scalar("NA")]) == ("NULL", "~", "NA")


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (Whole().read, "007", 7),
        (Whole().read, "1e3", 1000),
        (Whole().read, "16", 16),
        (Number().read, "1e-3", 0.001),
        (Number().read, "2", 2.0),
        (Seconds().read, "90", 90.0),
        (Seconds().read, "30s", 30.0),
        (Seconds().read, "10m", 600.0),
        (Seconds().read, "8h", 28800.0),
        (Seconds().read, "1h30m", 5400.0),
        (Seconds().read, "0.5h", 1800.0),
        (Flag().read, "true", True),
    ],
)
def test_a_field_that_wants_a_number_reads_one(read: Callable[[Scalar], Any], text: str, value: Any) -> None:
    assert read(Scalar(text)) == value


@pytest.mark.parametrize(
    ("read", "scalar", "words"),
    [
        (Whole().read, Scalar("1.5"), "whole number"),
        (Whole(at_least=1).read, Scalar("0"), "of at least 1, found 0"),
        (Whole().read, Scalar("16", plain=False), "write it without quotes"),
        (Whole().read, Scalar("1_000"), "whole number"),
        (Whole().read, Scalar("1e999"), "whole number"),
        (Whole().read, Scalar("9" * 5000), "whole number"),
        (Whole().read, Scalar("true"), "whole number"),
        (Whole().read, Scalar("\u0663"), "whole number"),
        (Number().read, Scalar("1e999"), "a number"),
        (Number().read, Scalar(".inf"), "a number"),
        (Number(above=0).read, Scalar("0"), "above 0, found 0"),
        (Seconds().read, Scalar("10 m"), "30s, 10m, 8h"),
        (Seconds().read, Scalar("m10"), "30s, 10m, 8h"),
        (Seconds(above=0).read, Scalar("0s"), "above 0"),
        (Flag().read, Scalar("yes"), "true or false, found"),
        (Flag().read, Scalar("true", plain=False), "true or false"),
    ],
)
def test_a_field_that_wants_a_number_says_what_would_be_right(
    read: Callable[[Scalar], Any], scalar: Scalar, words: str
) -> None:
    with pytest.raises(ProblemError, match=words):
        read(scalar)


def test_what_was_filled_in_is_read_as_a_number_though_it_stood_in_quotes() -> None:
    assert Whole().read(Scalar("16", plain=False, written="${n}")) == 16


def test_free_mappings_are_read_by_yaml_1_2_all_the_way_down() -> None:
    row = {
        "a": [Scalar("007"), Scalar("7")],
        "b": {"c": Scalar("no"), "d": Scalar("false")},
        "e": Scalar("1", plain=False),
    }
    assert Free().read(row) == {"a": ["007", 7], "b": {"c": "no", "d": False}, "e": "1"}

"""Price files: what they say is charged, on which days, and what is wrong with them is said with its place."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from pipeline.cost import Pricer, canonical, read_book, user_book, user_file
from pipeline.errors import JobError
from pipeline.job import ModelPrice
from pipeline.records import Usage

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)


def book_file(folder: Path, text: str) -> Path:
    path = folder / "prices.yaml"
    path.write_text(text)
    return path


def nanos(path: Path, usage: Usage, at: datetime = NOON, model: str = "m") -> int | None:
    pricer = Pricer({}, user=read_book(path))
    return pricer.price(usage, answered=model, asked=model, at=at, reported_nanos=None).nanos


def test_prices_that_are_left_out_follow_from_the_input_price(tmp_path: Path) -> None:
    path = book_file(tmp_path, "m: {input: 2.6, output: 13}")
    assert nanos(path, Usage(1_000, 100)) == 3_900_000
    assert nanos(path, Usage(0, 0, 1_000, 1_000, 1_000)) == 3_250_000 + 5_200_000 + 260_000


def test_prices_hold_for_their_days_in_utc(tmp_path: Path) -> None:
    path = book_file(
        tmp_path,
        "m:\n"
        "  - {until: 2026-06-30, input: 3, output: 0}\n"
        "  - {from: 2026-07-01, until: 2026-07-31, input: 1, output: 0}\n",
    )
    east = timezone(timedelta(hours=9))
    assert nanos(path, Usage(1), datetime(2026, 6, 30, 23, 59, tzinfo=UTC)) == 3_000
    assert nanos(path, Usage(1), datetime(2026, 7, 1, 8, tzinfo=east)) == 3_000
    assert nanos(path, Usage(1), datetime(2026, 7, 1, tzinfo=UTC)) == 1_000
    assert nanos(path, Usage(1), datetime(2026, 7, 31, 23, 59, tzinfo=UTC)) == 1_000
    assert nanos(path, Usage(1), datetime(2026, 8, 1, tzinfo=UTC)) is None


def test_a_long_prompt_is_charged_by_its_band(tmp_path: Path) -> None:
    path = book_file(tmp_path, "m: {input: 1, output: 2, above: {200_000: {input: 2, output: 3}}}")
    assert nanos(path, Usage(200_000, 10)) == 200_020_000
    assert nanos(path, Usage(200_001, 10)) == 400_032_000


def test_a_file_goes_before_the_table_and_a_job_before_the_file(tmp_path: Path) -> None:
    user = read_book(book_file(tmp_path, "claude-sonnet-5: {input: 7, output: 0}\nm: {input: 9, output: 0}"))
    job = {"m": ModelPrice(input=7, output=0)}

    def price(model: str) -> tuple[int | None, str | None]:
        priced = Pricer(job, user=user).price(Usage(1), answered=None, asked=model, at=NOON, reported_nanos=None)
        return priced.nanos, priced.priced_by

    assert price("claude-sonnet-5") == (7_000, "override")
    assert price("m") == (7_000, "override")
    assert price("claude-opus-5") == (5_000, "table")


def test_the_identity_of_a_price_names_file_model_and_days_and_changes_with_the_price(tmp_path: Path) -> None:
    def source(text: str) -> str:
        (entry,) = read_book(book_file(tmp_path, text))["m"]
        return entry.source

    first = source("m: {input: 1, output: 2, from: 2026-01-01}")
    assert first.startswith("prices.yaml#")
    assert first.endswith(" m from 2026-01-01")
    assert source("m: {input: 1, output: 2, from: 2026-01-01}") == first
    assert source("m: {input: 1, output: 3, from: 2026-01-01}") != first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("m: {input: 3}", "prices.yaml:1:4: m: lacks output"),
        ("m: {input: 3, output: much}", "prices.yaml:1:23: m.output: must be a number from 0 on"),
        ("m: {input: -1, output: 1}", "found '-1'"),
        ("m: {input: .nan, output: 1}", "must be a number"),
        ("m: {input: 1, output: 1, cache: 3}", "m.cache: is not known; known are input"),
        ("m: {input: 1, output: 1, from: soon}", "must be a date such as 2026-07-01"),
        ("m: {input: 1, output: 1, from: 2026-02-01, until: 2026-01-01}", "is before from"),
        ("m:\n - {input: 1, output: 1}\n - {input: 2, output: 1, from: 2026-02-01}", "hold for the same day"),
        ("m: {input: 1, output: 1}\nm: {input: 2, output: 1}", 'the key "m" stands twice'),
        ("- m", "must hold models and their prices"),
        ("m: 3", "must hold prices"),
        ("m: {input: 1, output: 1, above: {many: {input: 1, output: 1}}}", "must be a number of prompt tokens"),
        ("m: {input: 1, output: 1, above: 3}", "m.above: must hold prices by prompt tokens"),
        ("m: {", "this is not YAML"),
        ("m: &a {input: *b}", "this is not YAML"),
    ],
)
def test_a_broken_price_file_is_said_with_its_place(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(JobError) as error:
        read_book(book_file(tmp_path, text))
    assert words in str(error.value)


def test_every_complaint_comes_at_once(tmp_path: Path) -> None:
    with pytest.raises(JobError) as error:
        read_book(book_file(tmp_path, "a: {input: x, output: 1}\nb: {input: 1}\n"))
    assert len(error.value.complaints) == 2


def test_the_users_file_lies_where_xdg_says(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert user_file(home) == tmp_path / ".config/messages-pipeline/prices.yaml"
    assert user_file({**home, "XDG_CONFIG_HOME": "relative"}) == user_file(home)
    xdg = {**home, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert user_book(xdg) == {}
    path = tmp_path / "xdg/messages-pipeline/prices.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("m: {input: 1, output: 2}")
    assert list(user_book(xdg)) == ["m"]


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_price_file_states_nothing(text: str, tmp_path: Path) -> None:
    assert read_book(book_file(tmp_path, text)) == {}


@pytest.mark.parametrize(
    "name",
    [
        "Claude Sonnet 4.5",
        "claude-sonnet-4-5-20250929",
        "anthropic/claude-sonnet-4.5",
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "claude-sonnet-4-5@20250929",
        " CLAUDE-SONNET-4-5 ",
    ],
)
def test_a_model_is_compared_by_one_spelling(name: str) -> None:
    assert canonical(name) == "claude-sonnet-4-5"


def test_other_models_are_compared_by_their_name() -> None:
    assert canonical("openai/GPT-4o") == "openai/gpt-4o"

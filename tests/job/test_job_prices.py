"""The job's own prices: the same shapes as a price file has, and every mistake in them named with its place."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.cost import Pricer, read_book
from pipeline.errors import JobError
from pipeline.job import Job, Overrides, load
from pipeline.records import Terms, Usage

JUNE = datetime(2026, 6, 30, 23, 59, tzinfo=UTC)
JULY = datetime(2026, 7, 1, tzinfo=UTC)
HEAD = """\
name: priced
source: {path: rows.csv}
prompt: {user: "Say <<a>>"}
request: {model: m}
endpoint: simulator
output: {path: out.parquet}
"""
DATED = """\
  m:
    - {until: 2026-06-30, input: 3, output: 15}
    - from: 2026-07-01
      input: 2
      output: 10
      cache_write: 3
      cache_write_1h: 5
      cache_read: 0.1
      batch: 0.4
      above: {1_000: {input: 4, output: 15}}
"""


def loaded(folder: Path, prices: str) -> Job:
    path = folder / "priced.yaml"
    path.write_text(f"{HEAD}prices:\n{prices}")
    return load(path, Overrides(), environ={})


def complaints(folder: Path, prices: str) -> list[str]:
    with pytest.raises(JobError) as raised:
        loaded(folder, prices)
    return [str(each).replace(f"{folder}/", "") for each in raised.value.complaints]


def nanos(pricer: Pricer, usage: Usage, at: datetime, terms: Terms | None = None) -> int | None:
    return pricer.price(usage, answered="m", asked="m", at=at, reported_nanos=None, terms=terms or Terms()).nanos


@pytest.mark.parametrize(
    ("usage", "at", "terms", "expected"),
    [
        (Usage(100, 10), JUNE, Terms(), 100 * 3_000 + 10 * 15_000),
        (Usage(100, 10), JULY, Terms(), 100 * 2_000 + 10 * 10_000),
        (Usage(0, 0, 10, 10, 10), JULY, Terms(), 10 * 3_000 + 10 * 5_000 + 10 * 100),
        (Usage(0, 0, 10, 10, 10), JUNE, Terms(), 10 * 3_750 + 10 * 6_000 + 10 * 300),
        (Usage(1_000, 10), JULY, Terms(), 1_000 * 2_000 + 10 * 10_000),
        (Usage(1_000, 10, 0, 0, 1), JULY, Terms(), 1_000 * 4_000 + 10 * 15_000 + 400),
        (Usage(100, 10), JULY, Terms(batch=True), (100 * 2_000 + 10 * 10_000) * 4 // 10),
        (Usage(100, 10), JUNE, Terms(batch=True), (100 * 3_000 + 10 * 15_000) // 2),
    ],
)
def test_a_price_holds_for_its_utc_days_and_the_same_words_mean_the_same_in_a_price_file(
    tmp_path: Path, usage: Usage, at: datetime, terms: Terms, expected: int
) -> None:
    book = tmp_path / "prices.yaml"
    book.write_text(DATED)
    by_job, by_file = Pricer(loaded(tmp_path, DATED).prices), Pricer({}, user=read_book(book))
    assert nanos(by_job, usage, at, terms) == nanos(by_file, usage, at, terms) == expected


def test_the_identity_of_a_price_names_its_days(tmp_path: Path) -> None:
    pricer = Pricer(loaded(tmp_path, DATED).prices)
    quotes = [pricer.quote(answered="m", asked="m", at=at) for at in (JUNE, JULY)]
    assert [quote and quote.source for quote in quotes] == ["job m until 2026-06-30", "job m from 2026-07-01"]


def test_on_days_that_the_job_leaves_out_the_user_s_own_prices_hold(tmp_path: Path) -> None:
    book = tmp_path / "prices.yaml"
    book.write_text("m: {input: 9, output: 9}")
    job = loaded(tmp_path, "  m: {from: 2026-07-01, input: 2, output: 10}\n")
    pricer = Pricer(job.prices, user=read_book(book))
    assert (nanos(pricer, Usage(1), JUNE), nanos(pricer, Usage(1), JULY)) == (9_000, 2_000)


def test_all_mistakes_are_named_at_once_with_their_places(tmp_path: Path) -> None:
    prices = """\
  a: {input: 3, output: x}
  b:
    - {from: 2026-13-01, input: 3, output: 1}
    - {input: 3}
  c: {input: 1, output: 1, above: {many: {input: 1, output: 1}}}
  d: {input: 1, output: 1, above: {1000: {input: -1, output: 1, batch: 1}}}
  e: {from: 2026-07-01, until: 2026-06-01, input: 1, output: 1}
  f: []
  g: cheap
  h: {input: 1, output: 1, until_when: 2026-06-01}
"""
    assert complaints(tmp_path, prices) == [
        'priced.yaml:8:25: prices.a.output: must be a number of at least 0, found "x"',
        'priced.yaml:10:14: prices.b.0.from: must be a date such as 2026-07-01, found "2026-13-01"',
        "priced.yaml:11:7: prices.b.1.output: is missing; write output: 15",
        "priced.yaml:12:36: prices.c.above.many: must be a number of prompt tokens, such as 200000",
        "priced.yaml:13:50: prices.d.above.1000.input: must be a number of at least 0, found -1",
        (
            "priced.yaml:13:65: prices.d.above.1000.batch: unknown key; there is input, output, cache_write, "
            "cache_write_1h, cache_read"
        ),
        "priced.yaml:14:32: prices.e.until: is 2026-06-01, before from, which is 2026-07-01",
        "priced.yaml:15:3: prices.f: must hold at least one set of prices",
        'priced.yaml:16:6: prices.g: must be a mapping, such as {name: value}; found "cheap"',
        "priced.yaml:17:28: prices.h.until_when: unknown key; did you mean until?",
    ]


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        (
            "[{input: 1, output: 1}, {input: 2, output: 2}]",
            "prices.m.1: holds, as item 0 does, for all days; bound them by from and until",
        ),
        (
            "[{from: 2026-07-01, input: 1, output: 1}, {until: 2026-07-01, input: 2, output: 2}]",
            "prices.m.0: holds, as item 1 does, for 2026-07-01; bound them by from and until",
        ),
        (
            "[{until: 2026-07-31, input: 1, output: 1}, {until: 2026-06-30, input: 2, output: 2}]",
            "prices.m.1: holds, as item 0 does, for 2026-06-30; bound them by from and until",
        ),
        (
            "{input: 1, output: 1, above: {1000: {input: 1, output: 1}, 1_000: {input: 2, output: 1}}}",
            "prices.m.above.1_000: is a number of prompt tokens that stands here twice; keep one of them",
        ),
    ],
)
def test_prices_that_contradict_each_other_are_refused(tmp_path: Path, prices: str, words: str) -> None:
    (complaint,) = complaints(tmp_path, f"  m: {prices}\n")
    assert complaint.endswith(words)

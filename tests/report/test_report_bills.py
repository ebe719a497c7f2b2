"""Reconciling with a provider's export: by day and model, with gaps said and a tolerance held."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_month import Row, write_output

from pipeline.cost import Pricer
from pipeline.errors import JobError
from pipeline.records import Usage
from pipeline.report.costs import Comparison, Query, compare, make_report, read_bill, read_outputs
from pipeline.report.costs.bills import plain
from pipeline.report.costs.formats import comparison_text

HEAD = "usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,list_price_usd\n"
ONE = Decimal("0.01")


def line(day: int, model: str, cost: str, kind: str = "input_no_cache") -> str:
    return f"2026-10-{day:02},{model},Default,key,message,≤ 200k,{kind},{cost},{cost}\n"


@pytest.fixture
def ours(tmp_path: Path) -> pl.LazyFrame:
    rows = [
        Row(nanos=3 * 10**9, usage=Usage(900, 100), key="a", completed_at=datetime(2026, 10, 5, 1, tzinfo=UTC)),
        Row(nanos=10**9, usage=Usage(400, 100), key="b", completed_at=datetime(2026, 10, 6, 1, tzinfo=UTC)),
        Row(
            model="anthropic/claude-haiku-4.5",
            nanos=2 * 10**9,
            usage=Usage(40, 10, 30, 0, 20),
            key="c",
            completed_at=datetime(2026, 10, 6, 1, tzinfo=UTC),
        ),
        Row(nanos=9 * 10**9, key="later", completed_at=datetime(2026, 11, 6, 1, tzinfo=UTC)),
    ]
    write_output(tmp_path / "o.parquet", rows, superseded={})
    return make_report(read_outputs([str(tmp_path / "o.parquet")], [], [], rehearsals=False), Query(), Pricer({})).lines


def reconcile(ours: pl.LazyFrame, folder: Path, text: str, kind: str = "anthropic") -> Comparison:
    path = folder / "bill.csv"
    path.write_text(text, encoding="utf-8")
    return compare(ours, read_bill(path, kind), ONE)


def test_a_bill_that_says_the_same_is_within(ours: pl.LazyFrame, tmp_path: Path) -> None:
    text = HEAD + line(5, "Claude Sonnet 5", "2.00") + line(5, "Claude Sonnet 5", "1.00", "output")
    text += line(6, "Claude Sonnet 5", "1.00") + line(6, "Claude Haiku 4.5", "2.00")
    found = reconcile(ours, tmp_path, text)
    assert found.within
    assert [(gap.day, gap.model, gap.gap) for gap in found.gaps] == [
        (date(2026, 10, 5), "claude-sonnet-5", 0),
        (date(2026, 10, 6), "claude-haiku-4-5", 0),
        (date(2026, 10, 6), "claude-sonnet-5", 0),
    ]
    assert found.total.ours == found.total.bill == 6 * 10**9


@pytest.mark.parametrize(("cost", "within"), [("3.03", True), ("2.97", True), ("3.04", False), ("2.96", False)])
def test_a_gap_of_more_than_the_tolerance_is_off(cost: str, within: bool, ours: pl.LazyFrame, tmp_path: Path) -> None:
    text = (
        HEAD + line(5, "claude-sonnet-5", cost) + line(6, "claude-sonnet-5", "1.00") + line(6, "claude-haiku-4-5", "2")
    )
    assert reconcile(ours, tmp_path, text).within is within


def test_gaps_that_cancel_each_other_out_are_still_off(ours: pl.LazyFrame, tmp_path: Path) -> None:
    text = (
        HEAD
        + line(5, "claude-sonnet-5", "2.50")
        + line(6, "claude-sonnet-5", "1.50")
        + line(6, "claude-haiku-4-5", "2")
    )
    found = reconcile(ours, tmp_path, text)
    assert found.total.gap == 0
    assert not found.within


def test_what_only_one_side_has_is_said(ours: pl.LazyFrame, tmp_path: Path) -> None:
    text = HEAD + line(5, "claude-sonnet-5", "3") + line(6, "claude-opus-5", "4")
    found = reconcile(ours, tmp_path, text)
    assert [(gap.model, gap.only, gap.off) for gap in found.gaps] == [
        ("claude-sonnet-5", "", False),
        ("claude-haiku-4-5", "ours", True),
        ("claude-opus-5", "bill", True),
        ("claude-sonnet-5", "ours", True),
    ]


def test_a_model_of_which_no_price_is_known_is_not_taken_for_nothing(tmp_path: Path) -> None:
    at = datetime(2026, 10, 5, 1, tzinfo=UTC)
    rows = [
        Row(nanos=None, model="house-model", usage=Usage(900, 100), key="a", completed_at=at),
        Row(nanos=None, model="house-model", usage=Usage(900, 100), key="b", completed_at=at),
        Row(nanos=10**9, usage=Usage(900, 100), key="c", completed_at=at),
    ]
    path = write_output(tmp_path / "o.parquet", rows)
    lines = make_report(read_outputs([str(path)], [], [], rehearsals=False), Query(), Pricer({})).lines
    found = reconcile(lines, tmp_path, HEAD + line(5, "house-model", "4") + line(5, "claude-sonnet-5", "1"))
    assert [(gap.model, gap.only, gap.unpriced, gap.off) for gap in found.gaps] == [
        ("claude-sonnet-5", "", 0, False),
        ("house-model", "", 2, True),
    ]
    assert found.total_record["unpriced_requests"] == 2
    text = comparison_text(found).splitlines()
    house, total = (next(one for one in text if word in one) for word in ("house-model", "total"))
    assert "≥ 0.0000" in house
    assert "bill" not in house.replace("house-model", "")
    assert "≥ 1.0000" in total

    tokens = "usage_date_utc,model_version,usage_input_tokens_no_cache,usage_output_tokens\n"
    found = reconcile(lines, tmp_path, tokens + "2026-10-05,house-model,1800,200\n2026-10-05,claude-sonnet-5,900,100\n")
    assert found.within
    assert found.total.unpriced == 0


def test_a_gap_that_the_bills_own_rounding_explains_is_none(tmp_path: Path) -> None:
    at = datetime(2026, 10, 5, 1, tzinfo=UTC)
    path = write_output(tmp_path / "o.parquet", [Row(nanos=14_000_000, key="a", completed_at=at)])
    lines = make_report(read_outputs([str(path)], [], [], rehearsals=False), Query(), Pricer({})).lines
    assert reconcile(lines, tmp_path, HEAD + line(5, "claude-sonnet-5", "0.01")).within
    assert not reconcile(lines, tmp_path, HEAD + line(5, "claude-sonnet-5", "0.02")).within
    assert not reconcile(lines, tmp_path, HEAD + line(5, "claude-sonnet-5", "0.0100")).within


def test_a_bill_of_tokens_is_compared_in_tokens(ours: pl.LazyFrame, tmp_path: Path) -> None:
    text = (
        "usage_date_utc,model_version,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,"
        "usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens,web_search_count\n"
        "2026-10-05,claude-sonnet-5,900,0,0,0,100,0\n"
        "2026-10-06,claude-sonnet-5,400,0,0,0,100,0\n"
        "2026-10-06,claude-haiku-4-5-20251001,40,20,10,20,10,0\n"
    )
    found = reconcile(ours, tmp_path, text)
    assert (found.measure, found.total.bill, found.within) == ("tokens", 1600, True)


def test_credits_are_turned_into_usd(ours: pl.LazyFrame, tmp_path: Path) -> None:
    text = "created_at,model,credits_used\n2026-10-05T01:00:00Z,claude-sonnet-5,6000000\n"
    assert reconcile(ours, tmp_path, text, "aimlapi").within


@pytest.mark.parametrize(
    ("decimal", "amount", "words"),
    [
        *((None, amount, r"expected a number such as 1,234\.56") for amount in ("0,0257", "3,00", "n/a", "12 USD")),
        (None, "1.234,56", r"""expected a number such as 1,234\.56; decimal: "," in the mapping reads 1\.234,56$"""),
        # a thousand times more to one reader than to the other
        (None, "1,234", r"""which may be 1234 or 1\.234; say which in the mapping: decimal: "\." or decimal: ",\""""),
        *((".", amount, r"expected a number such as 1,234\.56$") for amount in ("0,0257", "3,00", "1.234,56")),
        *(
            (",", amount, r"expected a number such as 1\.234,56$")
            for amount in ("0.0257", "3.00", "1,234.56", "1.23.456")
        ),
    ],
)
def test_an_amount_that_could_mean_another_number_is_refused(
    decimal: str | None, amount: str, words: str, ours: pl.LazyFrame, tmp_path: Path
) -> None:
    mapping = tmp_path / "mapping.yaml"
    said = "" if decimal is None else f"decimal: '{decimal}'\n"
    mapping.write_text(f"date: day\nmodel: model\ncost: usd\n{said}")
    text = f'day,model,usd\n2026-10-05,claude-sonnet-5,"{amount}"\n'
    with pytest.raises(JobError, match=words) as error:
        reconcile(ours, tmp_path, text, str(mapping))
    assert "bill.csv:2: column 3 (usd): the amount is" in str(error.value)


@pytest.mark.parametrize(("amount", "nanos"), [("1,234.5", 1_234_500_000_000), ("$.25", 250_000_000), ("", 0)])
def test_amounts_may_have_commas_between_thousands(amount: str, nanos: int, ours: pl.LazyFrame, tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("{date: day, model: model, cost: usd}")
    text = f'day,model,usd\n2026-10-05,claude-sonnet-5,"{amount}"\n'
    assert reconcile(ours, tmp_path, text, str(mapping)).total.bill == nanos


@pytest.mark.parametrize(
    ("decimal", "amount", "nanos"),
    [
        (",", "1.234,56", 1_234_560_000_000),
        (",", "1234,56", 1_234_560_000_000),
        (",", "0,0257", 25_700_000),
        (",", "1,234", 1_234_000_000),
        (",", "1.234.567", 1_234_567 * 10**9),
        (",", "1\u202f234,5 $", 1_234_500_000_000),
        (",", "-3,50", -3_500_000_000),
        (".", "1,234", 1_234 * 10**9),
        (".", "1.234", 1_234_000_000),
    ],
)
def test_a_bill_says_what_stands_before_its_decimals(
    decimal: str, amount: str, nanos: int, ours: pl.LazyFrame, tmp_path: Path
) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(f"date: day\nmodel: model\ncost: usd\ndecimal: '{decimal}'\n")
    text = f'day,model,usd\n2026-10-05,claude-sonnet-5,"{amount}"\n'
    assert reconcile(ours, tmp_path, text, str(mapping)).total.bill == nanos


@given(st.decimals(-(10**7), 10**7, places=4), st.sampled_from(".,"))
def test_an_amount_reads_as_it_was_written_in_either_way_or_not_at_all(amount: Decimal, decimal: str) -> None:
    written = f"{amount:,}"
    swapped = written.translate(str.maketrans(",.", ".,"))
    assert Decimal(plain(written if decimal == "." else swapped, decimal)) == amount
    # read by the other way's rules it is refused, not another number
    with pytest.raises(ValueError, match="the amount is"):
        plain(swapped if decimal == "." else f"{abs(amount) + 1000:,}", decimal)


def test_a_bill_of_another_country_is_read_as_its_mapping_says(ours: pl.LazyFrame, tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text(
        "{date: Tag, model: Modell, cost: Betrag, unit: cents, separator: ;, decimal: ',', date_format: '%d.%m.%Y'}"
    )
    lines = ["05.10.2026;claude-sonnet-5;300,00", "06.10.2026;claude-sonnet-5;100", "06.10.2026;claude-haiku-4-5;200,0"]
    found = reconcile(ours, tmp_path, "\n".join(["Tag;Modell;Betrag", *lines, ""]), str(mapping))
    assert (found.within, found.total.bill) == (True, 6 * 10**9)
    with pytest.raises(JobError, match=r"bill\.csv:2: column 1 \(Tag\): the day is '2026-10-05', date_format is '%d"):
        reconcile(ours, tmp_path, "Tag;Modell;Betrag\n2026-10-05;m;1\n", str(mapping))


def test_times_of_a_zone_are_days_in_utc(ours: pl.LazyFrame, tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("{date: t, model: m, cost: usd, separator: tab, date_format: '%d.%m.%Y %H:%M %z'}")
    found = reconcile(ours, tmp_path, "t\tm\tusd\n06.10.2026 01:30 +0200\tclaude-sonnet-5\t3.00\n", str(mapping))
    assert [gap.day for gap in found.gaps] == [date(2026, 10, 5)]


def test_columns_of_any_bill_are_named_in_a_mapping(ours: pl.LazyFrame, tmp_path: Path) -> None:
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("{date: Tag, model: Modell, cost: Betrag, unit: cents}")
    text = 'Tag,Modell,Betrag\n2026-10-05,claude-sonnet-5,"300.00"\n'
    assert reconcile(ours, tmp_path, text, str(mapping)).within


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        (
            "a,b\n1,2\n",
            "anthropic",
            "no anthropic bill: needs columns usage_date_utc, model or model_version, cost_usd",
        ),
        ("", "anthropic", "it has none"),
        (HEAD, "anthropic", "the bill has no line"),
        (
            HEAD + line(5, "m", "much"),
            "anthropic",
            "bill.csv:2: column 8 (cost_usd): the amount is 'much', expected a num",
        ),
        (HEAD + "soon,m,,,,,,1,1\n", "anthropic", "bill.csv:2: column 1 (usage_date_utc): the day is 'soon', expected"),
        (HEAD.replace(",", ";"), "anthropic", """separated by ';': write separator: ";" in --bill FILE.yaml"""),
        (HEAD, "nothing.yaml", "--bill takes anthropic, aimlapi or a YAML file"),
    ],
)
def test_a_bill_that_cannot_be_read_is_said(
    text: str, kind: str, words: str, ours: pl.LazyFrame, tmp_path: Path
) -> None:
    with pytest.raises(JobError) as error:
        reconcile(ours, tmp_path, text, kind)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ("{date: a}", "a mapping holds the names of the bill's columns"),
        ("{date: a, model: b, price: c}", "a mapping holds the names of the bill's columns"),
        ("{date: a, model: b}", "names either cost or tokens"),
        ("{date: a, model: b, cost: c, tokens: d}", "names either cost or tokens"),
        ("{date: a, model: b, cost: c, unit: euro}", "found 'euro'"),
        ("{date: a, model: b, cost: c, unit: 0}", "found 0"),
        ("{", "not YAML"),
        ("{date: a, model: b, cost: c, separator: ''}", "separator is one character, such as ';', or tab; found ''"),
        ("{date: a, model: b, cost: c, separator: x}", "found 'x'"),
        ("{date: a, model: b, cost: c, decimal: ;}", "decimal is '.' or ','; found ';'"),
        ("{date: a, model: b, cost: c, date_format: '%d.%m.'}", "names day, month and year, such as '%d.%m.%Y'"),
        ("{date: a, model: b, cost: c, date_format: 5}", "found 5"),
    ],
)
def test_a_mapping_that_is_broken_is_said(mapping: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text(mapping)
    (tmp_path / "bill.csv").write_text("a,b,c\n")
    with pytest.raises(JobError) as error:
        read_bill(tmp_path / "bill.csv", str(path))
    assert words in str(error.value)

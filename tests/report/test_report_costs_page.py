"""The cost page: one file that fetches nothing and runs nothing, with its data as tables."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_month import Month, Row, make_month, write_output

from pipeline.cost import Pricer, usd_text
from pipeline.records import Usage
from pipeline.report.costs import Query, make_report, read_outputs
from pipeline.report.costs.page import page

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><script>alert(2)</script>",
    "</svg><img src=x onerror=alert(3)>",
    '" onload="alert(4)',
    "{{ 7 * 7 }}<% x %>",
    "&lt;b&gt;",
]


class Seen(HTMLParser):
    """What a browser would find in a page: its elements, their attributes and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.cells.append(data.strip())


def costs_page(
    *paths: Path, by: str = "day,job,model", now: date = date(2026, 11, 22), month: float | None = None
) -> str:
    query = Query(tuple(by.split(",")))
    lines = read_outputs([str(path) for path in paths], query.columns, query.tags, rehearsals=False)
    return page(make_report(lines, query, Pricer({})), now=now, month_usd=month)


@pytest.fixture(scope="module")
def month(tmp_path_factory: pytest.TempPathFactory) -> Month:
    return make_month(tmp_path_factory.mktemp("month"), nights=30, rows=12)


def test_the_page_fetches_nothing_and_has_no_script(month: Month) -> None:
    text = costs_page(month.folder)
    seen = Seen(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(seen.tags)
    for name, value in seen.attributes:
        assert not name.startswith("on"), name
        if name in {"src", "href", "xlink:href", "action", "data"}:
            pytest.fail(f"{name}={value}")
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")
    assert "default-src 'none'" in text
    assert len(text) < 1_000_000


def test_the_page_carries_its_data_as_tables(month: Month) -> None:
    seen = Seen(costs_page(month.folder))
    query = Query(("day", "job", "model"))
    report = make_report(read_outputs([str(month.folder)], [], [], rehearsals=False), query, Pricer({}))
    assert f"{report.total.cost_nanos / 1e9:,.4f}" in seen.cells
    assert usd_text(report.total.cost_nanos) in seen.cells
    for _, sums in report.groups:
        assert f"{sums.cost_nanos / 1e9:,.4f}" in seen.cells
    assert seen.tags.count("svg") == 6
    for heading in ("Spend per day", "The month, October 2026", "Tokens by kind", "Most expensive rows"):
        assert heading in seen.cells


def test_text_of_others_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    for nth, text in enumerate(HOSTILE):
        at = datetime(2026, 11, 20, tzinfo=UTC)
        row = Row(model=text, usage=Usage(5_000, 100), nanos=10**9, key=text, completed_at=at, values={"region": text})
        write_output(tmp_path / f"{nth}.parquet", [row], job=text, run=text + str(nth), tags={"team": text})
    for by in ("day,job,model", "region,tag.team,run"):
        text = costs_page(tmp_path, by=by)
        seen = Seen(text)
        assert "script" not in seen.tags
        assert "img" not in seen.tags
        assert not [name for name, _ in seen.attributes if name.startswith("on")]
        for hostile in HOSTILE:
            assert hostile in seen.cells
        assert seen.tags.count("style") == 1


def test_this_months_spend_goes_on_to_the_end_of_the_month(tmp_path: Path) -> None:
    first = datetime(2026, 11, 1, 12, tzinfo=UTC)
    for day in range(10):
        at = first + timedelta(days=day)
        write_output(tmp_path / f"{day}.parquet", [Row(nanos=2 * 10**9, key="a", completed_at=at)], run=f"n@{day}")
    text = costs_page(tmp_path, now=date(2026, 11, 10), month=50.0)
    assert "Month to date" in text
    assert "$20.00 of a budget of $50.00 in November 2026 up to 2026-11-10." in text
    assert "At the mean of the last 10 days it comes to about $60.00, more than the budget." in text
    assert "more than the budget" not in costs_page(tmp_path, now=date(2026, 11, 10), month=70.0)


def test_the_budget_is_what_the_jobs_of_the_month_state_together(tmp_path: Path) -> None:
    def night(job: str, budget: str | None, at: datetime) -> None:
        row = Row(nanos=2 * 10**9, key=job, completed_at=at)
        facts = {} if budget is None else {"month_usd": budget}
        write_output(tmp_path / f"{job}-{at:%m%d}.parquet", [row], job=job, run=f"{job}@{at}", facts=facts)

    november = datetime(2026, 11, 20, tzinfo=UTC)
    night("a", "40", datetime(2026, 11, 1, tzinfo=UTC))
    night("a", "50", november)
    night("b", "25.5", november)
    night("c", None, datetime(2026, 10, 20, tzinfo=UTC))
    assert "$6.0000 of a budget of $75.50 in November 2026" in costs_page(tmp_path)
    assert "of a budget of $9.00" in costs_page(tmp_path, month=9.0)
    night("c", None, november)
    assert "of a budget" not in costs_page(tmp_path)


def test_a_month_that_is_over_has_no_forecast(month: Month) -> None:
    text = costs_page(month.folder, now=date(2026, 11, 2))
    assert "The month, October 2026" in text
    assert "it comes to about" not in text


def test_many_series_are_drawn_as_others_and_listed_by_name(tmp_path: Path) -> None:
    for nth in range(12):
        row = Row(nanos=(nth + 1) * 10**9, key="a", completed_at=datetime(2026, 11, 20, tzinfo=UTC))
        write_output(tmp_path / f"{nth}.parquet", [row], job=f"job-{nth:02}", run=f"r{nth}")
    seen = Seen(costs_page(tmp_path))
    assert "others" in seen.cells
    assert {f"job-{nth:02}" for nth in range(12)} <= set(seen.cells)


def test_totals_without_all_prices_are_lower_bounds(tmp_path: Path) -> None:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    rows = [Row(nanos=None, key="a", completed_at=at), Row(nanos=3 * 10**9, key="b", completed_at=at)]
    text = costs_page(write_output(tmp_path / "o.parquet", rows))
    assert "≥\u00a0$3.0000" in text
    assert "≥ 3.0000" in text


def test_a_page_of_nothing_is_a_page(tmp_path: Path) -> None:
    text = costs_page(write_output(tmp_path / "o.parquet", []))
    assert "no day with an answer" in text
    assert "svg" not in Seen(text).tags


def test_the_chart_over_days_shows_what_was_asked_for(tmp_path: Path) -> None:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    for nth, (team, shift) in enumerate([("red", "day"), ("red", "night"), ("blue", "day")]):
        row = Row(nanos=(nth + 1) * 10**9, key=str(nth), completed_at=at, values={"shift": shift})
        write_output(tmp_path / f"{nth}.parquet", [row], job="nightly", run=f"n{nth}", tags={"team": team})
    for by, word, series in (
        ("tag.team", "tag.team", ["blue", "red"]),
        ("day,shift,tag.team", "shift", ["day", "night"]),
        # every row has the same: the next key tells more
        ("status,tag.team", "tag.team", ["blue", "red"]),
        ("status", "status", ["ok"]),
    ):
        cells = Seen(costs_page(tmp_path, by=by)).cells
        assert f"USD by {word}, superseded spend included. The most on a day: $6.0000 on 2026-11-20." in cells
        assert "|".join(["day", *series, "total"]) in "|".join(cells)


def test_the_most_expensive_rows_are_named_as_their_job_names_them(tmp_path: Path) -> None:
    at = datetime(2026, 11, 20, tzinfo=UTC)
    values = [{"ticket": "T-17", "part": "1"}, {"ticket": "T-18", "part": "2"}]
    rows = [Row(nanos=nth * 10**9, key=f"k{nth}", completed_at=at, values=values[nth - 1]) for nth in (1, 2)]
    path = write_output(tmp_path / "o.parquet", rows, facts={"named_by": '["ticket"]'})
    assert {"T-17", "T-18"} <= set(Seen(costs_page(path)).cells)
    write_output(path, rows, facts={"named_by": '["ticket", "part"]'})
    assert {"ticket=T-17, part=1", "ticket=T-18, part=2"} <= set(Seen(costs_page(path)).cells)
    # an output that does not say, or did not keep them all
    for facts in ({"named_by": ""}, {"named_by": '["ticket", "gone"]'}, {"named_by": "["}):
        write_output(path, rows, facts=facts)
        assert {"o.parquet, row 1", "o.parquet, row 2"} <= set(Seen(costs_page(path)).cells)


def test_one_day_of_spend_goes_on_at_its_pace(tmp_path: Path) -> None:
    row = Row(nanos=2 * 10**9, key="a", completed_at=datetime(2026, 11, 10, tzinfo=UTC))
    write_output(tmp_path / "o.parquet", [row])
    text = " ".join(Seen(costs_page(tmp_path, now=date(2026, 11, 10), month=0.05)).cells)
    assert "$2.0000 of a budget of $0.0500 in November 2026 up to 2026-11-10." in text
    assert "At the last day's pace it comes to about $42.00, more than the budget." in text


def test_a_page_of_rows_without_any_price_says_unknown(tmp_path: Path) -> None:
    row = Row(nanos=None, priced_by=None, key="a", completed_at=datetime(2026, 11, 10, tzinfo=UTC))
    write_output(tmp_path / "o.parquet", [row])
    cells = Seen(costs_page(tmp_path)).cells
    assert cells[cells.index("spent") + 1] == "unknown"
    assert "≥\u00a0$0" not in cells

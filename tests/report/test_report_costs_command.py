"""`pipeline costs` and `pipeline prices`: options, formats and exit codes."""

from __future__ import annotations

import io
import json
from contextlib import chdir
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from report_month import Row, write_output

from pipeline.cli.costs import costs_command, prices_command
from pipeline.errors import JobError
from pipeline.records import Usage
from pipeline.report.costs.report import COLUMNS

AT = datetime(2026, 10, 5, 1, tzinfo=UTC)


def costs(*arguments: object) -> Result:
    return CliRunner().invoke(costs_command, [str(each) for each in arguments], standalone_mode=False)


def words(result: Result) -> str:
    assert isinstance(result.exception, JobError), result.exception
    assert result.exception.exit_code == 2
    return str(result.exception)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    rows = [
        Row(nanos=1_500_000_000, usage=Usage(1_234_567, 89), key="a", completed_at=AT, values={"region": "=cmd()"}),
        Row(nanos=None, key="b", completed_at=AT, values={"region": "\x1b[31mred"}),
    ]
    write_output(tmp_path / "out" / "o.parquet", rows)
    return tmp_path / "out"


def test_the_table_has_aligned_figures_a_total_and_a_lower_bound(out: Path) -> None:
    result = costs(out)
    lines = result.stdout.splitlines()
    assert len({len(line) for line in lines[2:]}) == 1
    assert lines[-1].startswith("total")
    assert "≥ 1.5000" in lines[-1]
    assert "1,234,567" in lines[-1]
    assert "1 output of 1 run; all days" in result.stderr
    assert "requests without a known price: 1" in result.stderr


def test_a_terminal_is_shown_no_escapes_of_others(out: Path) -> None:
    assert "\x1b" not in costs(out, "--by", "region").stdout
    assert "\\x1b[31mred" in costs(out, "--by", "region").stdout


def test_csv_has_the_keys_then_the_columns_and_no_total(out: Path) -> None:
    found = pl.read_csv(io.StringIO(costs(out, "--by", "day,job", "--format", "csv").stdout))
    assert found.columns == ["day", "job", *COLUMNS]
    assert found["cost_usd"].to_list() == [1.5]
    assert len(found) == 1


def test_csv_runs_no_formula_in_a_spreadsheet(out: Path) -> None:
    assert "'=cmd()" in costs(out, "--by", "region", "--format", "csv").stdout


def test_json_has_groups_total_and_notes(out: Path) -> None:
    found = json.loads(costs(out, "--by", "day,model", "--format", "json").stdout)
    assert list(found["groups"][0]) == ["day", "model", *COLUMNS]
    assert found["groups"][0]["day"] == "2026-10-05"
    assert found["total"]["cost_usd"] == 1.5
    assert found["total"]["unpriced_requests"] == 1
    assert len(found["notes"]) == 1


@pytest.mark.parametrize(("name", "start"), [("c.html", b"<!doctype html>"), ("c.parquet", b"PAR1"), ("c.json", b"{")])
def test_the_suffix_of_the_file_says_the_format(name: str, start: bytes, out: Path, tmp_path: Path) -> None:
    result = costs(out, "-o", tmp_path / "deep" / name)
    assert result.stdout == ""
    assert (tmp_path / "deep" / name).read_bytes().startswith(start)
    assert f"wrote {tmp_path / 'deep' / name}" in result.stderr


def test_parquet_keeps_the_types_of_its_keys(out: Path, tmp_path: Path) -> None:
    costs(out, "--by", "day,run_date,job", "-o", tmp_path / "c.parquet")
    found = pl.read_parquet(tmp_path / "c.parquet")
    types = [found.schema[name].base_type() for name in ("day", "run_date", "cost_usd")]
    assert types == [pl.Date, pl.Date, pl.Float64]
    assert found["day"].to_list() == [date(2026, 10, 5)]


def test_a_month_and_an_inclusive_range_select_days(out: Path) -> None:
    def rows(*arguments: str) -> int:
        found = json.loads(costs(out, "--format", "json", *arguments).stdout)["total"]["rows"]
        assert isinstance(found, int)
        return found

    assert rows("--month", "2026-10") == 2
    assert rows("--month", "2026-11") == 0
    assert rows("--since", "2026-10-05", "--until", "2026-10-05") == 2
    assert rows("--since", "2026-10-06") == 0
    assert rows("--until", "2026-10-04") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--month", "2026-10", "--since", "2026-10-01"], "stand instead of --since and --until"),
        (["--month", "2026-10", "--last-month"], "exclude each other"),
        (["--since", "2026-10-02", "--until", "2026-10-01"], "is before --since"),
        (["--by", "nothing"], "no output has such a column"),
        (["--prices", "x.yaml"], "--prices is for --reprice"),
        (["--reprice", "--prices", "nowhere.yaml"], "cannot read the price file"),
        (["--reconcile", "nowhere.csv"], "cannot read the bill"),
    ],
)
def test_what_cannot_be_asked_is_said(arguments: list[str], said: str, out: Path) -> None:
    assert said in words(costs(out, *arguments))


def test_repricing_takes_a_file_and_says_what_it_was(out: Path, tmp_path: Path) -> None:
    (tmp_path / "offer.yaml").write_text("claude-sonnet-5: {input: 1, output: 0}")
    result = costs(out, "--reprice", "--prices", tmp_path / "offer.yaml", "--format", "json")
    assert json.loads(result.stdout)["total"]["cost_usd"] == 1.234567
    assert "repriced: ≥ $1.5000 as it was billed" in json.loads(result.stdout)["notes"][0]


@pytest.mark.parametrize(
    ("amount", "tolerance", "code"), [("1.50", "1%", 0), ("1.50", "0", 0), ("1.60", "1%", 3), ("1.60", "0.07", 0)]
)
def test_reconciling_exits_3_beyond_the_tolerance(
    amount: str, tolerance: str, code: int, out: Path, tmp_path: Path
) -> None:
    bill = tmp_path / "bill.csv"
    bill.write_text(f"usage_date_utc,model,cost_usd\n2026-10-05,Claude Sonnet 5,{amount}\n")
    result = costs(out, "--reconcile", bill, "--tolerance", tolerance)
    assert result.return_value == code
    assert result.stdout.splitlines()[-1].startswith("total")
    found = json.loads(costs(out, "--reconcile", bill, "--tolerance", tolerance, "--format", "json").stdout)
    assert found["within"] is (code == 0)
    assert (found["total"]["ours_usd"], found["total"]["bill_usd"]) == (1.5, float(amount))


def test_a_journal_has_no_input_columns_to_group_by(tmp_path: Path) -> None:
    with chdir(tmp_path):
        assert "journals hold no input columns" in words(costs("--by", "region"))
        assert "--by recipe: journals do not hold it" in words(costs("--by", "recipe"))
        assert "no journal" in words(costs())


def prices(home: Path, *arguments: str) -> Result:
    environ = {"HOME": str(home), "XDG_CONFIG_HOME": ""}
    return CliRunner().invoke(prices_command, list(arguments), env=environ, standalone_mode=False)


def test_prices_says_what_would_be_applied_and_from_where(tmp_path: Path) -> None:
    shown = prices(tmp_path, "anthropic/claude-haiku-5.5").stdout
    assert "from genai-prices" in shown
    assert "input 0.1  output 0.5  cache write 5m 0.125  cache write 1h 0.2  cache read 0.01" in shown
    assert "prompt over 100,000: input 0.5" in shown


def test_prices_takes_the_users_file_and_its_days(tmp_path: Path) -> None:
    path = tmp_path / ".config/messages-pipeline/prices.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("claude-sonnet-5: {input: 7, output: 8, until: 2026-06-30}")
    assert "input 7  output 8" in prices(tmp_path, "claude-sonnet-5", "--date", "2026-06-30").stdout
    assert "prices.yaml#" in prices(tmp_path, "claude-sonnet-5", "--date", "2026-06-30").stdout
    assert "input 2  output 10" in prices(tmp_path, "claude-sonnet-5", "--date", "2026-07-01").stdout


def test_prices_of_an_unknown_model_says_where_to_state_them(tmp_path: Path) -> None:
    result = prices(tmp_path, "claude-sonnet-5", "nobody/nothing")
    assert "no price is known for nobody/nothing" in words(result)
    assert str(tmp_path / ".config/messages-pipeline/prices.yaml") in words(result)
    assert "claude-sonnet-5: USD per million" in result.stdout

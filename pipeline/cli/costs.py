"""`costs` and `prices`: what was paid, and what would be."""

from __future__ import annotations

import os
import sys
from calendar import monthrange
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.main import say
from pipeline.cli.options import RunDate
from pipeline.errors import JobError, StorageError

if TYPE_CHECKING:
    from pipeline.cost import Pricer, Quote
    from pipeline.report.costs import Query, Report
    from pipeline.run.plan import Plan

FORMATS = ("table", "csv", "parquet", "json", "html")
SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".json": "json", ".html": "html", ".htm": "html", ".txt": "table"}
KEYS = "day, week, month, run_date, job, model, endpoint, status, run, recipe, tag.NAME, or any input column"
BEYOND_TOLERANCE = 3


class Month(click.ParamType[date]):
    """A month as its first day."""

    name = "month"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Read YYYY-MM."""
        if isinstance(value, date):
            return value
        try:
            return datetime.strptime(str(value), "%Y-%m").date()  # noqa: DTZ007 - a month has no zone
        except ValueError:
            self.fail(f"{value!r} is not a month such as 2026-10", param, ctx)


class Tolerance(click.ParamType[Decimal]):
    """A share, as 1% or 0.01."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """Read ``1%`` or ``0.01``."""
        if isinstance(value, Decimal):
            return value
        text = str(value).strip()
        try:
            share = Decimal(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
        except ArithmeticError:
            share = Decimal(-1)
        if not share.is_finite() or not 0 <= share < 1:
            self.fail(f"{value!r} is not a share such as 1% or 0.01", param, ctx)
        return share


@click.command("costs")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--by", metavar="KEY,...", default="job,model", show_default=True, help=f"Group by: {KEYS}.")
@click.option("--since", type=RunDate(), help="From this UTC day on, by completed_at.")
@click.option("--until", type=RunDate(), help="Up to this UTC day, included.")
@click.option("--month", type=Month(), help="A calendar month, UTC.")
@click.option("--last-month", is_flag=True, help="The calendar month before this one, UTC.")
@click.option("--rehearsals", is_flag=True, help="Count embedded, simulator and local endpoints too.")
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: table, or by the suffix of --output.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write here instead of stdout; the suffix says the format.",
)
@click.option(
    "--month-usd",
    type=click.FloatRange(min=0, min_open=True),
    help="A month's budget, drawn on the page; default: what the jobs' budget.month_usd come to.",
)
@click.option("--reprice", is_flag=True, help="Compute every cost anew at today's price table and prices.yaml.")
@click.option("--prices", "price_file", type=click.Path(path_type=Path), help="A price file instead of prices.yaml.")
@click.option("--reconcile", type=click.Path(path_type=Path), metavar="BILL.csv", help="Compare with a usage export.")
@click.option(
    "--bill", default="anthropic", show_default=True, metavar="KIND", help="anthropic, aimlapi, or FILE.yaml."
)
@click.option("--tolerance", type=Tolerance(), default="1%", show_default=True, help="Gap that is let pass.")
def costs_command(
    paths: tuple[str, ...],
    by: str,
    since: date | None,
    until: date | None,
    month: date | None,
    *,
    last_month: bool,
    rehearsals: bool,
    form: str | None,
    output: Path | None,
    month_usd: float | None,
    reprice: bool,
    price_file: Path | None,
    reconcile: Path | None,
    bill: str,
    tolerance: Decimal,
) -> int:
    """Report what was paid: by the usage columns of outputs (files, globs, directories), or by the journals here.

    Without PATH every journal under this directory is read; journals also know what was paid for answers that no
    output holds any more. A row that stands in two files of its run counts once. Sends and changes nothing.

    \b
    Examples:
      pipeline costs out/                                       by job and model
      pipeline costs out/ --by month,tag.team --last-month
      pipeline costs "out/**/*.parquet" --by day,job --since 2026-11-01 --until 2026-11-15
      pipeline costs out/ --by day,model -o costs.html          a page with plots, in one file
      pipeline costs out/ --month 2026-10 --reconcile bill.csv  exit 3 where it differs by more than --tolerance
      pipeline costs out/ --reprice --prices offer.yaml         what it would have cost
    """
    from pipeline.report.costs import Query, compare, make_report, read_bill, write_report
    from pipeline.report.costs.formats import write_comparison

    if price_file is not None and not reprice:
        raise JobError("--prices is for --reprice; prices of a run stand in its job or in prices.yaml")
    now = datetime.now(UTC).date()
    first, last = _days(now, since, until, month, last_month=last_month)
    query = Query(tuple(dict.fromkeys(key.strip() for key in by.split(",") if key.strip())), first, last)
    form = form or _form(output)
    lines = _lines(paths, query, rehearsals=rehearsals)
    report = make_report(lines, query, _pricer(price_file), reprice=reprice)
    if reconcile is not None:
        if form == "html":
            raise JobError("--reconcile writes table, csv, parquet or json, not html")
        comparison = compare(report.lines, read_bill(reconcile, bill), tolerance)
        _write(write_comparison(comparison, form), output, form)
        _tell(report)
        if comparison.within:
            return 0
        say(f"the bill and ours differ by more than {tolerance * 100:f} % where it says off")
        return BEYOND_TOLERANCE
    _write(write_report(report, form, now=now, month_usd=month_usd), output, form)
    if form in ("table", "csv", "parquet") or output is not None:
        _tell(report)
    return 0


@click.command("prices")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--date", "day", type=RunDate(), help="As of this UTC day; default: today.")
@click.option("--job", type=click.Path(path_type=Path), help="Take this job's own prices in.")
def prices_command(models: tuple[str, ...], day: date | None, job: Path | None) -> int:
    """Show what would be charged for MODEL, in USD per million tokens, and where that price comes from.

    A job's own `prices:` go first, then the user's prices.yaml (see docs/costs.md), then the built-in table, which is
    part of the installed program: nothing is fetched.

    \b
    Examples:
      pipeline prices claude-sonnet-5 claude-haiku-5-5
      pipeline prices anthropic/claude-sonnet-4.5 --date 2026-03-01
      pipeline prices my-model --job configs/nightly.yaml
    """
    from genai_prices import __version__ as table_version

    from pipeline.cost import Pricer, user_book, user_file
    from pipeline.job import Overrides
    from pipeline.report.costs.formats import clean

    overrides: dict[str, Any] = {}
    if job is not None:
        from pipeline.cli.options import load_job

        overrides = dict(load_job(job, Overrides()).prices)
    pricer = Pricer(overrides, user=user_book(os.environ))
    at = datetime.combine(day, time(12), UTC) if day else datetime.now(UTC)
    unknown = []
    for model in models:
        quote = pricer.quote(answered=model, asked=model, at=at)
        if quote is None:
            unknown.append(model)
        else:
            print(_quote_text(clean(model), quote))
    if unknown:
        raise JobError(
            *(
                f"no price is known for {model}; state it in the job's prices: or in {user_file(os.environ)} "
                f"(the built-in table is genai-prices {table_version}; a newer program knows newer models)"
                for model in unknown
            )
        )
    return 0


def _days(
    now: date, since: date | None, until: date | None, month: date | None, *, last_month: bool
) -> tuple[date | None, date | None]:
    if last_month:
        if month is not None:
            raise JobError("--month and --last-month exclude each other")
        month = (now.replace(day=1) - timedelta(days=1)).replace(day=1)
    if month is not None:
        if since is not None or until is not None:
            raise JobError("--month and --last-month stand instead of --since and --until")
        return month, month.replace(day=monthrange(month.year, month.month)[1])
    if since is not None and until is not None and until < since:
        raise JobError(f"--until {until} is before --since {since}")
    return since, until


def _form(output: Path | None) -> str:
    """The format that a file's suffix names; a table where there is no suffix."""
    suffix = "" if output is None else output.suffix.lower()
    if suffix and suffix not in SUFFIXES:
        raise JobError(
            f"--output {output}: no format ends in {suffix}; write one of {', '.join(SUFFIXES)}, "
            f"or say --format {'|'.join(FORMATS)}"
        )
    return SUFFIXES.get(suffix, "table")


def _lines(paths: tuple[str, ...], query: Query, *, rehearsals: bool) -> Any:
    from pipeline.report.costs import read_journals, read_outputs, tags_of
    from pipeline.report.costs.lines import TAG

    if paths:
        return read_outputs(paths, query.columns, query.tags, rehearsals=rehearsals)
    if query.columns:
        column = query.columns[0]
        if column in tags_of(Path()):
            raise JobError(f"--by {column}: is a tag of the jobs here; write --by {TAG}{column}")
        raise JobError(f"--by {column}: journals hold no input columns; name outputs, or group by {KEYS}")
    if "recipe" in query.by:
        raise JobError("--by recipe: journals do not hold it; name outputs, such as: pipeline costs out/ --by recipe")
    return read_journals(Path(), query.tags, rehearsals=rehearsals, wanted=_wanted, named=_named)


def _planned(journal: Path, plan: str | None) -> Plan | None:
    """What a run planned; None where that is a trial's or gone."""
    from pipeline.run.plan import Plan

    return None if plan is None or ".first-" in plan else Plan.load(journal.parent / plan)


def _wanted(journal: Path, plan: str | None) -> Iterable[bytes] | None:
    """The keys that a run's plan names; None where the plan is a trial's or gone."""
    found = _planned(journal, plan)
    if found is None:
        return None
    return (key for batch in found.read(prompts=False) for key in batch.keys if key is not None)


def _named(journal: Path, plan: str | None) -> Iterable[tuple[bytes, str]]:
    """The keys that a run's plan names, each with the id of its row."""
    found = _planned(journal, plan)
    batches = () if found is None else found.read(prompts=False)
    return (
        (key, name) for batch in batches for key, name in zip(batch.keys, batch.row_ids, strict=True) if key is not None
    )


def _pricer(price_file: Path | None) -> Pricer:
    from pipeline.cost import Pricer, read_book, user_book

    return Pricer({}, user=user_book(os.environ) if price_file is None else read_book(price_file))


def _write(data: bytes, output: Path | None, form: str) -> None:
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(data)
        except OSError as error:
            raise StorageError(f"{output}: the report could not be written there: {error.strerror}") from error
        say(f"wrote {output}")
        return
    if form == "parquet" and sys.stdout.isatty():
        raise JobError("Parquet is nothing for a terminal; name a file: -o costs.parquet")
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def _tell(report: Report) -> None:
    """Say on stderr what the report was made of, and what its reader must know."""
    query = report.query
    days = f"{query.since or '…'} to {query.until or '…'}, UTC" if query.since or query.until else "all days"
    say(f"{report.source}; {days}")
    for note in report.notes:
        say(f"note: {note}")


def _quote_text(model: str, quote: Quote) -> str:
    heads = ("input", "output", "cache write 5m", "cache write 1h", "cache read")
    bands = [("", quote.bands.base), *((f"prompt over {bound:,}", rates) for bound, rates in quote.bands.above)]
    lines = [f"{model}: USD per million tokens, from {quote.source} ({quote.priced_by})"]
    for words, rates in bands:
        per_token = (rates.input, rates.output, rates.write_5m, rates.write_1h, rates.read)
        prices = (Decimal(price) / rates.scale / 1000 for price in per_token)
        shown = "  ".join(f"{name} {price.normalize():f}" for name, price in zip(heads, prices, strict=True))
        lines.append("  " + (f"{words}: " if words else "") + shown)
    return "\n".join(lines)

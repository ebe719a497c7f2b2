"""The report of a run as a page: which sections it has, in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline import __version__
from pipeline.cost import usd_text
from pipeline.report.page import Figure, Tile, render
from pipeline.report.page.charts import STEPS
from pipeline.report.page.text import line
from pipeline.report.run import asked, money, pace, rows, sheet, trouble
from pipeline.report.run.figures import duration, many, millis, percentiles, share
from pipeline.report.run.ledger import keys_of, ledger
from pipeline.report.run.told import Told
from pipeline.report.run.view import View

SECTIONS: Sequence[Callable[[View], Figure | None]] = (
    rows.outcome,
    asked.asked,
    money.spend,
    pace.throughput,
    pace.latency,
    trouble.trouble,
    rows.fallen,
    sheet.sheet,
    rows.answers,
    asked.starts,
)
"""Each gives its part of the page, or None where there is nothing to say."""


def run_page(journal: Path, told: Told, *, now: datetime) -> str:
    """Give the report of a run as one HTML file.

    The plan's rows are walked once; attempts and rows are added up in scratch tables on disk, so that memory does not
    grow with the run.

    Args:
        journal: the journal that the run stands in; it is not changed.
        told: what was asked, the plan's rows and how answers are read.
        now: the present, UTC.

    Raises:
        StorageError: plan or journal cannot be read.
    """
    with ledger(journal, told.asked.run) as sums:
        picked = sums.take(told.stretches, rows.WANTED)
        answers = told.read(keys_of(each for found in picked.values() for each in found))
        view = View(told.asked, sums, picked, answers, sums.clock(STEPS), told.read, told.pictured, told.inputs)
        figures = [section(view) for section in SECTIONS]
        return render(
            title=line(told.asked.run_id),
            subtitle=_subtitle(view),
            tiles=_tiles(view),
            figures=[figure for figure in figures if figure is not None],
            notes=_notes(view),
            made=f"Times are UTC. Made {now:%Y-%m-%d %H:%M} by pipeline {__version__}.",
        )


def _subtitle(view: View) -> str:
    told = view.asked
    state = "complete" if told.completed_at is not None else "unfinished"
    if told.trial is not None:
        state = f"a trial of the first {many(told.trial, 'request')}"
    began = view.ledger.starts()
    when = f", started {datetime.fromtimestamp(began[0][1] / 1e6, UTC):%Y-%m-%d %H:%M}" if began else ""
    until = f", complete {told.completed_at:%Y-%m-%d %H:%M}" if told.completed_at is not None else ""
    return f"Run of {line(told.job)}: {state}{when}{until}. {line(told.model)} at {_scope(view)}."


def _scope(view: View) -> str:
    told = view.asked
    host = line(told.mask((view.ledger.endpoints() or [told.endpoint])[0]))
    return (
        host if told.scope == "public" else f"{host}, a rehearsal" if host == told.scope else f"{host} ({told.scope})"
    )


def _tiles(view: View) -> list[Tile]:
    paid = view.wanted
    calls, nanos = view.ledger.maybe()
    bound = "≥\u00a0" if paid.unpriced else ""
    tokens_in, tokens_out, written, read = paid.tokens
    tiles = [
        Tile("rows", f"{view.total:,}", f"{share(view.rows['ok'], view.total)} ok"),
        Tile("spent", bound + usd_text(paid.nanos), many(paid.calls, "answered call")),
        Tile("tokens", _short(sum(paid.tokens)), f"{_short(tokens_in + written + read)} in, {_short(tokens_out)} out"),
    ]
    everything = sorted(pair for found in view.latencies.values() for pair in found)
    if everything:
        p50, p95 = percentiles(everything, (0.5, 0.95))
        tiles.append(Tile("latency", millis(p50), f"95 % up to {millis(p95)}"))
        tiles.append(Tile("work", duration(view.clock.secs), "from the first call to the last"))
    if view.superseded.calls:
        words = "≥\u00a0" if view.superseded.unpriced else ""
        tiles.append(Tile("superseded", words + usd_text(view.superseded.nanos), "paid, wanted no more; not in spent"))
    if calls:
        tiles.append(Tile("maybe billed", usd_text(nanos) if nanos else "?", f"at most, {many(calls, 'lost call')}"))
    return tiles


def _short(number: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**4, "k")):
        if number >= size:
            return f"{number / (1000 if unit == 'k' else size):.3g} {unit}"
    return f"{number:,}"


def _notes(view: View) -> list[str]:
    told, notes = view.asked, []
    if told.planless:
        notes.append(
            "The plan of this run is gone: the rows below are those of its published output, and its prompts cannot "
            "be shown. The job file and the limits are today's."
        )
    if told.changed:
        notes.append(
            "The job file, what it names, or the program has changed since this run was planned: prompts and answers "
            "below are the run's, the job file and the limits are today's."
        )
    if view.rows["pending"]:
        flying = view.ledger.under_way()
        words = f"; {many(flying, 'call')} may be under way" if flying else ""
        notes.append(f"no outcome yet: {many(view.rows['pending'], 'row')}{words}.")
    if view.wanted.unpriced:
        calls = many(view.wanted.unpriced, "call")
        notes.append(f"amounts marked ≥ are lower bounds: of {calls} no price is known.")
    return notes

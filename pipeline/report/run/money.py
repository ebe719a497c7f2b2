"""Money and tokens: what was billed and for what, by model, and at which prices."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.cost import usd_text
from pipeline.report.page import Chart, Figure, Table, bars
from pipeline.report.page.text import line
from pipeline.report.run.figures import amount, many, share
from pipeline.report.run.ledger import Paid
from pipeline.report.run.view import View

KINDS = ("input", "output", "cache write", "cache read")
BECAME = {
    "decided": "answers in the rows",
    "asked again": "earlier answers of these rows",
    "superseded": "superseded: rows that are wanted no more",
}
MOST_MODELS = 12


def spend(view: View) -> Figure | None:
    """Tokens and USD: all that was billed, by what became of it, and what may have been billed beside."""
    billed = sum((paid for by in view.paid.values() for paid in by.values()), Paid())
    calls, nanos = view.ledger.maybe()
    if not billed.calls and not calls:
        return None
    rows = [
        _row(words, sum(view.paid[became].values(), Paid())) for became, words in BECAME.items() if became in view.paid
    ]
    table = Table(
        ["what", "USD", "calls", *KINDS],
        rows,
        range(1, 7),
        _row("billed in all", billed),
        _maybe(calls, nanos) if calls else "",
    )
    tables = [("Prices applied", _prices(view))] if billed.calls else []
    by_model = _by_model(view.paid)
    if len(by_model) > 1:
        tables.insert(0, ("By model", _models(by_model, billed)))
    return Figure("Spend and tokens", _words(view, billed), _chart(by_model), table, tables=tables)


def _words(view: View, billed: Paid) -> str:
    tokens_in, _, written, read = billed.tokens
    words = []
    if view.total and view.wanted.calls:
        per = usd_text(round(view.wanted.nanos / view.total * 1000))
        words.append(f"{_bound(view.wanted)}{per} per 1,000 rows.")
    if written or read:
        words.append(f"{share(read, tokens_in + written + read)} of the input tokens were read from the API's cache.")
    saved = view.asked.summary.get("cache_saved_usd")
    if saved and view.asked.trial is None:
        usd = usd_text(round(abs(saved) * 1e9))
        words.append(f"The cache saved {usd}." if saved > 0 else f"The cache cost {usd} more than it saved.")
    return " ".join(words)


def _maybe(calls: int, nanos: int) -> str:
    most = f" (up to {usd_text(nanos)})" if nanos else ""
    return f"{many(calls, 'call')} ended without an answer and may have been billed{most}; in no total."


def _row(words: str, paid: Paid) -> list[str]:
    # The amount first: on a phone the rest is a swipe away.
    return [words, _bound(paid) + amount(paid.nanos), f"{paid.calls:,}", *(f"{count:,}" for count in paid.tokens)]


def _bound(paid: Paid) -> str:
    return "≥\u00a0" if paid.unpriced else ""


def _by_model(paid: Mapping[str, Mapping[str, Paid]]) -> dict[str, Paid]:
    found: dict[str, Paid] = {}
    for by in paid.values():
        for model, each in by.items():
            found[model] = found.get(model, Paid()) + each
    return dict(sorted(found.items(), key=lambda item: (-item[1].nanos, -sum(item[1].tokens), item[0])))


def _models(by_model: Mapping[str, Paid], billed: Paid) -> Table:
    rows = [_row(line(model), paid) for model, paid in by_model.items()]
    return Table(["model", "USD", "calls", *KINDS], rows, range(1, 7), _row("total", billed))


def _chart(by_model: Mapping[str, Paid]) -> Chart | None:
    shown = {model: paid for model, paid in list(by_model.items())[:MOST_MODELS] if sum(paid.tokens)}
    if not shown:
        return None
    kinds = [kind for nth, kind in enumerate(KINDS) if any(paid.tokens[nth] for paid in shown.values())]
    labels = {model: line(model, 48) for model in shown}
    records = [
        {"name": labels[model], "series": kind, "rank": kinds.index(kind), "amount": paid.tokens[KINDS.index(kind)]}
        for model, paid in shown.items()
        for kind in kinds
    ]
    return bars(records, kinds, list(dict.fromkeys(labels.values())), title="Tokens by kind and model")


def _prices(view: View) -> Table:
    rows = [
        [
            line(model),
            line(by),
            line(source, 120),
            f"{calls:,}",
            amount(nanos) if nanos or by != "no price is known" else "",
        ]
        for model, by, source, calls, nanos in view.ledger.prices()[:20]
    ]
    return Table(["model that answered", "priced by", "price", "calls", "USD"], rows, {3, 4})

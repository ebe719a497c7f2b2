"""The summary of a start: the object that `--json` prints, and the same in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from pipeline.cost import usd_text
from pipeline.records import NANOS_PER_USD, Usage

VERSION = 1
PUBLISHING = (0, 3)
ROW_STATUSES = ("ok", "truncated", "refused", "invalid", "failed", "pending")


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of this start; `maybe_billed_twice` were lost on the way and asked again."""

    sent: int = 0
    answered: int = 0
    retried: int = 0
    maybe_billed_twice: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """How a start ended.

    `calls`, `answered_before`, `paid_now`, `seconds` and the times are of the start, the rest of the run.

    Attributes:
        output: path of the output, whether it was published by this start or not.
        rows: by status; all zero where nothing was planned.
        answered_before: rows that needed no call when the start began.
        cost_nanos: sum of the rows' costs, nano-dollars.
        unpriced: rows whose cost is unknown; with any, the JSON's cost is null and the words give a lower bound.
        unpriced_now: calls of this start whose cost is unknown.
        maybe_nanos: worst case of calls that ended without an answer.
        superseded_nanos: paid in this run for answers that are no longer wanted.
        cache_saved_nanos: what the API's prompt cache has saved the run, by list prices.
        bound_by: what limited the speed, where it is known.
    """

    job: str
    run_id: str | None
    run_date: date | None
    exit_code: int
    reason: str
    output: str | None
    started_at: datetime
    finished_at: datetime
    rows: dict[str, int] = field(default_factory=dict)
    answered_before: int = 0
    calls: Calls = Calls()
    usage: Usage = field(default_factory=Usage)
    cost_nanos: int = 0
    unpriced: int = 0
    paid_now_nanos: int = 0
    unpriced_now: int = 0
    maybe_nanos: int = 0
    superseded_nanos: int = 0
    cache_saved_nanos: int = 0
    bound_by: str | None = None
    hint: str | None = None

    @property
    def seconds(self) -> float:
        """Wall time of this start."""
        return round((self.finished_at - self.started_at).total_seconds(), 3)

    def as_json(self) -> dict[str, Any]:
        """The object of the contract, with USD as numbers and times in ISO 8601, UTC."""
        return {
            "version": VERSION,
            "job": self.job,
            "run_id": self.run_id,
            "run_date": self.run_date.isoformat() if self.run_date else None,
            "exit_code": self.exit_code,
            "reason": self.reason,
            "output": self.output,
            "rows": {
                "total": sum(self.rows.values()),
                **{status: self.rows.get(status, 0) for status in ROW_STATUSES},
            },
            "answered_before": self.answered_before,
            "calls": {
                "sent": self.calls.sent,
                "answered": self.calls.answered,
                "retried": self.calls.retried,
                "maybe_billed_twice": self.calls.maybe_billed_twice,
            },
            "tokens": {
                "input": self.usage.input_tokens,
                "output": self.usage.output_tokens,
                "cache_write": self.usage.cache_write_tokens,
                "cache_read": self.usage.cache_read_tokens,
            },
            "cost_usd": None if self.unpriced else self.cost_nanos / NANOS_PER_USD,
            "paid_now_usd": None if self.unpriced_now else self.paid_now_nanos / NANOS_PER_USD,
            "maybe_usd": self.maybe_nanos / NANOS_PER_USD,
            "superseded_usd": self.superseded_nanos / NANOS_PER_USD,
            "cache_saved_usd": self.cache_saved_nanos / NANOS_PER_USD,
            "seconds": self.seconds,
            "bound_by": self.bound_by,
            "started_at": _iso(self.started_at),
            "finished_at": _iso(self.finished_at),
        }


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def summary_text(summary: Summary) -> str:
    """The summary in words, a few aligned lines."""
    total = sum(summary.rows.values())
    statuses = [f"{summary.rows[s]:,} {s}" for s in ROW_STATUSES if summary.rows.get(s)]
    usage, calls = summary.usage, summary.calls
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    lines = [
        ("run", f"{summary.run_id or summary.job}: {summary.reason.replace('_', ' ')} (exit {summary.exit_code})"),
        ("rows", f"{total:,}: {', '.join(statuses)}" if statuses else "none"),
        ("calls", _calls(calls, summary.answered_before)),
        (
            "tokens",
            f"{usage.input_tokens:,} in, {usage.output_tokens:,} out"
            + (f", {usage.cache_write_tokens:,} cache write, {usage.cache_read_tokens:,} cache read" if cached else ""),
        ),
        ("cost", _cost(summary)),
        ("time", _duration(summary.seconds)),
    ]
    if summary.output is not None:
        written = summary.exit_code in PUBLISHING
        lines.append(("output", summary.output if written else "not written; what was there stands"))
    if summary.hint:
        lines.append(("next", summary.hint))
    return "\n".join(f"{name:<8}{text}" for name, text in lines)


def _calls(calls: Calls, answered_before: int) -> str:
    if calls.sent == 0:
        return f"none: {answered_before:,} rows needed no call" if answered_before else "none"
    text = f"{calls.sent:,} sent, {calls.answered:,} answered"
    if calls.retried:
        text += f", {calls.retried:,} retried"
    if answered_before:
        text += f"; {answered_before:,} rows needed no call"
    if calls.maybe_billed_twice:
        text += f"; {calls.maybe_billed_twice:,} may have been billed twice"
    return text


def _cost(summary: Summary) -> str:
    if summary.unpriced and not summary.cost_nanos:
        return (
            "unknown: no price for this model; to see it: pipeline costs --reprice --prices FILE; from now on: prices:"
        )
    text = ("≥ " if summary.unpriced else "") + usd_text(summary.cost_nanos)
    notes = [("≥ " if summary.unpriced_now else "") + f"{usd_text(summary.paid_now_nanos)} paid now"]
    if summary.unpriced:
        notes.append(f"{summary.unpriced:,} without a known price")
    if summary.cache_saved_nanos > 0:
        notes.append(f"the cache saved {usd_text(summary.cache_saved_nanos)}")
    if summary.cache_saved_nanos < 0:
        notes.append(f"the cache cost {usd_text(-summary.cache_saved_nanos)} more than it saved")
    if summary.superseded_nanos:
        notes.append(f"{usd_text(summary.superseded_nanos)} more for answers no longer wanted")
    if summary.maybe_nanos:
        notes.append(f"up to {usd_text(summary.maybe_nanos)} more for calls that were lost")
    return f"{text} ({', '.join(notes)})"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{seconds:.1f} s"

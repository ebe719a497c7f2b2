"""What every section of a run report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.records import Key
from pipeline.report.run.ledger import Ledger, Paid, Picked
from pipeline.report.run.span import Clock
from pipeline.report.run.told import Asked, Inputs, Pictured, Read, Reader

STATUSES = ("ok", "truncated", "refused", "invalid", "failed", "pending")


@dataclass(frozen=True)
class View:
    """A run, looked at.

    Attributes:
        asked: what it was asked to do.
        ledger: sums over its attempts and rows.
        picked: rows chosen to be shown, by status.
        answers: of those rows.
        clock: its working time.
        read: reads answers of more rows.
        pictured: where rows have pictures that are to be shown.
        inputs: looks up the kept input columns of rows by their places.
    """

    asked: Asked
    ledger: Ledger
    picked: Mapping[str, Sequence[Picked]]
    answers: Mapping[Key, Read]
    clock: Clock
    read: Reader
    pictured: Pictured | None = None
    inputs: Inputs = lambda _: {}

    @cached_property
    def outcomes(self) -> dict[str, dict[str, int]]:
        """Rows by model and status."""
        return self.ledger.outcomes(self.asked.model)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Rows by status, all of them named."""
        return {name: sum(by.get(name, 0) for by in self.outcomes.values()) for name in STATUSES}

    @cached_property
    def total(self) -> int:
        """All rows."""
        return sum(self.rows.values())

    @cached_property
    def paid(self) -> dict[str, dict[str, Paid]]:
        """Answered calls by what became of them and model."""
        return self.ledger.paid(whole=self.asked.trial is None)

    @cached_property
    def wanted(self) -> Paid:
        """What the rows have cost."""
        return sum((p for became, by in self.paid.items() if became != "superseded" for p in by.values()), Paid())

    @cached_property
    def superseded(self) -> Paid:
        """What was paid for rows that are wanted no more."""
        return sum(self.paid.get("superseded", {}).values(), Paid())

    @cached_property
    def latencies(self) -> dict[str, list[tuple[int, int]]]:
        """By model, latencies in ms of answered calls with how often each came, ascending."""
        return self.ledger.latencies()

    @cached_property
    def calls(self) -> tuple[int, int]:
        """Calls that ended, and those that were answered."""
        return self.ledger.calls()

"""What the cases about server, pace and money share: another simulator for a bench, and times of its ledger."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from torture_rig import Bench


def came(entry: dict[str, Any]) -> float:
    """When a call reached the simulator, seconds since 1970."""
    return datetime.fromisoformat(entry["at"]).timestamp()


def ended(entry: dict[str, Any]) -> float:
    """When it was answered."""
    return came(entry) + float(entry["ms"]) / 1000


def switch(made: Bench, *arguments: object) -> None:
    """Put another simulator in the place of the bench's."""
    before = made.server.url
    made.server = made.desk.simulator("--latency", "20", "--seed", made.seed, *arguments)
    made.job.write_text(made.job.read_text().replace(before, made.server.url))

"""A server that goes down refuses at once, while what it was asked before is still being answered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from limits_simulation import busy, now, request, response, simulated

from pipeline.errors import Busy
from pipeline.limits import Limited, Outage, Pause, Retrying, Window
from pipeline.records import Request, Response

SLOTS = 64
ROWS = 15 * SLOTS
LATENCY_SECS = 20.0
REFUSED_SECS = 0.01
DOWN_SECS = 60.0
AT_REST = (0.0, 0.0)


@dataclass
class Server:
    """Takes a while to answer, and none to refuse.

    Attributes:
        refusal: what a refused call gets.
        down: from when to when it refuses all.
        chance: of a call to be refused at any time.
        bad: rows that it refuses whenever they are asked.
        refused: the calls that were.
    """

    refusal: Busy
    down: tuple[float, float] = AT_REST
    chance: float = 0.0
    random: random.Random = field(default_factory=lambda: random.Random(7))
    bad: frozenset[str] = frozenset()
    refused: list[str] = field(default_factory=list)

    async def send(self, request: Request) -> Response:
        down = self.down[0] <= now() < self.down[1] or request.row_id in self.bad
        if down or self.random.random() < self.chance:
            self.refused.append(request.row_id)
            await asyncio.sleep(REFUSED_SECS)
            raise Busy(
                self.refusal.error_type,
                str(self.refusal),
                http_status=self.refusal.http_status,
                maybe_billed=self.refusal.maybe_billed,
            )
        await asyncio.sleep(LATENCY_SECS * self.random.uniform(0.5, 1.5))
        return response("done")


def asked_of(server: Server) -> tuple[list[str], float]:
    """Ask for all rows, as many at a time as there are slots; the rows that failed, and when all had ended."""
    spread = server.random.random
    limited = Limited(server, Window(SLOTS), pause=Pause(spread=spread), outage=Outage("h"))
    retrying = Retrying(limited, spread=spread)
    failed: list[str] = []

    async def workers(names: Iterator[str]) -> None:
        for name in names:
            attempts = await retrying.send(request(name))
            if attempts[-1].response is None:
                failed.append(name)
            else:
                limited.window.release()

    async def story() -> float:
        names = (f"row-{nth}" for nth in range(ROWS))
        # A row that waits for its next attempt makes room for another one.
        await asyncio.gather(*(workers(names) for _ in range(2 * SLOTS)))
        return now()

    ended = simulated(story())
    return failed, ended


@pytest.mark.parametrize(
    "refusal", [busy(503), busy(500), Busy("connection", "the connection was reset", maybe_billed=True)], ids=str
)
def test_an_outage_is_noticed_though_older_calls_are_still_answered(refusal: Busy) -> None:
    server = Server(refusal, down=(3 * LATENCY_SECS, 3 * LATENCY_SECS + DOWN_SECS))
    failed, _ = asked_of(server)
    assert failed == []
    # One for each free slot and a few, then singly, ever more rarely: never one for each answer that still comes.
    assert 0 < len(server.refused) <= SLOTS


@pytest.mark.parametrize("chance", [0.02, 0.1, 0.2])
def test_refusals_at_random_are_no_outage(chance: float) -> None:
    _, undisturbed = asked_of(Server(busy(500)))
    server = Server(busy(500), chance=chance)
    failed, ended = asked_of(server)
    assert (failed, len(server.refused) > ROWS * chance / 2) == ([], True)
    assert ended < 1.2 * undisturbed


def test_more_bad_rows_in_a_row_than_slots_fail_alone_and_are_no_outage() -> None:
    _, undisturbed = asked_of(Server(busy(500)))
    bad = frozenset(f"row-{nth}" for nth in range(5 * SLOTS, 5 * SLOTS + 100))
    failed, ended = asked_of(Server(busy(500), bad=bad))
    assert frozenset(failed) == bad
    assert ended < 4 * undisturbed

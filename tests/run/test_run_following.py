"""What people learn of a run while its rows are asked."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import Busy, StorageError
from pipeline.journal import JobStamp, Journal
from pipeline.limits import Limited, Window
from pipeline.records import Request, Response
from pipeline.report import Counters, Progress
from pipeline.run.coordinator import Asking, Coordinator
from pipeline.run.following import BRIEF_CHARS, Following, brief
from pipeline.run.policy import Standing

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
PATIENCE_SECS = 20.0


@dataclass
class Saying:
    """Fails each call in its own way: the first when all have left, the others when they are let go."""

    errors: list[Busy]
    left: int = 0
    go: asyncio.Event = field(default_factory=asyncio.Event)
    all_left: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, request: Request) -> Response:
        self.left += 1
        if self.left == len(self.errors):
            self.all_left.set()
        nth = request.key[0]
        await (self.go if nth else self.all_left).wait()
        raise self.errors[nth]


class Looking(Coordinator):
    """Counts how often it is looked up."""

    looks = 0

    async def look(self, bound_by: str | None) -> dict[str, float]:
        self.looks += 1
        return await super().look(bound_by)


class Deaf(Looking):
    """Its journal cannot be read any more."""

    async def look(self, bound_by: str | None) -> dict[str, float]:
        raise StorageError("the disk is gone")


@dataclass
class Followed:
    """A run whose calls fail, and what is shown and said of it."""

    folder: Path
    coordinator: type[Looking] = Looking
    counters: Counters = field(default_factory=Counters)
    said: list[str] = field(default_factory=list)

    @property
    def bar(self) -> str:
        return Progress(io.StringIO(), "lines", "asking", 9, "rows", lambda: 0, self.counters).details()

    async def after(self, *errors: Busy, shown: str, over: bool = False) -> None:
        """Let calls fail, the first before the bar shows this, the others after.

        Then wait until it does no more, where the pause is to be `over`, else until it was looked at once more.
        """
        journal = Journal.open(self.folder / "job.sqlite")
        run, start = journal.begin(JobStamp("r", "job", None, "public", {}, {}), NOW)
        standing = Standing(run=run.id, start=start, finished=False, max_tokens=100)
        wire = Saying(list(errors))
        limited = Limited(wire, Window(9))
        async with self.coordinator(journal, standing, Asking("m", 100, "api.example"), clock=lambda: NOW) as working:
            follow = Following(working, limited, self.counters, self.said.append, lambda: NOW)
            following = asyncio.create_task(follow.run())
            calls = [limited.send(Request(bytes([nth]) * 16, "row", b"{}")) for nth in range(len(errors))]
            failing = asyncio.gather(*calls, return_exceptions=True)
            await until(lambda: shown in self.bar)
            wire.go.set()
            async with asyncio.timeout(PATIENCE_SECS):
                await failing
            looks = working.looks
            await until(lambda: shown not in self.bar if over else working.looks > looks)
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
        journal.close()


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECS):
        while not reached():  # noqa: ASYNC110 - the bar tells nobody when it changes
            await asyncio.sleep(0.01)


def limit(secs: float) -> Busy:
    return Busy("rate_limit", "slow down", http_status=429, wait_secs=secs, shared=True)


def test_a_pause_is_shown_with_its_cause_beside_the_bar_as_it_is_in_the_line(tmp_path: Path) -> None:
    run = Followed(tmp_path)
    asyncio.run(run.after(limit(600.0), shown=" s more (429 rate limit)"))
    assert "paused for " in run.bar
    (line,) = run.said
    assert line.startswith("the endpoint: 429 rate limit, retry-after 600 s")


def test_what_goes_wrong_in_a_pause_is_not_its_cause(tmp_path: Path) -> None:
    run = Followed(tmp_path)
    asyncio.run(run.after(limit(600.0), Busy("server_error", "oops", http_status=500), shown="(429 rate limit)"))
    assert run.bar.endswith(" s more (429 rate limit)")


def test_a_pause_is_shown_to_its_end_where_limits_cannot_be_looked_up(tmp_path: Path) -> None:
    run = Followed(tmp_path, Deaf)
    asyncio.run(run.after(limit(2.5), shown="paused for ", over=True))
    assert run.said == ["limits cannot be looked up: the disk is gone"]


@pytest.mark.parametrize(
    ("cause", "shown"),
    [
        ("429 rate limit, retry-after 30 s", "429 rate limit"),
        ("529 overloaded", "529 overloaded"),
        ("the connection was refused", "the connection was refused"),
        ("no connection within 10 s (asked by way of the proxy h:1)", "no connection within 10 s (asked by…"),
    ],
)
def test_a_cause_is_short_enough_to_stand_beside_a_bar(cause: str, shown: str) -> None:
    assert brief(cause) == shown
    assert len(shown) <= BRIEF_CHARS


def test_a_pause_of_unknown_cause_is_shown_without(tmp_path: Path) -> None:
    run = Followed(tmp_path, counters=Counters(pause_secs=12.0))
    assert run.bar.endswith("paused for 12 s more")

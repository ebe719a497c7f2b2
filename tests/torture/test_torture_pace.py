"""Limits per minute, measured by the server: never passed, used to the full, and large rows get their turn."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import pytest
from desk import Desk, job_text
from torture_checker import check, entries
from torture_meter import Meter, Metered
from torture_rig import bench, serving

pytest_plugins = ("torture_fixtures",)

BURST_SECS = 0.2
SCHEDULING_SECS = 0.15
"""What a shared machine's scheduling may take off the distance between two calls on their way to the ledger."""


def worst_secs(calls: Iterable[tuple[float, float]], per_sec: float) -> float:
    """By how much the calls of any window of time are more than its limit allows, in seconds of the limit.

    Over all windows at once: for those that end with a call, the one that begins where the sum so far, less what time
    has allowed, was lowest.
    """
    done, lowest, worst = 0.0, float("inf"), 0.0
    for at, amount in sorted(calls):
        lowest = min(lowest, done / per_sec - at)
        done += amount
        worst = max(worst, done / per_sec - at - lowest)
    return worst


def busiest_minute(calls: Sequence[tuple[float, float]], window_secs: float = 60.0) -> float:
    """The largest sum within any window of so many seconds."""
    times = sorted(calls)
    first, total, most = 0, 0.0, 0.0
    for at, amount in times:
        total += amount
        while times[first][0] <= at - window_secs + 1e-9:
            total -= times[first][1]
            first += 1
        most = max(most, total)
    return most


def test_the_worst_window_is_found() -> None:
    even = [(nth / 10, 1.0) for nth in range(50)]
    assert worst_secs(even, 10) == pytest.approx(0.1)
    assert worst_secs([*even, (2.05, 1.0)], 10) == pytest.approx(0.2, abs=0.06)
    assert worst_secs([(at, 2.0) for at, _ in even], 10) == pytest.approx(5.1)
    assert busiest_minute(even, 1.0) == 10


# --- N7 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("per_minute", "rows"), [(1_800, 110), pytest.param(600, 610, marks=pytest.mark.long)])
def test_n7_requests_never_pass_their_limit_in_any_window_and_use_it(
    desk: Desk, torture_seed: int, per_minute: int, rows: int
) -> None:
    more = f"limits: {{concurrency: 16, requests_per_minute: {per_minute}}}"
    made = bench(desk, torture_seed, rows, latency_ms=50, more=more, rpm=str(per_minute))
    ended = made.run()
    assert ended.code == 0, ended.err
    figures = check(made.scene)
    ledger = entries(made.server.ledger)
    assert {entry["status"] for entry in ledger} == {200}
    moments = sorted(datetime.fromisoformat(entry["at"]).timestamp() for entry in ledger)
    per_sec = per_minute / 60
    worst = worst_secs(((moment, 1.0) for moment in moments), per_sec)
    secs = moments[-1] - moments[0]
    used = (len(moments) - 1) / secs / per_sec
    minute = busiest_minute([(moment, 1.0) for moment in moments])
    print(
        f"N7 {per_minute} a minute: used {used:.1%} over {secs:.1f} s; in no window more than the limit and "
        f"{worst:.3f} s of it; at most {minute:.0f} in 60 s; refused 0: {figures}"
    )
    assert worst <= BURST_SECS + SCHEDULING_SECS
    assert ended.summary["bound_by"] == "requests_per_minute"
    assert used >= 0.97


# --- N8 ---------------------------------------------------------------------------------------------------------------

SMALL_CHARS, LARGE_CHARS = 100, 10_000
SMALL_ANSWER, LARGE_ANSWER = 4, 400
NEVER = 1e9
"""Tokens a minute that no run comes near."""


@dataclass(frozen=True, slots=True)
class Skew:
    """A table of small rows, and large ones of a hundred times their size, both in prompt and in answer.

    Attributes:
        tokens_per_char: as the server counts; the first guess is one half.
        per_minute: input tokens, or output tokens where `of_answers`.
        settled_secs: after so long nothing is refused any more.
        least_used: the share of the limit that is used from then on. Of answers, whose sizes show only when they are
            there, less: the estimate errs high by a share of their spread.
    """

    small: int
    large: int
    tokens_per_char: float
    per_minute: float
    settled_secs: float
    least_used: float
    of_answers: bool = False

    def names(self, chance: random.Random) -> list[str]:
        found = [f"s-{nth:05}" for nth in range(self.small)] + [f"l-{nth:05}" for nth in range(self.large)]
        chance.shuffle(found)
        return found

    def text(self, name: str) -> str:
        chars = LARGE_CHARS if name.startswith("l") else SMALL_CHARS
        return "x" * (chars - len(f"Describe {name} "))

    def meter(self) -> Meter:
        limits = (NEVER, self.per_minute) if self.of_answers else (self.per_minute, NEVER)
        return Meter(*limits, self.tokens_per_char, lambda name: LARGE_ANSWER if name.startswith("l") else SMALL_ANSWER)


def overtaken(names: Sequence[str], seen: Sequence[Metered]) -> int:
    """How many rows that stand behind a large one in the table came before it, at most."""
    order: dict[str, int] = {}
    for call in seen:
        order.setdefault(call.name, len(order))
    place = {name: nth for nth, name in enumerate(names)}
    return max(order[name] - place[name] for name in names if name.startswith("l"))


QUICK = 2.0
FULL = 10.0


@pytest.mark.parametrize(
    "skew",
    [
        pytest.param(Skew(150, 10, 1 / 6, 240_000, QUICK, 0.75), id="3-times-too-high", marks=pytest.mark.long),
        pytest.param(Skew(150, 10, 3 / 2, 2_160_000, QUICK, 0.75), id="3-times-too-low"),
        pytest.param(Skew(2_700, 60, 1 / 6, 120_000, FULL, 0.97), id="3-times-too-high-70-s", marks=pytest.mark.long),
        pytest.param(Skew(2_700, 60, 3 / 2, 1_080_000, FULL, 0.97), id="3-times-too-low-70-s", marks=pytest.mark.long),
        pytest.param(
            Skew(1_800, 60, 1 / 4, 27_000, FULL, 0.85, of_answers=True), id="answers-70-s", marks=pytest.mark.long
        ),
    ],
)
def test_n8_token_limits_settle_soon_whatever_was_guessed_and_large_rows_get_their_turn(
    desk: Desk, torture_seed: int, skew: Skew
) -> None:
    print(f"torture seed {torture_seed}")
    names = skew.names(random.Random(torture_seed))
    desk.write("rows.csv", "name,text\n" + "".join(f"{name},{skew.text(name)}\n" for name in names))
    kind = "output" if skew.of_answers else "input"
    more = f"limits: {{concurrency: 32, {kind}_tokens_per_minute: {skew.per_minute:.0f}}}"
    meter = skew.meter()
    with serving(meter.admit) as url:
        text = job_text(url, prompt="Describe <<name>> <<text>>", more=more)
        job = desk.write("job.yaml", text.replace("max_tokens: 200", "max_tokens: 1200"))
        ended = desk.pipeline("run", job, "--json")
    assert ended.code == 0, ended.err
    assert ended.summary["rows"]["ok"] == len(names)
    used, refused, minute = figures(meter.seen, skew)
    behind = overtaken(names, meter.seen)
    late = [at for at in refused if at > skew.settled_secs]
    print(
        f"N8 {skew.small} small rows, {skew.large} of 100 times the size, {kind} tokens, {skew.tokens_per_char:.2f} a "
        f"character, {meter.seen[-1].at - meter.seen[0].at:.1f} s: {len(refused)} of {len(meter.seen)} calls refused, "
        f"{len(late)} after {skew.settled_secs:g} s; from then on {used:.1%} of the limit used; at most {minute:.1%} "
        f"of it in 60 s; a large row came at most {behind} rows late"
    )
    assert len(late) <= len(meter.seen) * (0.02 if skew.of_answers else 0.0), late
    assert used >= skew.least_used
    # Its turn is that of the table, but for what is in flight and comes again after a refusal.
    assert behind <= 32 + len(refused)


def figures(seen: Sequence[Metered], skew: Skew) -> tuple[float, list[float], float]:
    """The share of the limit used once settled, when calls were refused, and the largest share in 60 s."""
    began = seen[0].at
    calls = [(call.at, call.made if skew.of_answers else call.tokens) for call in seen if call.passed]
    settled = [(at, amount) for at, amount in calls if at >= began + skew.settled_secs]
    used = sum(amount for _, amount in settled[:-1]) / (settled[-1][0] - settled[0][0]) / (skew.per_minute / 60)
    refused = [call.at - began for call in seen if not call.passed]
    return used, refused, busiest_minute(calls) / skew.per_minute

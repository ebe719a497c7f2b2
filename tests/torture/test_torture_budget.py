"""Money under kill -9: no start, no crash and no lost call lets a run pass its budget, and a larger one ends it."""

from __future__ import annotations

from functools import partial

import pytest
from desk import Desk, Simulator
from torture_checker import NANOS, Price, check, entries
from torture_network import switch
from torture_rig import bench, until

pytest_plugins = ("torture_fixtures",)

LOSSES = ("--fault", "reset=0.04", "--fault", "reset-body=0.02", "--fault", "529=0.05")
WORST_NANOS = 300 * Price().input_nanos + 200 * Price().output_nanos
"""What one of these calls may cost at most, prompt and `max_tokens`."""


def reached(server: Simulator, goal: int) -> bool:
    return len(entries(server.ledger)) >= goal


@pytest.mark.parametrize(
    ("concurrency", "kills", "rows", "cap_usd"),
    [
        (16, 2, 100, 0.02),
        pytest.param(1, 20, 400, 0.04, marks=pytest.mark.long),
        pytest.param(4, 20, 400, 0.08, marks=pytest.mark.long),
        pytest.param(16, 20, 400, 0.25, marks=pytest.mark.long),
        pytest.param(64, 20, 400, 0.9, marks=pytest.mark.long),
    ],
)
def test_m2_killed_and_started_again_a_run_stays_within_its_budget_and_ends_with_a_larger_one(
    desk: Desk, torture_seed: int, concurrency: int, kills: int, rows: int, cap_usd: float
) -> None:
    more = f"limits: {{concurrency: {concurrency}}}\nbudget: {{run_usd: {cap_usd}}}"
    made = bench(desk, torture_seed, rows, more=more)
    switch(made, *LOSSES)
    scene = made.scene
    scene.in_flight, scene.budget_nanos = concurrency, round(cap_usd * NANOS)
    stops = 0
    for _ in range(kills):
        running = made.start()
        goal = len(entries(made.server.ledger)) + made.chance.randrange(1, 12)
        until(partial(reached, made.server, goal), running)
        if not made.kill(running):
            assert running.returncode in (0, 4)
            stops += 1
        check(scene, complete=False)
    ended = made.run()
    assert ended.code in (0, 4), ended.err
    scene.mark()
    check(scene, complete=ended.code == 0)
    ledger = entries(made.server.ledger)
    paid = sum(Price().of(entry["usage"]) for entry in ledger if entry["usage"])
    assert paid <= scene.budget_nanos
    known = ended.summary["cost_usd"] + ended.summary["maybe_usd"]
    assert known <= cap_usd + 1e-9
    unused = scene.budget_nanos - round(known * NANOS)
    if ended.code == 4:
        assert unused < WORST_NANOS * concurrency
    scene.budget_nanos = None
    done = made.run("--budget", "10")
    assert done.code == 0, done.err
    print(
        f"M2 {scene.crashes} kills at concurrency {concurrency}, cap ${cap_usd:g}: paid ${paid / NANOS:.4f}, known and "
        f"reserved ${known:.4f}, {stops} starts stopped by themselves, then exit {ended.code}; with $10: {check(scene)}"
    )

"""A budget is never passed: not by calls in flight, not by lost ones, not by a server dearer than the list."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.limits import Budget, Cap, WorstCase

WORST = 1_000


@dataclass
class Ledger:
    """What a server was paid, and may have been paid, by calls that end as chance has it."""

    chance: random.Random
    dearer: float = 1.0
    paid: int = 0
    lost: int = 0
    under_way: list[tuple[int, int]] = field(default_factory=list)

    def run(self, budget: Budget, concurrency: int) -> int:
        """Call until the budget is spent; how much room is left then."""
        alone = True
        while True:
            worst = self.chance.randint(WORST // 10, WORST)
            reserved = budget.scaled(worst)
            room = 1 if alone else concurrency
            if len(self.under_way) < room and budget.reserve(reserved) is None:
                self.under_way.append((reserved, worst))
            elif self.under_way:
                alone &= not self._end(budget)
            else:
                (cap,) = budget.caps
                return cap.nanos - cap.spent

    def _end(self, budget: Budget) -> bool:
        """One call ends; whether it was answered."""
        reserved, worst = self.under_way.pop(self.chance.randrange(len(self.under_way)))
        fate = self.chance.random()
        if fate < 0.05:
            self.lost += worst
            budget.settle(reserved, reserved)
        elif fate < 0.1:
            budget.settle(reserved, 0)
        else:
            cost = int(worst * self.dearer * self.chance.uniform(0.9 if self.dearer > 1 else 0.0, 1.0))
            self.paid += cost
            budget.settle(reserved, cost)
            budget.learn(worst, cost)
            return True
        return False


@pytest.mark.parametrize("concurrency", [1, 4, 16, 64])
def test_in_1000_of_1000_runs_what_is_paid_stays_within_the_cap_and_nearly_fills_it(concurrency: int) -> None:
    for seed in range(250):
        chance = random.Random(seed)
        cap = chance.randint(WORST, 200 * WORST)
        ledger = Ledger(chance)
        left = ledger.run(Budget([Cap("run_usd", cap)]), concurrency)
        assert ledger.paid + ledger.lost <= cap
        assert 0 <= left < WORST


@given(st.integers(0, 10**6), st.sampled_from([1, 8, 64]), st.floats(1.0, 1.11))
def test_a_server_dearer_than_the_list_is_learnt_from_the_first_call(
    seed: int, concurrency: int, dearer: float
) -> None:
    # What an answer costs is between 0.9 and 1 of the dearest: the first shows that much of it.
    ledger = Ledger(random.Random(seed), dearer)
    ledger.run(Budget([Cap("run_usd", 500 * WORST)]), concurrency)
    assert ledger.paid <= 500 * WORST + concurrency * WORST * (dearer / 0.9 - 1)


def test_of_two_caps_the_nearer_one_holds_and_is_named() -> None:
    budget = Budget([Cap("run_usd", 100), Cap("month_usd", 1_000, spent=950)])
    assert budget.reserve(40) is None
    refused = budget.reserve(20)
    assert refused is not None
    assert refused.name == "month_usd"
    budget.settle(40, 10)
    assert budget.reserve(40) is None
    assert [cap.spent for cap in budget.caps] == [10, 960]


def test_a_call_that_is_made_again_is_reserved_for_twice_and_settled_once() -> None:
    budget = Budget([Cap("run_usd", 100)])
    assert budget.reserve(40) is None
    assert budget.more(40) is None
    assert not budget.idle
    assert budget.more(40) is not None
    budget.settle(80, 40 + 7)
    assert (budget.reserved, budget.idle, budget.caps[0].spent) == (0, True, 47)


def test_without_caps_everything_is_allowed_and_still_reserved() -> None:
    budget = Budget()
    assert budget.reserve(10**18) is None
    assert (budget.reserved, budget.idle) == (10**18, False)


def test_what_a_call_costs_at_worst_counts_the_envelope_and_half_a_token_a_byte() -> None:
    worst = WorstCase(lambda tokens_in, tokens_out: 10 * tokens_in + 50 * tokens_out, 100, envelope_bytes=60)
    assert worst.nanos(b"x" * 100) == 10 * (80 + 20) + 50 * 100
    assert WorstCase(lambda _in, _out: None, 100).nanos(b"x") == 0

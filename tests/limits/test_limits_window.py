from __future__ import annotations

import asyncio

import pytest
from limits_simulation import simulated

from pipeline.limits import Window


def test_slots_go_to_those_who_wait_in_the_order_they_came() -> None:
    async def story() -> list[int]:
        window, order = Window(1), list[int]()

        async def caller(nth: int) -> None:
            await window.acquire()
            order.append(nth)
            await asyncio.sleep(1)
            window.release()

        await asyncio.gather(*(caller(nth) for nth in range(5)))
        assert window.in_flight == 0
        return order

    assert simulated(story()) == [0, 1, 2, 3, 4]


def test_a_newcomer_does_not_overtake_one_who_waits() -> None:
    async def story() -> list[str]:
        window, order = Window(1), list[str]()

        async def caller(name: str) -> None:
            await window.acquire()
            order.append(name)

        await caller("holder")
        waiting = asyncio.create_task(caller("waiting"))
        await asyncio.sleep(0)
        window.release()  # the slot is the waiting one's, though it has not run yet
        newcomer = asyncio.create_task(caller("newcomer"))
        await waiting
        window.release()
        await newcomer
        return order

    assert simulated(story()) == ["holder", "waiting", "newcomer"]


@pytest.mark.parametrize("same_moment", [False, True])
def test_a_cancelled_caller_leaves_no_slot_taken(same_moment: bool) -> None:
    async def story() -> int:
        window = Window(1)
        await window.acquire()
        first, second = (asyncio.create_task(window.acquire()) for _ in range(2))
        await asyncio.sleep(0)
        if same_moment:
            window.release()
            first.cancel()
        else:
            first.cancel()
            await asyncio.sleep(0)
            window.release()
        await second
        window.release()
        return window.in_flight

    assert simulated(story()) == 0


def test_giving_back_what_nobody_took_is_a_bug_that_shows() -> None:
    with pytest.raises(RuntimeError, match="nobody had taken"):
        Window(1).release()


def test_a_window_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        Window(0)

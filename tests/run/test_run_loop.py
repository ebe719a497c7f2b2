"""The loop that rows are asked on: what it runs on, and what it leaves behind."""

from __future__ import annotations

import gc

import pytest

from pipeline.errors import Interrupted
from pipeline.run.asking import run_loop
from pipeline.run.heap import YOUNG_OBJECTS


def test_while_rows_are_asked_the_collector_leaves_what_was_there_before_alone() -> None:
    seen: list[tuple[int, bool]] = []

    async def asking() -> None:
        seen.append((gc.get_threshold()[0], gc.get_freeze_count() > 0))

    run_loop(asking())
    assert seen == [(YOUNG_OBJECTS, True)]


def test_the_collector_is_as_it_was_however_asking_ended() -> None:
    before = gc.get_threshold()

    async def interrupted() -> None:
        raise Interrupted(2)

    with pytest.raises(Interrupted):
        run_loop(interrupted())
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0

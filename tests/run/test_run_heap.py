"""While rows go by, cycles are collected rarely, and afterwards as before."""

from __future__ import annotations

import gc

import pytest

from pipeline.run.heap import rare_collections


def test_what_is_there_is_let_be_and_all_is_as_before_afterwards() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    inside = []

    @rare_collections()
    def work() -> None:
        inside.append((gc.get_threshold()[0] > before[0], gc.get_freeze_count() > 1000))
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError, match=r"^$"):
            work()
        assert (gc.get_threshold(), gc.get_freeze_count()) == (before, frozen)
    assert inside == [(True, True)] * 2

"""The table of design: which answer is good enough."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.errors import LASTING, PASSING
from pipeline.journal import Known
from pipeline.records import Status
from pipeline.run.policy import UNSENT, Situation, Standing, choose, good

THIS_RUN, OTHER_RUN = 1, 2
THIS_START, EARLIER_START = 20, 10
STANDING = Standing(run=THIS_RUN, start=THIS_START, finished=False, max_tokens=100)


def known(
    status: Status,
    error_type: str | None = None,
    *,
    run: int = THIS_RUN,
    start: int = EARLIER_START,
    attempt: int = 7,
    max_tokens: int = 100,
) -> Known:
    return Known(attempt, run, start, status, error_type, max_tokens)


# status, error type, and whether it is taken by: the run that goes on, the finished run again, another run
TABLE: list[tuple[Status, str | None, bool, bool, bool]] = [
    ("ok", None, True, True, True),
    ("truncated", None, True, True, True),
    ("refused", None, True, True, True),
    ("invalid", "schema_mismatch", True, True, True),
    *[("failed", cause, True, True, False) for cause in sorted(LASTING - UNSENT)],
    *[("failed", cause, False, True, False) for cause in sorted(PASSING - UNSENT)],
    # Tried again, free, whoever asks.
    *[("failed", cause, False, False, False) for cause in sorted(UNSENT)],
]


@pytest.mark.parametrize(("status", "error_type", "goes_on", "finished", "another"), TABLE)
def test_each_outcome_is_taken_or_asked_as_the_table_says(
    status: Status, error_type: str | None, goes_on: bool, finished: bool, another: bool
) -> None:
    outcome = known(status, error_type)
    verdicts: dict[Situation, bool] = {"goes_on": goes_on, "finished": finished, "another": another}
    assert {situation: good(outcome, situation, 100) for situation in verdicts} == verdicts


@pytest.mark.parametrize(("asked_with", "wanted", "taken"), [(100, 100, True), (100, 99, True), (100, 101, False)])
def test_a_truncated_answer_is_good_up_to_the_limit_it_was_asked_with(
    asked_with: int, wanted: int, taken: bool
) -> None:
    assert good(known("truncated", max_tokens=asked_with), "goes_on", wanted) is taken


def test_an_answer_that_ended_by_itself_is_good_under_any_limit() -> None:
    assert good(known("ok", max_tokens=10), "another", 1_000)


def test_a_key_without_an_outcome_is_asked() -> None:
    assert choose([], None, STANDING) is None


def test_an_outcome_of_this_start_stands_whatever_it_is_so_that_a_sweep_ends() -> None:
    failed = known("failed", "timeout", start=THIS_START)
    assert choose([failed], None, STANDING) == failed


def test_the_own_outcome_is_kept_though_another_run_has_a_newer_one() -> None:
    own, newer = known("ok", attempt=7), known("ok", run=OTHER_RUN, attempt=9)
    assert choose([own, newer], None, STANDING) == own


def test_what_another_run_answered_is_taken_before_a_failed_row_is_asked_again() -> None:
    own, newer = known("failed", "timeout", attempt=7), known("ok", run=OTHER_RUN, attempt=9)
    assert choose([own, newer], None, STANDING) == newer


def test_the_answer_that_was_taken_over_stays_the_one_referred_to() -> None:
    taken, newer = known("ok", run=OTHER_RUN, attempt=3), known("refused", run=3, attempt=9)
    assert choose([taken, newer], 3, STANDING) == taken


@pytest.mark.parametrize("finished", [True, False])
def test_retry_failed_opens_the_named_statuses_and_nothing_newer(finished: bool) -> None:
    standing = replace(STANDING, finished=finished, reopened={"failed": 7})
    old, new, fine = known("failed", "bad_request"), known("failed", "bad_request", attempt=8), known("ok")
    assert choose([old], None, standing) is None
    assert choose([new], None, standing) == new
    assert choose([fine], None, standing) == fine


@pytest.mark.parametrize("status", ["truncated", "refused"])
def test_retry_failed_asks_a_truncated_or_refused_row_only_when_it_is_named(status: Status) -> None:
    bare = replace(STANDING, reopened={"failed": 7, "invalid": 7})
    named = replace(STANDING, reopened={status: 7})
    assert choose([known(status)], None, bare) is not None
    assert choose([known(status)], None, named) is None

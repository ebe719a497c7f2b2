"""Which answer is good enough: the one table that says whether a key is asked again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.errors import LASTING, PASSING
from pipeline.journal import Known

UNSENT = frozenset({"over_limit", *(kind for kind in PASSING | LASTING if kind.startswith("image_"))})
"""Error types of rows that fail before anything is sent."""

Situation = Literal["goes_on", "finished", "another"]
"""Whose outcome is looked at: this run's while it is unfinished, this run's after it was complete, or another run's."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What must be known of the present start to judge an outcome.

    Attributes:
        run: id of this run.
        start: id of this start.
        finished: the run was complete when this start began.
        max_tokens: the limit that the job asks with.
        reopened: by status, the newest attempt when `--retry-failed` opened it again.
        looks: nothing will be asked, so the run's outcomes are taken as they are, those too that a start tries again.
    """

    run: int
    start: int
    finished: bool
    max_tokens: int
    reopened: Mapping[str, int] = field(default_factory=dict)
    looks: bool = False


def good(known: Known, situation: Situation, max_tokens: int) -> bool:
    """Whether the outcome is taken as it stands; otherwise the key is asked.

    A truncated answer is good up to the limit it was asked with. A failure with a lasting cause is kept by its own
    run and asked again by another; one with a passing cause is kept only by a run that was complete with it.
    """
    match known.status:
        case "ok" | "refused" | "invalid":
            return True
        case "truncated":
            return known.max_tokens >= max_tokens
        case "failed":
            # What failed before it was sent is tried again, free.
            if situation == "another" or known.error_type in UNSENT:
                return False
            return situation == "finished" or known.error_type not in PASSING


def choose(outcomes: Sequence[Known], reused: int | None, standing: Standing) -> Known | None:
    """The outcome this run refers to, or None when the key must be asked.

    Args:
        outcomes: every outcome of the key, oldest first, from all runs.
        reused: the attempt of another run that this run took earlier, if it did.
        standing: the present start.
    """
    if not outcomes:
        return None
    own = next((o for o in reversed(outcomes) if o.run == standing.run or o.attempt == reused), None)
    if own is not None:
        # An outcome of this start stands, whatever it is: a sweep must end.
        if own.start == standing.start:
            return own
        if own.attempt <= standing.reopened.get(own.status, 0):
            return None
        if standing.looks:
            return own
        situation: Situation = "finished" if standing.finished else "goes_on"
        if good(own, situation, standing.max_tokens):
            return own
    newest = outcomes[-1]
    if newest is own or not good(newest, "another", standing.max_tokens):
        return None
    return newest

"""The plan of a run against the one that its source gives now."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import JobError, StorageError
from pipeline.job import Job
from pipeline.prompt.pictures import references
from pipeline.prompt.pictures.reference import replaced
from pipeline.run.plan import Plan, Planned, make_plan
from pipeline.run.ready import make_ready

UNCOMPARED = "so keys were compared with the plan, and not with the source"


class Said(NamedTuple):
    """What does not hold, and what is worth knowing."""

    problem: str | None = None
    note: str | None = None


def compare_source(job: Job, plan: Plan, run_id: str, limit: int | None) -> Said:
    """Plan anew, in a folder that goes again, and compare; nothing is fetched.

    Args:
        job: as the run had it.
        plan: of the run.
        run_id: of the run.
        limit: so many requests were planned; None for all.
    """
    folder = Path(tempfile.mkdtemp(prefix="pipeline-verify-"))
    try:
        ready = make_ready(job, fetches=False)
        try:
            if ready.reader.fingerprint != plan.facts.fingerprint:
                return Said(note=f"the source was changed since, {UNCOMPARED}")
            again = make_plan(folder / "plan", job, ready, run_id=run_id, limit=limit)
        finally:
            ready.close()
        return _compared(plan, again, pictures=ready.pictures is not None)
    except (JobError, StorageError) as error:
        return Said(note=f"the source was not looked at: {' '.join(str(error).split())}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compared(plan: Plan, again: Plan, *, pictures: bool) -> Said:
    if again.facts.requests != plan.facts.requests:
        return Said(f"the source gives {again.facts.requests:,} requests, the plan has {plan.facts.requests:,}")
    others = 0
    for old, new in _aligned(plan.read(prompts=pictures), again.read(prompts=pictures)):
        for nth in range(len(old)):
            if old.keys[nth] == new.keys[nth] and old.errors[nth] == new.errors[nth]:
                continue
            if not pictures or not _other_pictures(old, new, nth):
                return Said(f"request_key: row {old.at + nth + 1:,} ({old.row_ids[nth]}) has another key by the source")
            others += 1
        if not old.kept.equals(new.kept):
            pairs = enumerate(zip(old.kept.to_pylist(), new.kept.to_pylist(), strict=True))
            # Not-a-number equals itself here.
            nth = next((nth for nth, (one, two) in pairs if repr(one) != repr(two)), -1)
            if nth >= 0:
                name = f"row {old.at + nth + 1:,} ({old.row_ids[nth]})"
                return Said(f"{name} has other input columns by the source than by the plan")
    if others:
        rows = "1 row has a picture" if others == 1 else f"{others:,} rows have pictures"
        return Said(note=f"{rows} changed since, or not fetched again: keys there were not compared with the source")
    return Said()


def _aligned(one: Iterator[Planned], two: Iterator[Planned]) -> Iterator[tuple[Planned, Planned]]:
    """The requests of both side by side, in stretches of the same length."""
    old, new = next(one, None), next(two, None)
    while old is not None and new is not None:
        both = min(len(old), len(new))
        if both:
            yield next(old.pieces(both)), next(new.pieces(both))
        old = _rest(old, both) or next(one, None)
        new = _rest(new, both) or next(two, None)


def _rest(planned: Planned, start: int) -> Planned | None:
    if start >= len(planned):
        return None
    return Planned(
        planned.at + start,
        planned.keys[start:],
        planned.row_ids[start:],
        planned.prompts[start:],
        planned.errors[start:],
        planned.kept.slice(start),
        frozenset(nth - start for nth in planned.repeats if nth >= start),
    )


def _other_pictures(old: Planned, new: Planned, nth: int) -> bool:
    """Whether requests differ in nothing but the pictures that were found."""
    errors = old.errors[nth], new.errors[nth]
    if any(error is not None and error[0].startswith("image_") for error in errors):
        return True
    return _without_pictures(old.prompts[nth]) == _without_pictures(new.prompts[nth])


def _without_pictures(prompt: bytes | None) -> bytes | None:
    if prompt is None:
        return None
    found = references(prompt)
    return replaced(prompt, found, [b"picture"] * len(found))

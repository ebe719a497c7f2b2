"""What a start refuses to do without consent (exit 6); nothing was sent when it does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import GuardFailed
from pipeline.job import Job
from pipeline.journal import Journal
from pipeline.output import owner_of
from pipeline.report.words import many
from pipeline.run.naming import journal_path, run_id
from pipeline.run.plan import Facts, Plan
from pipeline.run.policy import Standing
from pipeline.run.publish import count

PAID_AGAIN_AT_ONCE = 1_000
"""Answered rows that a changed prompt or model may pay again without consent."""


def guard_output(job: Job, journal: Journal, limit: int | None) -> None:
    """Refuse to replace what others wrote, and to pay again for an output whose journal is lost.

    Raises:
        GuardFailed: the output is one of these.
    """
    own = job.output.path
    for output in {own, own.with_name(own.name.replace(f".first-{limit}", ""))}:
        found = owner_of(output, run_id(job))
        if output == own and found.job not in (None, job.name):
            raise GuardFailed(
                f"{output} is an output of the job {found.job}, and would be replaced; set another output.path, "
                f"use --output FILE, or say --yes to replace it{_of_another_name(job, found.job)}"
            )
        if output == own and found.job is None and _is_foreign(own, journal):
            raise GuardFailed(
                f"{output} is a table that is no output of this program; it would be replaced. Set another "
                "output.path, use --output FILE, or say --yes to replace it"
            )
        if found.job == job.name and found.run_id == run_id(job) and _is_unknown(found.run_id, journal):
            raise GuardFailed(
                f"{output} is an output of this run, but {journal_path(job)} knows nothing of it, so every row "
                "would be paid for again; bring the journal back, or say --yes to pay"
            )


def _of_another_name(job: Job, name: str) -> str:
    """What a job that was only renamed would lose, in words; nothing where no journal is kept by that name."""
    journal = job.state / f"{name}.sqlite"
    if not journal.exists():
        return ""
    return (
        f". If it is the same job by another name: its answers are in {journal}, and `name: {name}` finds them; "
        f"under the name {job.name} every row is asked and paid for again"
    )


def _is_unknown(run: str, journal: Journal) -> bool:
    """Whether a run has neither asked nor published; one whose rows all fail before sending asks nothing."""
    record = journal.run(run)
    return not journal.asked(run) and (record is None or not record.published)


def _is_foreign(output: Path, journal: Journal) -> bool:
    """Whether a file is a table with rows, and not one that this journal published and another program rewrote."""
    try:
        rows = pq.read_metadata(output).num_rows if output.is_file() else 0
    except (OSError, pa.ArrowException):
        return False
    records = [record for run in journal.runs() for record in (run.published or {}).values()]
    return rows > 0 and all(Path(record["output"]["path"]).resolve() != output.resolve() for record in records)


def guard_rows(job: Job, facts: Facts, limit: int | None) -> None:
    """Refuse a source with fewer rows than `expect.min_rows`; a trial's rows are not counted.

    Raises:
        GuardFailed: it has fewer.
    """
    wanted = job.expect.min_rows
    if limit is None and facts.rows < wanted:
        raise GuardFailed(
            f"the source gave {many(facts.rows, 'row')}, but expect.min_rows is {wanted:,}; "
            "nothing was sent. Mend the source, or set expect.min_rows"
            + (": 0 to accept an empty night" if facts.rows == 0 else "")
        )


def guard_failed(job: Job, fresh: Plan, journal: Journal, run_id: str) -> None:
    """Refuse to replace answers by a table of rows none of which can be asked any more.

    Raises:
        GuardFailed: each request fails before sending, and the run has answers.
    """
    facts = fresh.facts
    if not facts.requests or facts.unsendable < facts.requests or not journal.asked(run_id):
        return
    with closing(fresh.read(prompts=False)) as batches:
        row_id, (_, message) = next(
            (batch.row_ids[nth], error) for batch in batches for nth, error in enumerate(batch.errors) if error
        )
    what = "the only request fails" if facts.requests == 1 else f"all {facts.requests:,} requests fail"
    raise GuardFailed(
        f"{what} before sending, such as row {row_id}: {message}; nothing was sent, and {job.output.path} is left as "
        "it is. Mend that, or say --yes to write them as failed"
    )


def guard_paid(before: Plan, fresh: Plan, journal: Journal, standing: Standing) -> None:
    """Refuse to pay again for many answers because what is asked was changed.

    Args:
        before: the run's plan so far.
        fresh: the plan that would replace it.
        journal: with the answers to both.
        standing: of this start.

    Raises:
        GuardFailed: more than `PAID_AGAIN_AT_ONCE` answered rows would be paid for again.
    """
    changed = changes(before.facts.recipe, fresh.facts.recipe)
    if not changed:
        return
    to_ask = count(fresh, journal, standing).open
    rows = count(before, journal, standing).rows
    answered = sum(number for status, number in rows.items() if status not in ("pending", "failed"))
    if (paid_again := min(to_ask, answered)) > PAID_AGAIN_AT_ONCE:
        raise GuardFailed(
            f"changed since this run was planned: {', '.join(changed)}. {many(answered, 'row')} are answered as it "
            f"was, and {paid_again:,} would be paid for again; nothing was sent. Say --yes to pay, or use another "
            "job name, --param or --date to keep both"
        )


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What is asked otherwise than before (`recipe_parts`), in words."""
    words = {"model": f"request.model (was {before.get('model')})", "prompt": "prompt", "request": "request"}
    return [words[name] for name in words if before.get(name) != now.get(name)]

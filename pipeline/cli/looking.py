"""A job as one of its runs had it: for commands that look back at a run, and for what they write about it."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.job import Job, Overrides
    from pipeline.journal import RunRecord


def load_as_run(
    file: Path, run_date: date | None, scope: str, params: Mapping[str, Any], given: Overrides | None = None
) -> Job:
    """Load a job file with a run's date and params, and rehearsed where the run was a rehearsal.

    Args:
        file: the job file.
        run_date: the run's.
        scope: the run's endpoint scope; empty for the job's own.
        params: the run's; those that the job has no more are left out.
        given: what the command line says beside these.

    Raises:
        JobError: the job is broken, or became another one that these params do not fit.
    """
    from pipeline.job import Overrides, load

    given = replace(given or Overrides(), date=run_date)
    plain = load(file, given, environ=os.environ)
    changed = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in params.items()
        if name in plain.params and plain.params[name] != value
    }
    word = scope if scope in ("simulator", "embedded") and scope != plain.endpoint.scope else given.endpoint
    if not changed and word == given.endpoint:
        return plain
    return load(file, replace(given, params={**given.params, **changed}, endpoint=word), environ=os.environ)


def trial_of(run: RunRecord) -> int | None:
    """The number of requests of a run that was only ever tried; None for one that was planned whole."""
    first = re.search(r"\.first-(\d+)$", run.plan or "")
    return int(first[1]) if first else None


def load_latest(file: Path, overrides: Overrides) -> Job:
    """Load a job as its latest run had it, where the command line selects none; `output.path` is that run's own.

    Raises:
        JobError: the job is broken, never ran, or has no such run.
        StorageError: the journal cannot be read.
    """
    from pipeline.job import load
    from pipeline.job.load import trial_path
    from pipeline.journal import Journal
    from pipeline.journal.maintenance import params_of
    from pipeline.run.look import find_run
    from pipeline.run.naming import journal_path

    job = load(file, overrides, environ=os.environ)
    journal = Journal.read(journal_path(job))
    # Without one there is nothing to look back at, as whoever wants it will say.
    if journal is None:
        return job
    try:
        chosen = bool(overrides.date or overrides.params or overrides.endpoint)
        run = find_run(job, journal, chosen=chosen)
        params = params_of(journal, run.id)
    finally:
        journal.close()
    if not chosen:
        job = load_as_run(file, run.run_date, run.scope, params, overrides)
    if overrides.output is not None:
        return job
    # A server of one's own was named by its URL, which the journal does not keep.
    elsewhere = run.scope if run.scope != job.endpoint.scope else None
    path = trial_path(job.output.path, elsewhere, trial_of(run))
    return replace(job, output=job.output.model_copy(update={"path": path}))

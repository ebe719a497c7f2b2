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
    from pipeline.journal import Journal, RunRecord
    from pipeline.run.look import Chosen


def load_as_run(
    file: Path,
    run_date: date | None,
    scope: str,
    params: Mapping[str, Any],
    given: Overrides | None = None,
    *,
    host: str = "",
) -> Job:
    """Load a job file with a run's date and params, and rehearsed where the run was a rehearsal.

    Args:
        file: the job file.
        run_date: the run's.
        scope: the run's endpoint scope; empty for the job's own.
        params: the run's; those that the job has no more are left out.
        given: what the command line says beside these.
        host: that answered the run, as the output's column `endpoint` has it; empty where that is not known.

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
    word = given.endpoint
    if scope in ("simulator", "embedded"):
        word = scope if scope != plain.endpoint.scope else word
    elif host and host != plain.endpoint.host:
        # Whatever the run's URL was beside: nothing is sent, and host and scope are what tells it apart.
        word = f"{'https' if scope == 'public' else 'http'}://{host}"
    if not changed and word == given.endpoint:
        return plain
    return load(file, replace(given, params={**given.params, **changed}, endpoint=word), environ=os.environ)


def trial_of(run: RunRecord) -> int | None:
    """The number of requests of a run that was only ever tried; None for one that was planned whole."""
    first = re.search(r"\.first-(\d+)$", run.plan or "")
    return int(first[1]) if first else None


def chosen_by(overrides: Overrides) -> Chosen:
    """What the command line says of the run that is meant."""
    from pipeline.run.look import Chosen

    return Chosen(overrides.date is not None, frozenset(overrides.params), overrides.endpoint is not None)


def load_of_run(file: Path, run: RunRecord, journal: Journal, job: Job, given: Overrides) -> Job:
    """Load a job as a run had it, as far as the command line leaves that open.

    Args:
        file: the job file.
        run: whose job it is.
        journal: knows the rest of the run.
        job: the same, as the command line alone has it.
        given: what the command line says.

    Raises:
        JobError: the job is broken, or became another one that the run's params do not fit.
        StorageError: the journal cannot be read.
    """
    from pipeline.journal.maintenance import params_of
    from pipeline.run.look import host_of

    elsewhere = given.endpoint is None and run.scope != job.endpoint.scope
    host = host_of(job, journal, run) if elsewhere else ""
    return load_as_run(file, run.run_date, run.scope, params_of(journal, run.id), given, host=host)


def load_latest(file: Path, overrides: Overrides) -> Job:
    """Load a job as the run that is meant had it, the latest that fits the command line; with that run's `output.path`.

    Raises:
        JobError: the job is broken, never ran, or has no such run.
        StorageError: the journal cannot be read.
    """
    from pipeline.job import load
    from pipeline.job.load import trial_path
    from pipeline.journal import Journal
    from pipeline.run.look import find_run
    from pipeline.run.naming import journal_path

    job = load(file, overrides, environ=os.environ)
    journal = Journal.read(journal_path(job))
    # Without one there is nothing to look back at, as whoever wants it will say.
    if journal is None:
        return job
    try:
        run = find_run(job, journal, chosen=chosen_by(overrides))
        job = load_of_run(file, run, journal, job, overrides)
    finally:
        journal.close()
    if overrides.output is not None:
        return job
    # Where nothing was answered yet, a server that was named by its URL is not known.
    elsewhere = run.scope if run.scope != job.endpoint.scope else None
    path = trial_path(job.output.path, elsewhere, trial_of(run))
    return replace(job, output=job.output.model_copy(update={"path": path}))

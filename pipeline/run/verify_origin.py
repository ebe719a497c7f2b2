"""Where an output comes from: its journal, and its job as the run had it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from pipeline.answer import contract
from pipeline.errors import JobError, StorageError
from pipeline.job import Job
from pipeline.journal import Journal, RunRecord
from pipeline.journal.maintenance import params_of
from pipeline.run.naming import journal_path
from pipeline.run.plan import Plan, identity

LEVELS = 4
"""So many folders above an output are searched for its journal, with the folders in them."""

_NAME = re.compile(r"^[\"']?name[\"']?\s*:\s*[\"']?([a-z0-9-]+)", re.MULTILINE)


class Load(Protocol):
    """Loads a job file as a run had it."""

    def __call__(
        self, file: Path, run_date: date | None, scope: str, params: Mapping[str, Any], *, host: str = ""
    ) -> Job:
        """Load it.

        Args:
            file: the job file.
            run_date: the run's.
            scope: the run's endpoint scope; empty for the job's own.
            params: the run's.
            host: that answered, where it is not the job's own.

        Raises:
            JobError: the job is broken, or does not fit.
        """


@dataclass(frozen=True, slots=True)
class Origin:
    """A journal, and the files that may be the job's, the likeliest first."""

    journal: Path
    jobs: Sequence[Path]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A job, and what of it is not as the run had it, in words; empty where the plan would be made again like this."""

    job: Job
    file: Path
    otherwise: str


def origin_of(output: Path, job: str, run_id: str, run_date: date | None, named: Path | None, load: Load) -> Origin:
    """The journal and the job file: as named, or the nearest ones that know the run, or at least the job.

    Raises:
        JobError: there are none, or the named ones are another job's.
        StorageError: the only journal there is cannot be read.
    """
    if named is not None:
        loaded = load(named, run_date, "", {})
        if loaded.name != job:
            raise JobError(f"{output} is an output of the job {job}, but {named} is {loaded.name}")
        return Origin(journal_path(loaded), [named])
    trouble: JobError | StorageError | None = None
    strange: Origin | None = None
    for state in _states(output):
        journal_file = state / f"{job}.sqlite"
        jobs = _jobs(state.parent, job) if journal_file.is_file() else []
        if not jobs:
            continue
        below = state.resolve().parent in output.resolve().parents
        try:
            knows = _knows(journal_file, run_id, output, below=below)
        except (JobError, StorageError) as error:
            # Another's, for all that is known yet.
            trouble = trouble or error
            continue
        if knows:
            return Origin(journal_file, jobs)
        if below and strange is None:
            strange = Origin(journal_file, jobs)
    if strange is not None:
        return strange
    if trouble is not None:
        raise trouble
    raise JobError(f"{output}: no journal and job file of {job} were found near it; name the job: --job JOB")


def _knows(journal_file: Path, run_id: str, output: Path, *, below: bool) -> bool:
    """Whether the output is one of this journal's: published there, or lying below the job, and of a run it has."""
    journal = Journal.read(journal_file)
    if journal is None:
        return False
    try:
        run = journal.run(run_id)
    finally:
        journal.close()
    return run is not None and (below or record_of(output, run) is not None)


def record_of(output: Path, run: RunRecord) -> tuple[str, Mapping[str, Any]] | None:
    """The plan's folder and the record of what was published at this path, if anything was."""
    here = output.resolve()
    for folder, record in (run.published or {}).items():
        if Path(record["output"]["path"]).resolve() == here:
            return str(folder), record
    return None


def _states(output: Path) -> Iterator[Path]:
    """Folders of journals, the nearest first: above the output and where the shell is, and in folders beside these."""
    seen: set[Path] = set()
    for start in (output.absolute().parent, Path.cwd()):
        for folder in islice((start, *start.parents), LEVELS):
            beside = sorted(path for path in folder.glob("*/.pipeline") if path.is_dir())
            for state in (folder / ".pipeline", *beside):
                if state not in seen:
                    seen.add(state)
                    yield state


def _jobs(folder: Path, name: str) -> list[Path]:
    """Files that say they are this job, the one that is called like it first; whether they are sound is seen later."""
    found = [path for path in sorted((*folder.glob("*.yaml"), *folder.glob("*.yml"))) if _is_named(path, name)]
    return sorted(found, key=lambda path: path.stem != name)


def _is_named(job_file: Path, name: str) -> bool:
    try:
        text = job_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    written = _NAME.search(text)
    return (written[1] if written else job_file.stem) == name


def job_of_run(
    origin: Origin, journal: Journal, run: RunRecord, plan: Plan, trial: int | None, hosts: Sequence[str], load: Load
) -> Loaded:
    """Load the job as the run had it: of several files, and hosts that answered, those that the plan was made with.

    Args:
        origin: the files that may be the job's.
        journal: knows the run's params.
        run: whose job it is.
        plan: of the run.
        trial: so many requests of it were planned; None for all.
        hosts: that answered, as the output's column `endpoint` has them.
        load: loads a job file.

    Raises:
        JobError: none of the files can be loaded; the first complaint.
    """
    params = params_of(journal, run.id)
    best: Loaded | None = None
    trouble: JobError | None = None
    for file in origin.jobs:
        for host in ("", *hosts):
            try:
                job = load(file, run.run_date, run.scope, params, host=host)
                same = identity(job, contract(job), trial) == plan.facts.identity
            except JobError as error:
                # A neighbour of the same name may be broken; it matters where there is no other.
                trouble = trouble or error
                continue
            if same:
                return Loaded(job, file, "")
            if best is None or (job.endpoint.scope == run.scope) > (best.job.endpoint.scope == run.scope):
                best = Loaded(job, file, _otherwise(job, file, run, params))
    if best is None:
        assert trouble is not None
        raise trouble
    return best


def _otherwise(job: Job, file: Path, run: RunRecord, params: Mapping[str, Any]) -> str:
    """What of a job is not as the run had it."""
    if job.endpoint.scope != run.scope:
        return f"the run asked a server of the scope {run.scope}, and which one is nowhere written down"
    gone = sorted(params.keys() - job.params.keys())
    if gone:
        return f"{file} has no param {', '.join(gone)} any more"
    other = [name for name in params if job.params[name] != params[name]]
    if other:
        return f"{file} no longer takes the run's {', '.join(f'{name}={params[name]}' for name in other)}"
    return f"{file}, a file that it names, its place or the program was changed since the run was planned"

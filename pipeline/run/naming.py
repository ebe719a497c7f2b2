"""What a run is called, and where its journal and its plans lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pipeline.errors import StorageError
from pipeline.job import Job


def run_id(job: Job) -> str:
    """``name``, ``name@date``, and a short hash where params or the endpoint's scope are not those of the file."""
    told_apart = {name: str(value) for name, value in job.changed_params.items()}
    if job.endpoint.scope != job.endpoint.home_scope:
        told_apart["\0scope"] = job.endpoint.scope
    date = f"@{job.run_date.isoformat()}" if job.run_date else ""
    if not told_apart:
        return job.name + date
    text = json.dumps(told_apart, sort_keys=True)
    return f"{job.name}{date}~{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"


def journal_path(job: Job) -> Path:
    """The journal's file."""
    return job.state / f"{job.name}.sqlite"


def plan_folder(job: Job, run: str, limit: int | None) -> str:
    """The plan's folder, relative to the state folder."""
    return f"{job.name}.plans/{run}" + (f".first-{limit}" if limit is not None else "")


def make_state(folder: Path) -> None:
    """Make the folder of journal and plans, for its owner only.

    Raises:
        StorageError: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"{folder}: the folder for journal and plans cannot be made: {error.strerror}; set `state:`"
        ) from error

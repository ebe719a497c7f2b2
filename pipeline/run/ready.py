"""A job made ready: its source opened, its templates prepared, and decided what is sent beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.answer import Contract, contract
from pipeline.errors import Complaint
from pipeline.job import Job
from pipeline.prompt import CacheMarks, KeyRecipe, Prompts, cache_marks, cache_warnings, needed_columns
from pipeline.source import Reader, open_source


@dataclass(frozen=True, slots=True)
class Ready:
    """What planning and asking stand on.

    Attributes:
        reader: the opened source.
        prompts: renders its rows.
        contract: what is sent beside the prompts, and how answers are read.
        recipe: makes the requests' keys.
        marks: where `prompt.cache` has the API keep what requests share; put on right before sending.
        warnings: what is no mistake and yet worth knowing before anything is sent.
    """

    reader: Reader
    prompts: Prompts
    contract: Contract
    recipe: KeyRecipe
    marks: CacheMarks
    warnings: tuple[Complaint, ...] = ()


def make_ready(job: Job, spill: Path | None = None) -> Ready:
    """Open the source for what the templates need, and prepare the templates for what the source has.

    Args:
        job: the loaded job.
        spill: where large inputs are sorted, by the time they are read; the system's folder by default.

    Raises:
        JobError: the source cannot be read, templates name what it lacks, or answers cannot be asked for as it says.
    """
    agreed = contract(job)
    reader = open_source(job, needed_columns(job), spill=spill)
    prompts = Prompts(job, reader.columns, instructions=agreed.instructions)
    return Ready(
        reader,
        prompts,
        agreed,
        KeyRecipe(job, agreed.fields),
        cache_marks(job, prompts, agreed.fields),
        (*job.warnings, *cache_warnings(job, prompts, agreed.fields)),
    )

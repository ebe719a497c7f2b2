"""A job made ready: its source opened, its templates prepared, and decided what is sent beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.answer import Contract, contract
from pipeline.errors import Complaint
from pipeline.job import Job
from pipeline.prompt import (
    CacheMarks,
    KeyRecipe,
    Prompts,
    cache_marks,
    cache_warnings,
    needed_columns,
    prompt_warnings,
)
from pipeline.prompt.pictures import Pictures, Shelf, picture_columns
from pipeline.source import Inferred, Reader, open_source


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
        pictures: finds and prepares the pictures that rows name; None where the job has none.
    """

    reader: Reader
    prompts: Prompts
    contract: Contract
    recipe: KeyRecipe
    marks: CacheMarks
    warnings: tuple[Complaint, ...] = ()
    pictures: Pictures | None = None

    def close(self) -> None:
        """Let go of pictures."""
        if self.pictures is not None:
            self.pictures.close()


def make_ready(
    job: Job, spill: Path | None = None, *, known: Inferred | None = None, keeps: bool = False, fetches: bool = True
) -> Ready:
    """Open the source for what the templates need, and prepare the templates for what the source has.

    Args:
        job: the loaded job.
        spill: where large inputs are sorted, by the time they are read; the system's folder by default.
        known: what an earlier plan's reader inferred of the columns, which holds as long as no file has changed.
        keeps: what is learnt of pictures is kept beside the journal, whose lock the caller holds.
        fetches: pictures may be fetched from where their URLs point.

    Raises:
        JobError: the source cannot be read, templates name what it lacks, or answers cannot be asked for as it says.
    """
    agreed = contract(job)
    columns = picture_columns(job)
    reader = open_source(job, needed_columns(job, also=columns), known=known, spill=spill)
    pictures = None
    if columns:
        path = job.state / f"{job.name}.pictures.sqlite"
        pictures = Pictures(job, Shelf(path) if keeps else Shelf(None, below=path), fetches=fetches)
    prompts = Prompts(job, reader.columns, instructions=agreed.instructions, pictures=pictures, binary=reader.binary)
    return Ready(
        reader,
        prompts,
        agreed,
        KeyRecipe(job, agreed.fields),
        cache_marks(job, prompts, agreed.fields),
        (
            *job.warnings,
            *_left_out(job, reader),
            *prompt_warnings(job, prompts, reader.columns),
            *cache_warnings(job, prompts, agreed.fields),
        ),
        pictures,
    )


def _left_out(job: Job, reader: Reader) -> Iterator[Complaint]:
    if reader.skipped:
        words = "file there is no picture, and is" if reader.skipped == 1 else "files there are no pictures, and are"
        yield job.complain("source.path", f"{reader.skipped:,} {words} left out")

"""What the caller tells a run report: what was asked, the plan's rows with their outcomes, and how answers are read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from pipeline.records import Key
from pipeline.report.run.album import Album


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the plan.

    Attributes:
        row: its name in messages.
        status: as the output's column has it.
        key: None where the request failed before sending.
        attempt: the attempt whose outcome the run refers to; None while it is pending, or was never sent.
        error: (error_type, error_message) of a request that failed before sending.
        repeats: it stands earlier in the plan too, and shares that row's outcome.
    """

    row: str
    status: str
    key: Key | None = None
    attempt: int | None = None
    error: tuple[str, str] | None = None
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some rows of the plan, in order, and their kept input columns."""

    lines: Sequence[Line]
    kept: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Laid:
    """Some rows of the plan, in order, with their prompts (None where there is none) and kept input columns."""

    prompts: Sequence[bytes | None]
    kept: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Pictured:
    """What a contact sheet is made of.

    Attributes:
        album: finds pictures again.
        lay: walks the plan's rows once more.
        most: cards at most; None for the usual number, and no longer than is usual.
    """

    album: Album
    lay: Callable[[], Iterable[Laid]]
    most: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """An answer as the output has it: its text (None where there is no response) and the typed columns."""

    text: str | None
    values: Mapping[str, Any]


Inputs = Callable[[Collection[int]], Mapping[int, Mapping[str, Any]]]
"""Looks up the kept input columns of rows by their places in the plan, from 0."""

Reader = Callable[[Mapping[Key, int]], Mapping[Key, Read]]
"""Reads the answers of some keys, given with the attempt that each refers to."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit of the job: its name in the file, and how many a minute; for `concurrency`, at once. None: not set."""

    name: str
    amount: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a run was asked to do.

    Attributes:
        run: the run's id in the journal.
        run_id: its name.
        job: the job's name.
        description: of the job.
        run_date: the logical date.
        scope: embedded, simulator, local or public.
        trial: the plan is the beginning of a run, so many requests; None for a whole one.
        completed_at: when it was last complete.
        file: the job file as it is to be named.
        job_text: what stands in it now.
        planless: the plan is gone, and the rows are those of the published output.
        changed: the job, the files it names or the program are not those that the run was planned with.
        model: that is asked.
        endpoint: host or word.
        request: what goes on the wire beside the prompt.
        limits: of the job.
        prompt_row: the row that `prompt` is of.
        prompt: the `system` and `messages` of one row, as JSON; None where no row has a prompt.
        output: the published output, in words.
        summary: the summary of the start that published last, or of the last that was stopped, where there is one.
        mask: hides values of the environment in text.
    """

    run: int
    run_id: str
    job: str
    scope: str
    file: str
    job_text: str
    model: str
    endpoint: str
    description: str = ""
    run_date: date | None = None
    trial: int | None = None
    completed_at: datetime | None = None
    planless: bool = False
    changed: bool = False
    request: Mapping[str, Any] = field(default_factory=dict)
    limits: Sequence[Limit] = ()
    prompt_row: str = ""
    prompt: bytes | None = None
    output: str = ""
    summary: Mapping[str, Any] = field(default_factory=dict)
    mask: Callable[[str], str] = str


@dataclass(frozen=True, slots=True)
class Told:
    """All that a run report is made of, beside the journal.

    Attributes:
        asked: what the run was asked to do.
        stretches: the plan's rows in order, walked once.
        read: reads answers.
        pictured: where rows have pictures, and some are to be shown.
        inputs: tells what is in rows that are named.
    """

    asked: Asked
    stretches: Iterable[Stretch]
    read: Reader
    pictured: Pictured | None = None
    inputs: Inputs = lambda _: {}

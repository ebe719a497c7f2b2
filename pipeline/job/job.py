"""A job, read and resolved: what all other rooms are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from pipeline.errors import Complaint
from pipeline.job.answer import Answer
from pipeline.job.endpoint import Endpoint
from pipeline.job.nodes import Places
from pipeline.job.prices import ModelPrice
from pipeline.job.request import RequestFields
from pipeline.job.sections import Budget, Example, Expect, Limits, Output, ParamValue, Prompt, Source
from pipeline.job.words import mask, one_line


@dataclass(frozen=True)
class Overrides:
    """What the command line puts in place of what the file says.

    Attributes:
        params: values of the file's params, as text.
        date: the run's date.
        endpoint: `embedded`, `simulator`, or a URL.
        api_key_env: the variable that holds the key.
        output: where to write, relative to the shell's directory.
        output_folder: that is a directory of parts, as its text ends in ``/``.
        limit: how many requests this start is about, at most; it does not change what the run is.
        budget: USD that the run may cost, in place of `budget.run_usd`.
    """

    params: Mapping[str, str] = field(default_factory=dict)
    date: date | None = None
    endpoint: str | None = None
    api_key_env: str | None = None
    output: Path | None = None
    output_folder: bool = False
    limit: int | None = None
    budget: float | None = None


@dataclass(frozen=True, repr=False)
class Job:
    """A job, every name filled in and every path absolute. Its text form shows its name and file alone.

    Attributes:
        file: the job file, absolute.
        directory: where its relative paths start.
        name: names the journal.
        description: a sentence, or nothing.
        params: the file's params, overrides applied.
        changed_params: those that an override made differ from what the file says.
        run_date: the logical date; None where the job neither names ``${date}`` nor was given a date.
        timezone: a name that zoneinfo knows; ``UTC`` needs no zone data.
        tags: labels for cost reports.
        reuse: whether equal requests share an answer.
        state: the directory of journal and plans.
        source: `path` holds absolute paths and globs.
        prompt: its files read.
        request: what goes on the wire beside the prompt.
        endpoint: whom to ask.
        limits: spans in seconds.
        prices: by model, USD per million tokens; several have days they hold for, no two the same.
        expect: guards.
        output: `path` is the file to write, a trial's or rehearsal's own name applied.
        tests: the job's own examples, named.
        secrets: values that came from the environment, to be masked; those of fewer than 4 characters are none.
        answer: what an answer must look like, its schema's file read.
        budget: USD that are not to be passed.
        warnings: what is no mistake and yet worth knowing before anything is sent, in the order of the file.
    """

    file: Path
    directory: Path
    name: str
    description: str
    params: Mapping[str, ParamValue]
    changed_params: Mapping[str, ParamValue]
    run_date: date | None
    timezone: str
    tags: Mapping[str, str]
    reuse: bool
    state: Path
    source: Source
    prompt: Prompt
    request: RequestFields
    endpoint: Endpoint
    limits: Limits
    prices: Mapping[str, ModelPrice | tuple[ModelPrice, ...]]
    expect: Expect
    output: Output
    tests: tuple[Example, ...]
    secrets: frozenset[str]
    shown_file: str
    places: Places
    secret_names: Mapping[str, str]
    answer: Answer = field(default_factory=Answer)
    budget: Budget = field(default_factory=Budget)
    warnings: tuple[Complaint, ...] = ()

    def complain(self, path: str, message: str) -> Complaint:
        """Complain about a place, such as ``prompt.user`` or ``source.columns.2``: with file, line and column.

        A path that the file does not have gets the place of its deepest ancestor there. Secrets are masked.
        """
        mark = self.places.at(path)
        where = f"{self.shown_file}:{mark.line}:{mark.column}"
        return Complaint(one_line(where), one_line(path), one_line(self.mask(message)))

    def mask(self, text: str) -> str:
        """Put ``${env:NAME}`` where a value from the environment stands."""
        return mask(text, self.secret_names)

    def __repr__(self) -> str:
        return f"Job({self.name!r}, file={str(self.file)!r})"

"""What this room reads of a job, as structural types.

`pipeline.job.Job` has this shape, and so may a small value of a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Protocol

from pipeline.errors import Complaint

# ruff: noqa: D102 - the members are documented where the job file is


class Turn(Protocol):
    """One turn of `prompt.messages`; its content is a template."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...


class Dataset(Protocol):
    """How DATASET is written; no columns are all columns."""

    @property
    def format(self) -> str: ...
    @property
    def columns(self) -> Sequence[str] | None: ...


class PromptSection(Protocol):
    """The section `prompt`, its files already read."""

    @property
    def system(self) -> str | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def messages(self) -> Sequence[Turn]: ...
    @property
    def dataset(self) -> Dataset: ...
    @property
    def delimiters(self) -> Sequence[str]: ...


class RequestSection(Protocol):
    """The section `request`."""

    def wire(self) -> Mapping[str, Any]: ...


class EndpointSection(Protocol):
    """The section `endpoint`, resolved."""

    @property
    def scope(self) -> str: ...
    @property
    def version(self) -> str | None: ...


class Example(Protocol):
    """One of the job's own `tests`: a row, or rows, and what they come out as."""

    @property
    def name(self) -> str | None: ...
    @property
    def row(self) -> Mapping[str, Any] | None: ...
    @property
    def rows(self) -> Sequence[Mapping[str, Any]] | None: ...
    @property
    def prompt(self) -> str | None: ...
    @property
    def system(self) -> str | None: ...


class PromptJob(Protocol):
    """What rendering needs."""

    @property
    def params(self) -> Mapping[str, Any]: ...
    @property
    def run_date(self) -> date | None: ...
    @property
    def prompt(self) -> PromptSection: ...
    def complain(self, path: str, message: str) -> Complaint: ...


class TestedJob(PromptJob, Protocol):
    """What checking the job's own examples needs."""

    @property
    def tests(self) -> Sequence[Example]: ...


class KeyedJob(Protocol):
    """What a request key is made of, besides the prompt."""

    @property
    def request(self) -> RequestSection: ...
    @property
    def endpoint(self) -> EndpointSection: ...

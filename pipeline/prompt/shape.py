"""What this room reads of a job, as structural types.

`pipeline.job.Job` has this shape, and so may a small value of a test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, Literal, Protocol, TypeAlias

from pipeline.errors import Complaint
from pipeline.records import Row

# ruff: noqa: D102 - the members are documented where the job file is


class TextBlock(Protocol):
    """A text block: its text is a template; `wire` gives the block as an object."""

    @property
    def text(self) -> str: ...
    def wire(self) -> Mapping[str, Any]: ...


Content: TypeAlias = str | Sequence[TextBlock | Mapping[str, Any]]
"""A template, or blocks; those that are no text go as they are."""


class Turn(Protocol):
    """One turn of `prompt.messages`."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> Content: ...


class Dataset(Protocol):
    """How DATASET is written; no columns are all columns."""

    @property
    def format(self) -> str: ...
    @property
    def columns(self) -> Sequence[str] | None: ...


class PromptSection(Protocol):
    """The section `prompt`, its files already read."""

    @property
    def system(self) -> Content | None: ...
    @property
    def user(self) -> str | None: ...
    @property
    def messages(self) -> Sequence[Turn]: ...
    @property
    def dataset(self) -> Dataset: ...
    @property
    def delimiters(self) -> Sequence[str]: ...


class CachedPromptSection(PromptSection, Protocol):
    """The section `prompt`, with how long the API keeps what rows share."""

    @property
    def cache(self) -> Literal[False, "5m", "1h"]: ...


class RequestSection(Protocol):
    """The section `request`."""

    def wire(self) -> Mapping[str, Any]: ...


class RowPictures(Protocol):
    """Whoever writes the blocks of a row's pictures."""

    columns: tuple[str, ...]

    def look(self, rows: Iterable[Row]) -> None: ...
    def blocks(self, row: Row) -> bytes: ...


class EndpointSection(Protocol):
    """The section `endpoint`, resolved."""

    @property
    def scope(self) -> str: ...
    @property
    def version(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


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


class AskedEndpoint(Protocol):
    """What is known of a host before it is asked."""

    @property
    def scope(self) -> str: ...
    @property
    def home_scope(self) -> str: ...
    @property
    def host(self) -> str: ...


class CachedJob(Protocol):
    """What marking the shared prefix needs."""

    @property
    def prompt(self) -> CachedPromptSection: ...
    @property
    def endpoint(self) -> AskedEndpoint: ...
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

"""A job as far as its source is concerned, and short ways to read it whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Complaint, JobError
from pipeline.source import open_source


@dataclass(frozen=True)
class Csv:
    separator: str | None = None
    encoding: str = "utf-8"
    null_values: Sequence[str] = ()


@dataclass(frozen=True)
class Source:
    path: Sequence[str]
    format: str = "auto"
    csv: Csv = Csv()
    types: Mapping[str, str] = field(default_factory=dict)
    where: str | None = None
    columns: Sequence[str] | None = None
    id: Sequence[str] | None = None
    limit: int | None = None
    sort_by: Sequence[str] | None = None
    group_by: Sequence[str] | None = None
    rows_per_request: int | None = None


@dataclass(frozen=True)
class Output:
    keep: str | Sequence[str] = "all"


@dataclass(frozen=True)
class Expect:
    min_rows: int = 1


@dataclass(frozen=True)
class Job:
    source: Source
    output: Output = Output()
    expect: Expect = Expect()

    def complain(self, path: str, message: str, /) -> Complaint:
        return Complaint("", path, message)


def job(*paths: Path | str, keep: str | Sequence[str] = "all", **options: Any) -> Job:
    return Job(Source([str(path) for path in paths], **options), Output(keep))


def kept(asked: Job, needed: frozenset[str] | None = None, **more: Any) -> list[dict[str, Any]]:
    """The kept columns of all requests."""
    return [row for batch in open_source(asked, needed, **more).batches() for row in batch.kept.to_pylist()]


def rows(asked: Job, needed: frozenset[str] | None = None, **more: Any) -> list[tuple[str, list[dict[str, Any]]]]:
    """Name and rows of all requests."""
    batches = open_source(asked, needed, **more).batches()
    return [(row.id, [dict(values) for values in row.rows]) for batch in batches for row in batch.rows]


def refused(asked: Job, **more: Any) -> list[tuple[str, str]]:
    """What is wrong with a job, as place and message; it is an error that nothing is."""
    with pytest.raises(JobError) as caught:
        rows(asked, **more)
    assert "\n" not in "".join(complaint.message for complaint in caught.value.complaints)
    return [(complaint.path, complaint.message) for complaint in caught.value.complaints]


def refusal(asked: Job, **more: Any) -> str:
    """The one thing wrong with a job, as ``place: message``."""
    [(path, message)] = refused(asked, **more)
    return f"{path}: {message}"

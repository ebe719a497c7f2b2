"""Jobs as far as the prompt room reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from pipeline.errors import Complaint
from pipeline.records import Row


@dataclass(frozen=True)
class ABlock:
    text: str
    members: Mapping[str, Any] = field(default_factory=dict)

    def wire(self) -> Mapping[str, Any]:
        return {"type": "text", "text": self.text, **self.members}


AContent = str | tuple[ABlock | Mapping[str, Any], ...]


@dataclass(frozen=True)
class ATurn:
    role: str
    content: AContent


@dataclass(frozen=True)
class ADataset:
    format: str = "csv"
    columns: tuple[str, ...] | None = None


@dataclass(frozen=True)
class APrompt:
    user: str | None = None
    system: AContent | None = None
    messages: tuple[ATurn, ...] = ()
    dataset: ADataset = field(default_factory=ADataset)
    delimiters: tuple[str, str] = ("<<", ">>")
    cache: Literal[False, "5m", "1h"] = False


@dataclass(frozen=True)
class ARequest:
    fields: Mapping[str, Any] = field(default_factory=lambda: {"model": "claude-sonnet-4-5", "max_tokens": 1024})

    def wire(self) -> Mapping[str, Any]:
        return self.fields


@dataclass(frozen=True)
class AnEndpoint:
    scope: str = "public"
    version: str | None = "2023-06-01"
    home_scope: str = "public"
    host: str = "api.anthropic.com"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AnExample:
    name: str | None = None
    row: Mapping[str, Any] | None = None
    rows: Sequence[Mapping[str, Any]] | None = None
    prompt: str | None = None
    system: str | None = None


@dataclass(frozen=True)
class AJob:
    prompt: APrompt = field(default_factory=APrompt)
    params: Mapping[str, Any] = field(default_factory=dict)
    run_date: date | None = None
    request: ARequest = field(default_factory=ARequest)
    endpoint: AnEndpoint = field(default_factory=AnEndpoint)
    tests: tuple[AnExample, ...] = ()

    def complain(self, path: str, message: str) -> Complaint:
        return Complaint("job.yaml:1:1", path, message)


def asking(
    user: str,
    *,
    params: Mapping[str, Any] | None = None,
    run_date: date | None = None,
    dataset: ADataset | None = None,
    delimiters: tuple[str, str] = ("<<", ">>"),
) -> AJob:
    """A job whose user turn is this template."""
    prompt = APrompt(user=user, dataset=dataset or ADataset(), delimiters=delimiters)
    return AJob(prompt=prompt, params=params or {}, run_date=run_date)


def one(**values: Any) -> Row:
    """A row on its own."""
    return Row("r1", [values])


def group(*rows: Mapping[str, Any]) -> Row:
    """Rows that share a request."""
    return Row("g1", rows)

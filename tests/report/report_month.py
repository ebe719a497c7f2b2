"""A month of nights as outputs on disk, beside the ledger of every call that was answered."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.cost import Pricer
from pipeline.output import OWN_COLUMNS, publish
from pipeline.records import Usage

MODELS = ("claude-haiku-5-5", "claude-sonnet-5", "claude-opus-5-5")
JOBS = ("anomaly-nightly", "captions", "triage")
FIRST = date(2026, 10, 1)


@dataclass(frozen=True)
class Call:
    """A call that the server answered: what its ledger holds."""

    at: datetime
    run: str
    job: str
    model: str
    usage: Usage
    nanos: int


@dataclass
class Row:
    """A row of an output, as it is written."""

    status: str = "ok"
    model: str = "claude-sonnet-5"
    usage: Usage | None = field(default_factory=Usage)
    nanos: int | None = 0
    attempts: int = 1
    reused: bool = False
    key: str | None = None
    completed_at: datetime | None = None
    endpoint: str = "api.anthropic.com"
    priced_by: str | None = "table"
    values: Mapping[str, Any] = field(default_factory=dict)


def write_output(
    path: Path,
    rows: Sequence[Row],
    *,
    job: str = "nightly",
    run: str = "nightly",
    run_date: date | None = None,
    scope: str = "public",
    prefix: str = "",
    tags: Mapping[str, str] | None = None,
    superseded: Mapping[str, int] | None = None,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write an output as a run publishes it."""
    own = [each.with_name(prefix + each.name) for each in OWN_COLUMNS]
    kept = [pa.field(name, pa.string()) for name in (rows[0].values if rows else {})]
    told = {
        "job": job,
        "run_id": run,
        "run_date": run_date.isoformat() if run_date else "",
        "scope": scope,
        "tags": json.dumps(dict(tags or {})),
        "prefix": prefix,
        "version": "0.1.0",
        **(facts or {}),
    }
    schema = pa.schema([*kept, *own], metadata={f"pipeline.{name}": value for name, value in told.items()})
    lines = [_line(row, prefix, job, run, run_date) for row in rows]
    batch = pa.RecordBatch.from_pylist(lines, schema=schema)
    gone = {model: nanos / 1e9 for model, nanos in (superseded or {}).items()}
    publish(path, schema, [batch], lambda: {"superseded": json.dumps(gone)})
    return path


def _line(row: Row, prefix: str, job: str, run: str, run_date: date | None) -> dict[str, Any]:
    usage = row.usage
    own = {
        "status": row.status,
        "model": row.model,
        "input_tokens": usage and usage.input_tokens,
        "output_tokens": usage and usage.output_tokens,
        "cache_write_tokens": usage and usage.cache_write_tokens,
        "cache_read_tokens": usage and usage.cache_read_tokens,
        "cost_usd": None if row.nanos is None else row.nanos / 1e9,
        "priced_by": row.priced_by,
        "attempts": row.attempts,
        "reused": row.reused,
        "request_key": row.key,
        "endpoint": row.endpoint,
        "job": job,
        "run_id": run,
        "run_date": run_date,
        "completed_at": row.completed_at,
    }
    return {**row.values, **{prefix + name: value for name, value in own.items()}}


@dataclass
class Month:
    """Outputs in a folder, and the ledger they must add up to."""

    folder: Path
    ledger: list[Call]
    superseded: int
    rows: int


def make_month(folder: Path, *, seed: int = 7, nights: int = 30, rows: int = 40) -> Month:
    """Write a month: a run a night, three models, cache, failures, repairs, reuse, a prompt changed on the way."""
    chance = random.Random(seed)
    pricer = Pricer({})
    ledger: list[Call] = []
    superseded = total = 0
    for night in range(nights):
        day = FIRST + timedelta(days=night)
        job, model = JOBS[night % 3], MODELS[night % 3]
        run = f"{job}@{day}"
        made = list(_night(chance, pricer, ledger, day, run, job, model, rows))
        gone: dict[str, int] = {}
        if night % 7 == 3:
            call = _call(chance, pricer, datetime(day.year, day.month, day.day, 1, tzinfo=UTC), run, job, model)
            ledger.append(call)
            gone = {model: call.nanos}
            superseded += call.nanos
        write_output(
            folder / job / f"{day}.parquet",
            made,
            job=job,
            run=run,
            run_date=day,
            prefix="llm_" if night % 5 == 0 else "",
            tags={"team": "quality" if night % 2 else "growth"},
            superseded=gone,
        )
        total += len(made)
    return Month(folder, ledger, superseded, total)


def _night(
    chance: random.Random,
    pricer: Pricer,
    ledger: list[Call],
    day: date,
    run: str,
    job: str,
    model: str,
    rows: int,
) -> Iterator[Row]:
    start = datetime(day.year, day.month, day.day, 1, tzinfo=UTC)
    for nth in range(rows):
        at = start + timedelta(seconds=60 * nth + chance.random())
        values = {"region": ("north", "south", "west")[nth % 3]}
        kind = chance.choice(["ok"] * 12 + ["repair", "failed", "truncated", "reused", "unsent"])
        key = f"k1-{job}-{nth if kind == 'reused' else f'{day}-{nth}'}"
        if kind == "unsent":
            yield Row("failed", model, attempts=0, key=None, values=values, priced_by=None)
            continue
        if kind == "reused":
            yield Row("ok", model, attempts=0, reused=True, key=key, completed_at=at, values=values, priced_by=None)
            continue
        if kind == "failed":
            yield Row("failed", model, attempts=6, key=key, completed_at=at, values=values, priced_by=None)
            continue
        calls = [_call(chance, pricer, at, run, job, model) for _ in range(2 if kind == "repair" else 1)]
        ledger += calls
        yield Row(
            "truncated" if kind == "truncated" else "ok",
            model,
            sum((call.usage for call in calls), Usage()),
            sum(call.nanos for call in calls),
            len(calls),
            key=key,
            completed_at=at,
            values=values,
        )


def _call(chance: random.Random, pricer: Pricer, at: datetime, run: str, job: str, model: str) -> Call:
    cached = chance.random() < 0.6
    usage = Usage(
        chance.choice([chance.randint(200, 4_000), chance.randint(90_000, 120_000)]),
        chance.randint(1, 900),
        chance.randint(2_000, 9_000) if cached and chance.random() < 0.2 else 0,
        0,
        chance.randint(2_000, 9_000) if cached else 0,
    )
    price = pricer.price(usage, answered=model, asked=model, at=at, reported_nanos=None)
    assert price.nanos is not None
    return Call(at, run, job, model, usage, price.nanos)

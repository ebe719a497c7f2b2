"""The one checker: input, output, summary, journal and the server's ledger, compared without a line of the program.

It knows the contracts only: the output's columns, the summary's fields, the journal's tables (by SQL), the lines of the
simulator's ledger. What it finds wrong it says all at once, each with the promise that does not hold.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import zstandard

NANOS = 1_000_000_000
LOST = "the run ended while this call was in flight"


@dataclass(frozen=True, slots=True)
class Price:
    """Of the model under test, in nano-dollars a token. claude-haiku-4-5: 1 and 5 dollars per million."""

    input_nanos: int = 1_000
    output_nanos: int = 5_000

    def of(self, usage: Mapping[str, int]) -> int:
        return usage["input_tokens"] * self.input_nanos + usage["output_tokens"] * self.output_nanos


@dataclass(frozen=True, slots=True)
class Mark:
    """What was durable when a start had ended: the ledger's length, and the calls whose answers were in the journal."""

    entries: int
    journalled: frozenset[str]


@dataclass(slots=True)
class Scene:
    """What is looked at, and what happened.

    Attributes:
        names: the input's row names, in order; each prompt names its row.
        in_flight: calls that may be in flight at once.
        crashes: starts that ended without letting calls in flight finish.
        marks: taken after each start.
        budget_nanos: the cap, where one is set.
        statuses: what rows may have come to.
        prompt: the text of a row's prompt, from its name.
    """

    folder: Path
    names: Sequence[str]
    in_flight: int
    crashes: int = 0
    job: str = "small"
    output: str = "out/answers.parquet"
    ledger: str = "ledger.jsonl"
    marks: list[Mark] = field(default_factory=list)
    budget_nanos: int | None = None
    statuses: frozenset[str] = frozenset({"ok"})
    price: Price = Price()
    prompt: Callable[[str], str] = "Describe {}.".format

    @property
    def journal(self) -> Path:
        return self.folder / ".pipeline" / f"{self.job}.sqlite"

    def mark(self) -> Mark:
        """Remember what is durable now, with no start running."""
        made = Mark(len(entries(self.folder / self.ledger)), frozenset(answered_calls(self.journal)))
        self.marks.append(made)
        return made


@dataclass(frozen=True, slots=True)
class Figures:
    """What a scene came to, for the record."""

    rows: int
    lost: int
    doubled: int
    answered: int
    repaid: int
    crashes: int

    def __str__(self) -> str:
        return (
            f"{self.rows} rows, {self.lost} lost, {self.doubled} doubled; {self.answered} calls answered, "
            f"{self.repaid} paid twice over {self.crashes} crashes"
        )


class Broken(AssertionError):
    """Promises that do not hold, one a line."""


def entries(ledger: Path) -> list[dict[str, Any]]:
    """The ledger's whole lines; the last may be on its way."""
    lines = ledger.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def is_answer(entry: Mapping[str, Any]) -> bool:
    """Whether the server finished this call with an answer, and so bills it."""
    return entry["status"] == 200 and entry["fault"] in (None, "empty")


def call_name(entry: Mapping[str, Any]) -> str:
    """The request id that the answer carried."""
    return f"req_sim{entry['n']:020d}"


def reading(journal: Path) -> sqlite3.Connection:
    """Open a journal without being able to change it; a killed start's WAL is read with it."""
    connection = sqlite3.connect(f"file:{journal}?mode=rw", uri=True, timeout=30)
    connection.execute("PRAGMA query_only = ON")
    return connection


def is_laid(journal: Path) -> bool:
    """Whether there is a journal with its tables; a start that was killed early leaves a blank file."""
    if not journal.exists():
        return False
    with closing(reading(journal)) as db:
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'response'").fetchone()
    return bool(tables)


def answered_calls(journal: Path) -> list[str]:
    """The request ids of all answers that are durable."""
    if not is_laid(journal):
        return []
    with closing(reading(journal)) as db:
        rows = db.execute("SELECT a.request_id FROM attempt a JOIN response r ON r.attempt = a.id").fetchall()
    return [name for (name,) in rows]


def check(scene: Scene, *, complete: bool = True) -> Figures:
    """Hold every promise against the scene; with `complete`, its last start ended with 0 or 3.

    Raises:
        Broken: one line for each promise that does not hold.
    """
    ledger = [entry for entry in entries(scene.folder / scene.ledger) if is_answer(entry)]
    complaints = list(_journal(scene, ledger))
    complaints += _paid_once(scene, ledger)
    complaints += _budget(scene, ledger)
    lost, doubled = len(scene.names), 0
    if complete:
        output = pq.ParquetFile(scene.folder / scene.output)
        rows = pl.from_arrow(output.read())
        assert isinstance(rows, pl.DataFrame)
        counted = Counter(rows["name"].to_list())
        lost = sum(counted[name] == 0 for name in scene.names)
        doubled = sum(max(0, number - 1) for number in counted.values())
        complaints += _rows(scene, rows)
        complaints += _published(scene, output, rows)
        complaints += _bodies(scene, rows)
        complaints += _bill(scene, ledger, rows)
    if complaints:
        raise Broken("\n".join(complaints))
    repaid = len(ledger) - len({entry["prompt_digest"] for entry in ledger})
    return Figures(len(scene.names), lost, doubled, len(ledger), repaid, scene.crashes)


def _rows(scene: Scene, rows: pl.DataFrame) -> Iterator[str]:
    """P1: every input row has one output row, in order, and the answer is its own."""
    if (found := rows["name"].to_list()) != list(scene.names):
        missing, counts = set(scene.names) - set(found), Counter(found)
        yield (
            f"P1: {len(found)} output rows for {len(scene.names)} input rows: {len(missing)} missing "
            f"{sorted(missing)[:3]}, {sum(n > 1 for n in counts.values())} twice, or out of order"
        )
    if strange := set(rows["status"]) - scene.statuses:
        yield f"P1: rows are {sorted(strange)}, which nothing here explains"
    for name, text, status in rows.select("name", "response_text", "status").iter_rows():
        if status == "ok" and not str(text).endswith(scene.prompt(name)[:80]):
            yield f"P1: the answer of {name} is another row's: {text!r}"
        if status == "failed" and text is not None:
            yield f"P1: {name} failed and has an answer"


def _published(scene: Scene, output: pq.ParquetFile, rows: pl.DataFrame) -> Iterator[str]:
    """P2: the output is whole, and its summary speaks of it."""
    metadata = output.schema_arrow.metadata or {}
    if metadata.get(b"pipeline.job", b"").decode() != scene.job:
        yield "P2: the output does not say whose it is"
    summary = summary_of(scene)
    if summary["exit_code"] not in (0, 3):
        yield f"P2: an output was published by a start that ended with {summary['exit_code']}"
    counts = {**dict.fromkeys(("ok", "truncated", "refused", "invalid", "failed", "pending"), 0), "total": rows.height}
    counts.update(Counter(rows["status"]))
    if summary["rows"] != counts:
        yield f"P2: the summary counts {summary['rows']}, the output has {counts}"


def summary_of(scene: Scene) -> dict[str, Any]:
    """The summary beside the output."""
    path = scene.folder / scene.output
    found: dict[str, Any] = json.loads(path.with_name(path.name + ".summary.json").read_text())
    return found


def _journal(scene: Scene, ledger: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The journal is sound, holds nothing that the server did not say, and each stored answer matches its checksum."""
    billed = {call_name(entry) for entry in ledger}
    if not is_laid(scene.journal):
        return
    with closing(reading(scene.journal)) as db:
        (sound,) = db.execute("PRAGMA integrity_check").fetchone()
        if sound != "ok":
            yield f"journal: {sound}"
        inflate = inflater(db)
        for attempt, name, body, stored in db.execute(
            "SELECT a.id, a.request_id, r.body, r.checksum FROM response r LEFT JOIN attempt a ON a.id = r.attempt"
        ):
            if attempt is None:
                yield "journal: a response belongs to no attempt"
            elif name not in billed:
                yield f"journal: {name} is kept as answered, but the server's ledger has no such answer"
            if hashlib.blake2b(inflate(body), digest_size=8).digest() != stored:
                yield f"journal: the response of attempt {attempt} does not match its checksum"
        (bare,) = db.execute(
            "SELECT count(*) FROM attempt a LEFT JOIN response r ON r.attempt = a.id"
            " WHERE answered AND r.attempt IS NULL"
        ).fetchone()
        if bare:
            yield f"journal: {bare} answered attempts have no response"


def inflater(db: sqlite3.Connection) -> Callable[[bytes], bytes]:
    """How bodies are stored: zstd, by a dictionary where a frame names one."""
    known: dict[int, zstandard.ZstdDecompressor] = {0: zstandard.ZstdDecompressor()}
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table in sorted(tables & {"dictionary", "dictionaries"}):
        for row in db.execute(f"SELECT * FROM {table}"):
            for value in row:
                if isinstance(value, bytes) and len(value) > 64:
                    words = zstandard.ZstdCompressionDict(value)
                    known[words.dict_id()] = zstandard.ZstdDecompressor(dict_data=words)

    def inflate(body: bytes) -> bytes:
        frame = zstandard.get_frame_parameters(body)
        return known[frame.dict_id].decompress(body)

    return inflate


def _paid_once(scene: Scene, ledger: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """P3: what was journalled is never asked again; a crash repeats at most the calls in flight."""
    everything = entries(scene.folder / scene.ledger)
    for nth, mark in enumerate(scene.marks):
        owned = {entry["prompt_digest"] for entry in everything[: mark.entries] if call_name(entry) in mark.journalled}
        again = [entry["text_head"] for entry in everything[mark.entries :] if entry["prompt_digest"] in owned]
        if again:
            yield f"P3: answered and journalled before start {nth + 2}, yet asked again: {again[:3]} ({len(again)})"
    counts = Counter(entry["prompt_digest"] for entry in ledger)
    repaid = sum(counts.values()) - len(counts)
    if repaid > scene.crashes * scene.in_flight:
        yield f"P3: {repaid} answers paid twice, with {scene.crashes} crashes of {scene.in_flight} calls in flight"
    if not is_laid(scene.journal):
        return
    with closing(reading(scene.journal)) as db:
        twice = db.execute(
            "SELECT count(*) FROM (SELECT request_key FROM attempt WHERE answered AND status = 'ok'"
            " GROUP BY request_key HAVING count(*) > 1)"
        ).fetchone()[0]
        (lost,) = db.execute("SELECT count(*) FROM attempt WHERE maybe_billed").fetchone()
        (open_calls,) = db.execute("SELECT count(*) FROM claim").fetchone()
    if twice:
        yield f"P3: {twice} rows have two good answers in the journal"
    kept = set(answered_calls(scene.journal))
    unknown = [entry for entry in ledger if call_name(entry) not in kept]
    if len(unknown) > lost + open_calls:
        yield f"P3: {len(unknown)} answers are in the ledger only, the journal knows of {lost + open_calls} lost calls"


def _budget(scene: Scene, ledger: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """P4: everything the server bills stays below the cap."""
    if scene.budget_nanos is None:
        return
    billed = sum(scene.price.of(entry["usage"]) for entry in ledger)
    if billed > scene.budget_nanos:
        yield f"P4: {billed} nano-dollars billed, the budget is {scene.budget_nanos}"


def _bodies(scene: Scene, rows: pl.DataFrame) -> Iterator[str]:
    """The text of a row is the text of the response kept under its key."""
    texts: dict[str, set[str]] = {}
    with closing(reading(scene.journal)) as db:
        inflate = inflater(db)
        for key, body in db.execute(
            "SELECT a.request_key, r.body FROM attempt a JOIN response r ON r.attempt = a.id WHERE a.status IS NOT NULL"
        ):
            content = json.loads(inflate(body)).get("content") or []
            text = "".join(block.get("text", "") for block in content if block.get("type") == "text")
            texts.setdefault("k1-" + key.hex(), set()).add(text)
        (claims,) = db.execute("SELECT count(*) FROM claim").fetchone()
    if claims:
        yield f"journal: {claims} calls are still said to be in flight, though the run is complete"
    for name, key, text, status in rows.select("name", "request_key", "response_text", "status").iter_rows():
        if status == "ok" and text not in texts.get(key, set()):
            yield f"P1: the text of {name} is not what the journal keeps under {key}"


def _bill(scene: Scene, ledger: Sequence[Mapping[str, Any]], rows: pl.DataFrame) -> Iterator[str]:
    """Promise 7: rows + superseded = journal = what the server answered, but for the calls that were lost."""
    summary = summary_of(scene)
    in_rows = sum(round(cost * NANOS) for cost in rows["cost_usd"] if cost is not None)
    superseded = round(summary["superseded_usd"] * NANOS)
    with closing(reading(scene.journal)) as db:
        (journalled,) = db.execute("SELECT coalesce(sum(cost_nanos), 0) FROM attempt").fetchone()
    kept = set(answered_calls(scene.journal))
    known = sum(scene.price.of(entry["usage"]) for entry in ledger if call_name(entry) in kept)
    lost = sum(scene.price.of(entry["usage"]) for entry in ledger if call_name(entry) not in kept)
    if in_rows + superseded != journalled:
        yield f"bill: rows {in_rows} + superseded {superseded} is not the journal's {journalled} nano-dollars"
    if journalled != known:
        yield f"bill: the journal says {journalled} nano-dollars, the server's answers in it cost {known}"
    if in_rows != round(summary["cost_usd"] * NANOS):
        yield f"bill: the rows cost {in_rows} nano-dollars, the summary says {summary['cost_usd']} dollars"
    if lost > round(summary["maybe_usd"] * NANOS):
        yield f"bill: {lost} nano-dollars were lost in crashes, the summary allows for {summary['maybe_usd']} dollars"
    for ours, theirs in (("input_tokens", "input"), ("output_tokens", "output")):
        if rows[ours].sum() != summary["tokens"][theirs]:
            yield f"bill: the rows have {rows[ours].sum()} {ours}, the summary {summary['tokens'][theirs]}"

"""Random journals, written as rows of their tables, and what a plain reading of these rows says of a plan."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import zstandard

from pipeline.job import Job, load
from pipeline.journal import JobStamp, Journal, Known, RunRecord
from pipeline.journal.bodies import Bodies, checksum
from pipeline.output.table import RunColumns
from pipeline.records import Key, key_text
from pipeline.run.plan import Plan, make_plan
from pipeline.run.policy import UNSENT, Standing, choose
from pipeline.run.ready import make_ready

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
JOB = """\
name: small
source: {path: rows.csv, id: [name]}
prompt: {user: "Say <<word>> << 1 // share >>"}
request: {model: asked, max_tokens: 100}
endpoint: simulator
output: {path: out.parquet}
"""
TOKENS = (
    *("input_tokens", "output_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens"),
    "cache_read_tokens",
)
COLUMNS = (
    *("id", "run", "start", "request_key", "key", "status", "error_type", "error_message", "answered", "request_id"),
    *("stop_reason", "model", "max_tokens", *TOKENS, "cost_nanos", "priced_by", "maybe_billed", "endpoint"),
    *("started_at", "latency_ms", "continues", "rules"),
)
LOST = ("overloaded", "timeout", "connection")
FAILED = (*LOST, "bad_request", "too_long", "template", "image_missing", "over_limit", "image_fetch")

Made = dict[str, Any]
"""A row of the table `attempt`."""


def body(text: str, stop: str = "end_turn") -> bytes:
    content = [{"type": "text", "text": text}]
    return json.dumps({"type": "message", "content": content, "stop_reason": stop}).encode()


@dataclass
class Desk:
    """A plan of some rows, beside an empty journal."""

    job: Job
    plan: Plan
    journal: Journal
    run: RunRecord
    starts: Mapping[int, Sequence[int]]

    @property
    def keys(self) -> list[Key]:
        """The different keys of the plan, in order."""
        planned = [key for batch in self.plan.read(prompts=False) for key in batch.keys if key is not None]
        return list(dict.fromkeys(planned))

    def keep(self, attempts: Sequence[Made], responses: Sequence[tuple[int, bytes, bytes]]) -> None:
        db, marks = self.journal._db, ",".join("?" * len(COLUMNS))
        with self.journal.transaction():
            db.executemany(
                f"INSERT INTO attempt ({','.join(COLUMNS)}) VALUES ({marks})",
                [[made[name] for name in COLUMNS] for made in attempts],
            )
            db.executemany("INSERT INTO response VALUES (?,?,?)", responses)


def desk_of(folder: Path, words: Sequence[tuple[str, int]], more: str = "") -> Desk:
    """With a row for each word; a share of 0 fails before it is sent. `more` is added to the job."""
    lines = [f"{nth},{word},{share}" for nth, (word, share) in enumerate(words)]
    (folder / "rows.csv").write_text("\n".join(["name,word,share", *lines]) + "\n")
    (folder / "job.yaml").write_text(JOB + more)
    job = load(folder / "job.yaml", environ={})
    plan = make_plan(folder / "plan", job, make_ready(job), run_id="small", limit=None)
    journal = Journal.open(folder / "small.sqlite")
    starts: dict[int, list[int]] = defaultdict(list)
    runs: dict[str, RunRecord] = {}
    for name in ("other", "small", "third", "small"):
        runs[name], start = journal.begin(JobStamp(name, "small", None, "simulator", {}, {}), NOW)
        starts[runs[name].id].append(start)
    return Desk(job, plan, journal, runs["small"], starts)


def attempt(number: int, request_key: Key, run: int, start: int, **told: Any) -> Made:
    """A call that ended without an answer, unless more is told."""
    made: Made = dict.fromkeys(COLUMNS)
    made |= {"id": number, "request_key": request_key, "run": run, "start": start, "answered": 0, "maybe_billed": 0}
    made |= {"max_tokens": 100, "endpoint": "api", "started_at": 1_000 * number, "latency_ms": 5, "model": "asked"}
    return made | told


@dataclass
class Writer:
    """Writes random attempts; the more `odd` of them, the less like a usual run."""

    chance: random.Random
    desk: Desk
    odd: float
    attempts: list[Made] = field(default_factory=list)
    raw: dict[int, bytes] = field(default_factory=dict)
    claim: int = 0

    def write(self) -> None:
        chance = self.chance
        keys = self.desk.keys
        if chance.random() < 0.5:
            chance.shuffle(keys)
        asked = chance.choice([1, 0.97, 0.5])
        todo = [key for key in keys if chance.random() < asked]
        # Some are asked again, by whatever run.
        todo += [key for key in keys if chance.random() < self.odd / 2]
        gap, own = chance.choice([1, 1, 3, 50]), chance.choice([1, 0.98, 0.6])
        for key in todo:
            self.claim += chance.randrange(gap) + 1
            run = self.desk.run.id if chance.random() < own else chance.choice([*self.desk.starts])
            start = chance.choice(self.desk.starts[run])
            if chance.random() < self.odd:
                self._unusual(key, run, start)
            else:
                self._answer(0, key, run, start, status="ok")

    def _make(self, nth: int, request_key: Key, run: int, start: int, **told: Any) -> Made:
        rarely = self.chance.random() < self.odd / 3
        made = attempt(self.claim * 1024 + nth, request_key, run, start, latency_ms=self.chance.randrange(500))
        if rarely:
            made |= {"model": "another", "endpoint": "elsewhere", "max_tokens": self.chance.choice([50, 200])}
        self.attempts.append(made | told)
        return self.attempts[-1]

    def _answer(self, nth: int, request_key: Key, run: int, start: int, **told: Any) -> Made:
        chance = self.chance
        made = self._make(nth, request_key, run, start, answered=1, **told)
        made |= {"request_id": f"req_{made['id']}", "stop_reason": "end_turn"}
        if chance.random() >= self.odd / 8:
            made |= {name: chance.randrange(9) for name in TOKENS}
        if chance.random() >= self.odd / 8:
            made["cost_nanos"] = chance.choice([0, 1_000, 1_000, chance.randrange(9_999)])
        made["priced_by"] = chance.choice(["table", "table", "table", "server", None])
        self.raw[made["id"]] = body(f"text {made['id']}")
        return made

    def _unusual(self, key: Key, run: int, start: int) -> None:
        """Calls that were lost, turns of a conversation, and an outcome, or none."""
        chance, nth = self.chance, 0
        for _ in range(chance.choice([0, 0, 1, 2, 5])):
            lost = chance.randrange(2)
            self._make(nth, key, run, start, error_type=chance.choice(LOST), error_message="x", maybe_billed=lost)
            nth += 1
        continues = None
        for _ in range(chance.choice([0, 0, 0, 1, 2])):
            turn = self._answer(nth, key, run, start, key=bytes([nth]) * 16 if nth else None, continues=continues)
            continues = turn["id"] if chance.random() < 0.5 else None
            nth += 1
        rules = chance.choice([None, None, None, b"rules"])
        told = {"rules": rules, "continues": continues}
        match chance.choice(["ok", "refused", "invalid", "truncated", "failed", "verdict", "orphan", "none"]):
            case "failed":
                kind = chance.choice(FAILED)
                self._make(nth, key, run, start, status="failed", error_type=kind, error_message="no")
            case "orphan":
                self._make(1023, key, run, start, error_type="connection", model=None, maybe_billed=1)
            case "verdict":
                self._verdict(key, run, start, chance.choice(["ok", "invalid"]), rules)
            case "ok" | "refused" | "invalid" | "truncated" as status:
                words = f"e{chance.randrange(3)}" if status == "invalid" else None
                turn_key = bytes([9]) * 16 if nth and chance.random() < 0.5 else None
                self._answer(nth, key, run, start, status=status, error_message=words, key=turn_key, **told)

    def _verdict(self, key: Key, run: int, start: int, status: str, rules: bytes | None) -> None:
        """As `Journal.keep` puts one on a copy of an answer that is kept already."""
        before = self.attempts[-1]
        if before["request_key"] != key or not before["answered"]:
            return
        self.claim += 1
        copied = ("key", "continues", "request_id", "stop_reason", "model", "latency_ms", "started_at")
        made = self._make(0, key, run, start, status=status, rules=rules, **{name: before[name] for name in copied})
        self.raw[made["id"]] = self.raw[before["id"]]


@dataclass
class RandomJournal:
    """A desk whose journal holds random attempts.

    `raw` are the responses by attempt; of a damaged one None, and one that was pruned is not there.
    """

    desk: Desk
    standing: Standing
    attempts: list[Made]
    raw: dict[int, bytes | None]
    reused: dict[Key, int]


def random_journal(folder: Path, chance: random.Random, rows: int) -> RandomJournal:
    """A plan with equal rows and rows that cannot be sent, and a journal that knows of some."""
    different = max(1, int(rows * chance.choice([1, 1, 0.9, 0.5])))
    names = [f"w{chance.randrange(different) if chance.random() < 0.2 else nth % different}" for nth in range(rows)]
    desk = desk_of(folder, [(name, int(chance.random() > 0.02)) for name in names])
    writer = Writer(chance, desk, chance.choice([0.02, 0.02, 0.3, 0.9]))
    writer.write()
    raw, packed = _packed(writer)
    desk.keep(writer.attempts, packed)
    own = desk.run.id
    reused = {
        made["request_key"]: made["id"]
        for made in writer.attempts
        if made["run"] != own and made["status"] and chance.random() < 0.5
    }
    with desk.journal.transaction():
        desk.journal.set_reused(own, reused.items())
    reopened = {}
    if writer.attempts and chance.random() < 0.3:
        some = chance.sample(["ok", "failed", "invalid", "refused"], 2)
        reopened = {status: chance.choice(writer.attempts)["id"] for status in some}
    standing = Standing(
        own,
        chance.choice([-1, *desk.starts[own]]),
        finished=chance.random() < 0.5,
        max_tokens=chance.choice([100, 100, 200]),
        reopened=reopened,
        looks=chance.random() < 0.3,
    )
    return RandomJournal(desk, standing, writer.attempts, raw, reused)


def _packed(writer: Writer) -> tuple[dict[int, bytes | None], list[tuple[int, bytes, bytes]]]:
    """The responses as they are stored: some by an older program, some damaged, some pruned."""
    chance, pack = writer.chance, Bodies({}).pack
    damage, pruned = chance.choice([0, 0, writer.odd / 10]), chance.choice([0, 0, 0.05])
    raw: dict[int, bytes | None] = {}
    packed: list[tuple[int, bytes, bytes]] = []
    for number, answer in writer.raw.items():
        if chance.random() < pruned:
            continue
        stored, known = pack(answer) if chance.random() < 0.9 else (zstandard.compress(answer), checksum(answer))
        raw[number] = answer
        if chance.random() < damage:
            raw[number] = None
            stored, known = chance.choice([(stored[:-3], known), (stored, b"12345678"), (b"", known)])
        packed.append((number, stored, known))
    return raw, packed


@dataclass
class Told:
    """What a plain reading says: rows of the output, damaged attempts, costs by model; counts, open keys, batches."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    damaged: set[int] = field(default_factory=set)
    by_model: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    open: set[Key] = field(default_factory=set)
    batches: set[int] = field(default_factory=set)


def plainly(known: RandomJournal, columns: RunColumns) -> Told:
    """Read row by row, attempt by attempt."""
    told, seen = Told(), set[Key]()
    by_key: dict[Key, list[Made]] = defaultdict(list)
    for made in sorted(known.attempts, key=lambda made: int(made["id"])):
        by_key[made["request_key"]].append(made)
    for planned in known.desk.plan.read():
        for key, error in zip(planned.keys, planned.errors, strict=True):
            if key is None:
                assert error is not None
                row = _row(columns, None) | {"status": "failed", "error_type": error[0], "error_message": error[1]}
                told.statuses["failed"] += 1
                told.rows.append(row)
                continue
            pasts = by_key[key]
            taken = _taken(known, key, pasts)
            told.statuses["pending" if taken is None else taken["status"]] += 1
            if taken is None:
                told.open.add(key)
            if taken is None or taken["run"] != known.desk.run.id:
                told.batches.add(planned.at)
            row = _row(columns, key)
            if taken is not None:
                text = _text(known, taken)
                if text is Damaged:
                    told.damaged.add(taken["id"])
                else:
                    row |= _answered(taken, columns, known.desk.run.id) | {"response_text": text}
            if key in seen:
                row["reused"] = row["status"] != "pending"
            else:
                row |= _paid(known.desk.run.id, pasts, told.by_model)
            seen.add(key)
            told.rows.append(row)
    return told


Damaged = object()


def _taken(known: RandomJournal, key: Key, pasts: Sequence[Made]) -> Made | None:
    outcomes = [
        Known(*(made[name] for name in ("id", "run", "start", "status", "error_type", "max_tokens", "rules")))
        for made in pasts
        if made["status"]
    ]
    chosen = choose(outcomes, known.reused.get(key), known.standing)
    return None if chosen is None else next(made for made in pasts if made["id"] == chosen.attempt)


def _text(known: RandomJournal, taken: Made) -> object:
    """The text with that of the paused answers before it; None where there is no response."""
    by_id = {made["id"]: made for made in known.attempts} if taken["continues"] else {}
    texts: list[str] = []
    one: Made | None = taken
    while one is not None:
        if one["id"] in known.raw or one is not taken:
            answer = known.raw.get(one["id"])
            if answer is None:
                return Damaged
            texts.insert(0, json.loads(answer)["content"][0]["text"])
        one = by_id[one["continues"]] if one["continues"] else None
    return "".join(texts) if taken["id"] in known.raw else None


def _row(columns: RunColumns, key: Key | None) -> dict[str, Any]:
    """Of a request that nothing is known of."""
    nothing = ("error_type", "error_message", "stop_reason", "latency_ms", "request_id", "completed_at")
    row: dict[str, Any] = dict.fromkeys((*nothing, "response_text", "priced_by"))
    row |= dict.fromkeys(("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens", "attempts"), 0)
    row |= {"status": "pending", "model": columns.model, "endpoint": columns.endpoint, "cost_usd": 0.0}
    return row | {"reused": False, "request_key": None if key is None else key_text(key)}


def _answered(taken: Made, columns: RunColumns, run: int) -> dict[str, Any]:
    told = ("status", "error_type", "error_message", "stop_reason", "latency_ms", "request_id", "endpoint")
    ended = timedelta(microseconds=taken["started_at"] + taken["latency_ms"] * 1_000)
    return {name: taken[name] for name in told} | {
        "model": taken["model"] or columns.model,
        "completed_at": EPOCH + ended,
        "reused": taken["run"] != run,
    }


def _paid(run: int, pasts: Sequence[Made], by_model: Counter[str]) -> dict[str, Any]:
    """The bill of a key in a run."""
    called = [made for made in pasts if made["run"] == run and made["error_type"] not in UNSENT]
    called = [made for made in called if made["answered"] or made["status"] in (None, "failed")]
    paid = [made for made in called if made["answered"]]
    sums: list[int | None] = [None] * len(TOKENS)
    if all(made["input_tokens"] is not None for made in paid):
        sums = [sum(made[name] for made in paid) for name in TOKENS]
    asked, answered, short, long, read = sums
    priced = [made for made in paid if made["cost_nanos"] is not None]
    for made in priced:
        by_model[made["model"]] += made["cost_nanos"]
    whole = len(priced) == len(paid)
    # Who priced it: the last one before anything was unknown.
    before = paid[: next((nth for nth, made in enumerate(paid) if made["cost_nanos"] is None), len(paid))]
    return {
        "attempts": len(called),
        "input_tokens": asked,
        "output_tokens": answered,
        "cache_write_tokens": None if short is None or long is None else short + long,
        "cache_read_tokens": read,
        "cost_usd": sum(made["cost_nanos"] for made in priced) / 1e9 if whole else None,
        "priced_by": before[-1]["priced_by"] if before else None,
    }

"""Deriving an output again from source, plan and journal, and saying what of it does not hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.answer import Reading, contract
from pipeline.errors import JobError, StorageError
from pipeline.job.sections import is_folder
from pipeline.journal import Journal, RunRecord
from pipeline.output import OWN_COLUMNS, Facts, Tally, files_of, read_parts, run_mark
from pipeline.records import NANOS_PER_USD
from pipeline.report import PUBLISHING
from pipeline.report.words import many
from pipeline.run.look import observer
from pipeline.run.metadata import run_columns, run_schema
from pipeline.run.plan import Plan
from pipeline.run.publish import join
from pipeline.run.verify_origin import Load, Loaded, job_of_run, origin_of, record_of
from pipeline.run.verify_rows import Since, compare_rows, first_misfit, words_of
from pipeline.run.verify_source import UNCOMPARED, compare_source

READ_ROWS = 5_000

LONGEST = 300
"""Characters of what another library says is wrong: it may quote what it has read."""

MOST_HOSTS = 5
"""So many different endpoints of an output are tried to load the job as it was."""

_EDITED = ("tags", "month_usd", "prefix", "recipe", "named_by")
"""Metadata that come of the job file alone, so that they may be other ones by now."""


@dataclass(slots=True)
class Verified:
    """What was found.

    Attributes:
        run_id: whose output it is.
        rows: how many it has.
        files: how many files it is made of.
        cost_nanos: what its rows cost together.
        problems: what does not hold, in words.
        notes: what could not be looked at, or is worth knowing.
    """

    run_id: str
    rows: int = 0
    files: int = 0
    cost_nanos: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Sums:
    """Counts and sums over the rows of the output itself."""

    statuses: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    hosts: dict[str, None] = field(default_factory=dict)
    newest: datetime | None = None
    cost_nanos: int = 0
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class _Laid:
    """What an output is compared with.

    Attributes:
        plan: that it was published by.
        folder: of the plan, relative to the state folder.
        loaded: the job, as far as possible as the run had it.
        reading: how the job reads answers.
        schema: of the output.
        record: of what was published at its path, if anything was.
    """

    plan: Plan
    folder: str
    loaded: Loaded
    reading: Reading
    schema: pa.Schema
    record: Mapping[str, Any] | None

    @property
    def trial(self) -> int | None:
        return _trial(self.folder)


def verify(output: Path, job: Path | None, load: Load) -> Verified:
    """Derive an output again and compare.

    Args:
        output: the file, or the directory of parts.
        job: the job file; None to look for it near the output.
        load: loads a job file as a run had it.

    Raises:
        JobError: it is no output of this program, or its job or journal is not found.
        StorageError: journal or plan cannot be read.
    """
    summary = _summary(output)
    try:
        facts, files = _described(output, summary)
    except _UnreadableError as error:
        return Verified(error.run_id, files=1, problems=[str(error)])
    found = Verified(facts.run_id, files=len(files))
    if is_folder(output):
        _check_parts(output, facts.run_id, summary, found)
    sums = _check_files(files, facts, found)
    if sums is None:
        return found
    found.cost_nanos = sums.cost_nanos
    _check_summary(summary, facts, sums, found)
    name = _name(facts, summary, found)
    origin = origin_of(output, name, facts.run_id, _date(facts.metadata.get("run_date", "")), job, load)
    journal = Journal.read(origin.journal)
    if journal is None:
        raise JobError(f"{origin.journal}: there is no journal; name the job: --job JOB")
    try:
        run = journal.run(facts.run_id)
        if run is None:
            found.problems.append(f"{origin.journal} knows nothing of the run {facts.run_id}")
            return found
        folder, record = _published(output, run, facts, origin.journal.parent)
        plan = None if folder is None else Plan.load(origin.journal.parent / folder)
        if folder is None or plan is None:
            found.problems.append("the plan of the run is gone; `pipeline run` makes it anew")
            return found
        loaded = job_of_run(origin, journal, run, plan, _trial(folder), list(sums.hosts)[:MOST_HOSTS], load)
        reading = contract(loaded.job).reading
        laid = _Laid(plan, folder, loaded, reading, run_schema(loaded.job, plan, reading, run), record)
        _check_derived(files, facts, laid, journal, run, sums, found)
    finally:
        journal.close()
    return found


class _UnreadableError(Exception):
    """A file that the summary beside it says was published, and that is no Parquet any more."""

    def __init__(self, run_id: str, words: str) -> None:
        self.run_id = run_id
        super().__init__(words)


def _described(output: Path, summary: Mapping[str, Any] | None) -> tuple[Facts, list[Path]]:
    """What the output says of itself, and its files; of a directory that several runs share, of the last one."""
    if not output.exists():
        raise JobError(f"{output}: no such file or directory")
    run_id = None
    if output.is_dir():
        parts = read_parts(output)
        if not parts:
            raise JobError(f"{output}: no directory of parts: it has no _manifest.json that lists any")
        known = {part.run_id for part in parts}
        told = (summary or {}).get("run_id")
        run_id = told if told in known else parts[-1].run_id
    files = files_of(output, run_id)
    try:
        found = [Facts.of(pq.read_schema(file)) for file in files if file.exists()]
    except (OSError, pa.ArrowException) as error:
        words = f"cannot be read as Parquet: {_line(error)}"
        if summary is None and run_id is None:
            raise JobError(f"{output}: {words}") from error
        raise _UnreadableError(run_id or str((summary or {}).get("run_id")), f"the output {words}") from error
    if not found:
        raise _UnreadableError(str(run_id), "every part is missing")
    # A part that is not this run's does not speak for it.
    facts = next((one for one in found if one.run_id == run_id), found[0])
    if facts.job is None:
        raise JobError(f"{output}: not an output of this program: its metadata name no job")
    return facts, files


def _name(facts: Facts, summary: Mapping[str, Any] | None, found: Verified) -> str:
    """The job's name; where the summary of the same run has another one, that."""
    assert facts.job is not None
    if summary is None or summary.get("run_id") != facts.run_id or summary.get("job") in (None, facts.job):
        return facts.job
    found.problems.append(f"metadata: job is {facts.job}, the summary says {summary['job']}")
    return str(summary["job"])


def _date(text: str) -> date | None:
    with suppress(ValueError):
        return date.fromisoformat(text)
    return None


def _trial(folder: str) -> int | None:
    """Of how many requests the plan is the beginning; None for a whole one."""
    first = re.search(r"\.first-(\d+)$", folder)
    return None if first is None else int(first[1])


def _check_parts(folder: Path, run_id: str, summary: Mapping[str, Any] | None, found: Verified) -> None:
    """The manifest against the parts: all there, of that size and content, and none of this run's beside them."""
    if summary is not None and summary.get("exit_code") in PUBLISHING and summary.get("run_id") != run_id:
        found.problems.append(
            f"the summary says that {summary.get('run_id')} was published, the manifest lists no part"
        )
    parts = read_parts(folder, run_id)
    for part in parts:
        path = folder / part.name
        if not path.exists():
            found.problems.append(f"{part.name} is missing")
        elif path.stat().st_size != part.bytes:
            found.problems.append(f"{part.name} has {path.stat().st_size:,} bytes, the manifest says {part.bytes:,}")
        elif _sha256(path) != part.sha256:
            found.problems.append(f"{part.name} is not what was written: its checksum differs from the manifest's")
        elif (rows := _rows(path)) != part.rows:
            found.problems.append(f"{part.name} has {rows} rows, the manifest says {part.rows:,}")
    listed = {part.name for part in parts}
    found.problems += [
        f"{path.name} is named as a part of this run, but the manifest does not list it"
        for path in sorted(folder.glob(f"part-{run_mark(run_id)}-*.parquet"))
        if path.name not in listed
    ]


def _rows(path: Path) -> int | None:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException):
        return None


def _sha256(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _check_files(files: Sequence[Path], facts: Facts, found: Verified) -> _Sums | None:
    """Read every page by its checksum, and sum up what the rows say; None where that cannot be."""
    own = {name: facts.prefix + name for name in OWN_COLUMNS.names}
    sums = _Sums()
    tokens = ("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens")
    try:
        for batch in _batches(files):
            found.rows += batch.num_rows
            if missing := [name for name in own.values() if name not in batch.schema.names]:
                found.problems.append(f"the output has no column {', '.join(missing)}")
                return None
            sums.statuses.update(batch.column(own["status"]).to_pylist())
            sums.hosts.update(dict.fromkeys(filter(None, batch.column(own["endpoint"]).unique().to_pylist())))
            sums.newest = _newest(sums.newest, pc.max(batch.column(own["completed_at"])).as_py())
            for name in tokens:
                sums.tokens[name] += sum(filter(None, batch.column(own[name]).to_pylist()))
            for cost in batch.column(own["cost_usd"]).to_pylist():
                if cost is None:
                    sums.unpriced += 1
                else:
                    sums.cost_nanos += round(cost * NANOS_PER_USD)
    except (OSError, pa.ArrowException) as error:
        found.problems.append(f"the output cannot be read to its end: {_line(error)}")
        return None
    return sums


def _batches(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    for path in files:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True) as file:
            yield from file.iter_batches(READ_ROWS)


def _summary(output: Path) -> dict[str, Any] | None:
    try:
        read = json.loads(output.with_name(output.name + ".summary.json").read_text())
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def _newest(one: datetime | None, two: datetime | None) -> datetime | None:
    return max((each for each in (one, two) if each is not None), default=None)


def _check_summary(summary: Mapping[str, Any] | None, facts: Facts, sums: _Sums, found: Verified) -> None:
    """The summary beside the output against the rows."""
    if summary is None:
        found.notes.append("there is no summary beside it")
        return
    if summary.get("run_id") != facts.run_id:
        found.notes.append(f"the summary beside it is of the run {summary.get('run_id')}")
        return
    if summary.get("exit_code") not in PUBLISHING:
        found.notes.append(f"the summary beside it is of a start that did not publish ({summary.get('reason')})")
        return
    said = {status: number for status, number in summary["rows"].items() if status != "total" and number}
    _compare("rows by status", dict(said), dict(sums.statuses), "the summary", found)
    tokens = {"input": "input_tokens", "output": "output_tokens", "cache_read": "cache_read_tokens"}
    for word, name in (*tokens.items(), ("cache_write", "cache_write_tokens")):
        _compare(name, summary["tokens"][word], sums.tokens[name], "the summary", found)
    cost = summary["cost_usd"]
    told = None if cost is None else round(cost * NANOS_PER_USD)
    _compare("cost_usd", _usd(told), _usd(None if sums.unpriced else sums.cost_nanos), "the summary", found)


def _compare(what: str, said: object, is_: object, who: str, found: Verified) -> None:
    if said != is_:
        found.problems.append(f"{what}: {who} says {said}, the rows come to {is_}")


def _usd(nanos: int | None) -> str | None:
    return None if nanos is None else f"{nanos / NANOS_PER_USD:.9f}"


def _published(output: Path, run: RunRecord, facts: Facts, state: Path) -> tuple[str | None, Mapping[str, Any] | None]:
    """The plan that the output was made by, and the record of what was published at its path.

    The plan is the one on record for the path; else the one that the output's metadata name, else the run's.
    """
    if (there := record_of(output, run)) is not None:
        return there
    for folder in dict.fromkeys((run.plan, *(run.published or {}))):
        plan = None if folder is None else Plan.load(state / folder)
        if plan is not None and plan.facts.identity == facts.metadata.get("job_hash"):
            return folder, None
    return run.plan, None


def _check_derived(
    files: Sequence[Path], facts: Facts, laid: _Laid, journal: Journal, run: RunRecord, sums: _Sums, found: Verified
) -> None:
    """All that plan, journal and source tell, against what the output says."""
    if _planned_anew(facts, laid):
        found.problems.append(
            "the run was planned anew since this was written, so its rows cannot be derived; "
            "`pipeline run` brings it up to date"
        )
        return
    _check_metadata(files, laid, found)
    tally = Tally()
    try:
        gone_on = _check_rows(files, facts, laid, journal, run, sums, tally, found)
    except (OSError, pa.ArrowException, StorageError) as error:
        found.problems.append(f"the output cannot be compared: {_line(error)[:LONGEST]}")
        return
    for attempt in sorted(tally.damaged)[:1]:
        found.problems.append(
            f"{many(len(tally.damaged), 'stored response')} found damaged, such as that of attempt {attempt}; "
            "`pipeline run` asks again what rests on them"
        )
    whole = found.rows == laid.plan.facts.requests and not sums.statuses["pending"]
    if laid.trial is None and whole and not gone_on:
        _check_bill(files[-1], journal, run, tally, sums, found)
    job = laid.loaded.job
    if laid.loaded.otherwise:
        found.notes.append(f"{laid.loaded.otherwise}, {UNCOMPARED}")
        return
    said = compare_source(job, laid.plan, run.run_id, laid.trial)
    found.problems += [said.problem] if said.problem else []
    found.notes += [said.note] if said.note else []


def _planned_anew(facts: Facts, laid: _Laid) -> bool:
    """Whether the plan is another one than the output was written by, as a later start of the run may make it."""
    written, record = facts.metadata.get("job_hash"), laid.record
    # Where the journal knows what was written there, other metadata are not those of what was written.
    return written != laid.plan.facts.identity and (record is None or record["plan"]["identity"] == written)


def _check_metadata(files: Sequence[Path], laid: _Laid, found: Verified) -> None:
    """What each file says of the run."""
    wanted = Facts.of(laid.schema).metadata
    for path in files:
        told = Facts.of(pq.read_schema(path)).metadata
        of = f" of {path.name}" if len(files) > 1 else ""
        for name, value in wanted.items():
            said = told.get(name)
            # Only what asked is known by the plan; who wrote it may be a later version.
            if name == "version" or said == value:
                continue
            words = f"metadata{of}: {name} is {said!r}, by plan and journal it is {value!r}"
            if name in _EDITED and (laid.loaded.otherwise or _edited_since(path, laid)):
                found.notes.append(f"{words}; the job file was edited since it was written")
            else:
                found.problems.append(words)


def _edited_since(path: Path, laid: _Laid) -> bool:
    """Whether the job file was edited after the output was published; where that is not known, written."""
    try:
        edited = laid.loaded.file.stat().st_mtime
        written = path.stat().st_mtime
    except OSError:
        return True
    finished = _as_of(laid.record)
    return edited > (written if finished is None else finished.timestamp())


def _as_of(record: Mapping[str, Any] | None) -> datetime | None:
    """When the output at a path was published, by the journal."""
    return None if record is None else datetime.fromisoformat(record["summary"]["finished_at"])


def _check_rows(
    files: Sequence[Path],
    facts: Facts,
    laid: _Laid,
    journal: Journal,
    run: RunRecord,
    sums: _Sums,
    tally: Tally,
    found: Verified,
) -> bool:
    """Every row against what plan and journal make of it; whether the run has gone on since it was written."""
    plan, prefix = laid.plan, facts.prefix
    only = None
    if found.rows != plan.facts.requests:
        if laid.record is None:
            only = _statuses_alone(laid, journal, run, sums)
        if only is None:
            names = [f"{prefix}request_key", *plan.kept_schema.names]
            odd = first_misfit(_batches(files), _derived(laid, journal, run, Tally(), None), names)
            words = f"the output has {found.rows:,} rows, the plan {plan.facts.requests:,} requests"
            first = "" if odd is None else next(words_of([odd], 1, plan, prefix))
            found.problems.append(f"{words}; the first that does not fit: {first}" if first else words)
            return False
        found.notes.append(f"only the rows are compared that were {' or '.join(sorted(only))} when it was written")
    since = Since(journal, laid.reading, prefix, frozenset(plan.kept_schema.names), _as_of(laid.record) or sums.newest)
    compared = compare_rows(_batches(files), _derived(laid, journal, run, tally, only), since)
    found.problems += compared.types
    found.problems += words_of(compared.named, compared.rows, plan, prefix)
    if compared.asked_since:
        found.notes.append(f"{_rows_were(compared.asked_since)} pending when it was written, and asked since")
    if compared.again_since:
        found.notes.append(
            f"{_rows_were(compared.again_since)} asked again since it was written; what they had cost was not compared"
        )
    if compared.rows and laid.loaded.otherwise:
        found.notes.append("answers are read into columns by the job file as it is now")
    return bool(compared.asked_since or compared.again_since or run.completed_at is None)


def _rows_were(number: int) -> str:
    return "1 row was" if number == 1 else f"{number:,} rows were"


def _derived(
    laid: _Laid, journal: Journal, run: RunRecord, tally: Tally, only: frozenset[str] | None
) -> Iterator[tuple[pa.RecordBatch, Sequence[int]]]:
    """The output's rows as they should be, each with its place in the plan; with `only`, those of some statuses."""
    job, at = laid.loaded.job, 0
    status = f"{job.output.prefix}status"
    columns = run_columns(job, run)
    for batch in join(laid.plan, journal, observer(run), laid.reading, columns, laid.schema, tally):
        places: Sequence[int] = range(at, at + batch.num_rows)
        at += batch.num_rows
        if only is None:
            yield batch, places
            continue
        wanted = [value in only for value in batch.column(status).to_pylist()]
        yield batch.filter(pa.array(wanted)), [place for place, one in zip(places, wanted, strict=True) if one]


def _statuses_alone(laid: _Laid, journal: Journal, run: RunRecord, sums: _Sums) -> frozenset[str] | None:
    """The statuses that an export was made of, where there are as many rows of these; None where there are not."""
    only, tally = frozenset(sums.statuses), Tally()
    for _ in _derived(laid, journal, run, tally, None):
        pass
    same = all(tally.statuses[status] == number for status, number in sums.statuses.items())
    return only if same else None


def _check_bill(last: Path, journal: Journal, run: RunRecord, tally: Tally, sums: _Sums, found: Verified) -> None:
    """The sums over the rows, and what was paid for rows that are gone, against all that the journal has paid."""
    totals = journal.totals(run.id)
    gone = sum(totals.by_model.values()) - sum(tally.by_model.values())
    text = Facts.of(pq.read_schema(last)).metadata.get("superseded", "{}")
    said = _superseded(text)
    if said is None:
        found.problems.append(f"metadata: superseded is {text!r}, which is no object of USD by model")
        return
    _compare("superseded_usd", _usd(said), _usd(gone), "the output's metadata", found)
    _compare("cost_usd and superseded_usd", _usd(totals.cost_nanos), _usd(sums.cost_nanos + said), "the journal", found)


def _superseded(text: str) -> int | None:
    """What metadata say was paid for answers that are in no row any more, nano-dollars; None where they say nothing."""
    try:
        told: dict[str, float] = json.loads(text)
        return sum(round(usd * NANOS_PER_USD) for usd in told.values())
    except (ValueError, TypeError, AttributeError):
        return None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())

"""Deriving an output again from source, plan and journal, and saying what of it does not hold."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.answer import contract
from pipeline.errors import JobError, StorageError
from pipeline.job import Job
from pipeline.job.sections import is_folder
from pipeline.journal import Journal, RunRecord
from pipeline.journal.maintenance import params_of
from pipeline.output import OWN_COLUMNS, Facts, Tally, files_of, read_parts, run_mark
from pipeline.records import NANOS_PER_USD
from pipeline.run.look import observer
from pipeline.run.metadata import run_columns, run_schema
from pipeline.run.naming import journal_path
from pipeline.run.plan import Plan, identity, make_plan
from pipeline.run.publish import join
from pipeline.run.ready import make_ready

Load = Callable[[Path, date | None, str, Mapping[str, Any]], Job]
"""Loads a job file as a run had it: by the run's date, endpoint scope, and params."""

LEVELS = 4
"""So many folders above an output are searched for its journal, with the folders in them."""

READ_ROWS = 5_000


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
    cost_nanos: int = 0
    unpriced: int = 0


def verify(output: Path, job: Path | None, load: Load) -> Verified:
    """Derive an output again and compare.

    Args:
        output: the file, or the directory of parts.
        job: the job file; None to look for it near the output.
        load: loads a job file as a run had it.

    Raises:
        JobError: it is no output of this program, or its job or journal is not found.
        StorageError: something of it cannot be read.
    """
    facts, files = _described(output)
    found = Verified(facts.run_id, files=len(files))
    if is_folder(output):
        _check_parts(output, facts.run_id, found)
    sums = _check_files(files, facts, found)
    if sums is None:
        return found
    found.cost_nanos = sums.cost_nanos
    _check_summary(output, facts, sums, found)
    journal_file, job_file = _located(output, facts, job, load)
    journal = Journal.read(journal_file)
    if journal is None:
        raise JobError(f"{journal_file}: there is no journal; name the job: --job JOB")
    try:
        run = journal.run(facts.run_id)
        if run is None:
            found.problems.append(f"{journal_file} knows nothing of the run {facts.run_id}")
            return found
        loaded = load(job_file, run.run_date, run.scope, params_of(journal, run.id))
        _check_rows(output, files, loaded, journal, run, sums, found)
    finally:
        journal.close()
    return found


def _described(output: Path) -> tuple[Facts, list[Path]]:
    """What the output says of itself, and its files; of a directory that several runs share, of the last one."""
    if not output.exists():
        raise JobError(f"{output}: no such file or directory")
    run_id = None
    if output.is_dir():
        parts = read_parts(output)
        if not parts:
            raise JobError(f"{output}: no directory of parts: it has no _manifest.json that lists any")
        summary = _summary(output) or {}
        known = {part.run_id for part in parts}
        run_id = summary["run_id"] if summary.get("run_id") in known else parts[-1].run_id
    files = files_of(output, run_id)
    try:
        facts = Facts.of(pq.read_schema(next(file for file in files if file.exists())))
    except (OSError, pa.ArrowException, StopIteration) as error:
        raise JobError(f"{output}: cannot be read as Parquet: {error}") from error
    if facts.job is None:
        raise JobError(f"{output}: not an output of this program: its metadata name no job")
    return facts, files


def _check_parts(folder: Path, run_id: str, found: Verified) -> None:
    """The manifest against the parts: all there, of that size and content, and none of this run's beside them."""
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


def _check_summary(output: Path, facts: Facts, sums: _Sums, found: Verified) -> None:
    """The summary beside the output against the rows."""
    summary = _summary(output)
    if summary is None:
        found.notes.append("there is no summary beside it")
        return
    if summary.get("run_id") != facts.run_id:
        found.notes.append(f"the summary beside it is of the run {summary.get('run_id')}")
        return
    if summary.get("exit_code") not in (0, 3):
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


def _located(output: Path, facts: Facts, job: Path | None, load: Load) -> tuple[Path, Path]:
    """The journal and the job file: as named, or the nearest ones that know the run."""
    assert facts.job is not None
    if job is not None:
        loaded = load(job, None, "", {})
        if loaded.name != facts.job:
            raise JobError(f"{output} is an output of the job {facts.job}, but {job} is {loaded.name}")
        return journal_path(loaded), job
    for state in _states(output):
        journal_file = state / f"{facts.job}.sqlite"
        if not journal_file.is_file() or not _knows(journal_file, facts.run_id, output):
            continue
        for job_file in sorted((*state.parent.glob("*.yaml"), *state.parent.glob("*.yml"))):
            if _is_named(job_file, facts.job):
                return journal_file, job_file
    raise JobError(f"{output}: no journal and job file of {facts.job} were found near it; name the job: --job JOB")


def _knows(journal_file: Path, run_id: str, output: Path) -> bool:
    """Whether the output is one of this journal's: published there, or lying below the job, and of a run it has."""
    journal = Journal.read(journal_file)
    if journal is None:
        return False
    try:
        run = journal.run(run_id)
    finally:
        journal.close()
    if run is None:
        return False
    here = output.resolve()
    return journal_file.resolve().parent.parent in here.parents or any(
        Path(record["output"]["path"]).resolve() == here for record in (run.published or {}).values()
    )


def _states(output: Path) -> Iterator[Path]:
    """Folders of journals, the nearest first: above the output and where the shell is, and in folders beside these."""
    seen: set[Path] = set()
    for start in (output.absolute().parent, Path.cwd()):
        for folder in islice((start, *start.parents), LEVELS):
            beside = sorted(path for path in folder.glob("*/.pipeline") if path.is_dir())
            for state in (folder / ".pipeline", *beside):
                if state not in seen:
                    seen.add(state)
                    yield state


def _is_named(job_file: Path, name: str) -> bool:
    try:
        text = job_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    written = re.search(r"^name:\s*[\"']?([a-z0-9-]+)", text, re.MULTILINE)
    return (written[1] if written else job_file.stem) == name


def _check_rows(
    output: Path, files: Sequence[Path], job: Job, journal: Journal, run: RunRecord, sums: _Sums, found: Verified
) -> None:
    """Every row against what plan and journal make of it, and the sums against the journal's."""
    folder = _plan_folder(output, run)
    plan = None if folder is None else Plan.load(job.state / folder)
    if folder is None or plan is None:
        found.problems.append("the plan of the run is gone; `pipeline run` makes it anew")
        return
    reading = contract(job).reading
    schema, tally = run_schema(job, plan, reading, run), Tally()
    if plan.facts.requests != found.rows:
        found.problems.append(f"the output has {found.rows:,} rows, the plan {plan.facts.requests:,} requests")
    else:
        _compare_rows(files, join(plan, journal, observer(run), reading, run_columns(job, run), schema, tally), found)
    for attempt in sorted(tally.damaged)[:1]:
        found.problems.append(
            f"{len(tally.damaged):,} stored responses are damaged, such as that of attempt {attempt}; "
            "`pipeline run` asks them again"
        )
    trial = re.search(r"\.first-(\d+)$", folder)
    if trial is None:
        totals = journal.totals(run.id)
        gone = sum(nanos for model, nanos in totals.by_model.items()) - sum(tally.by_model.values())
        said = _superseded(files[-1])
        _compare("superseded_usd", _usd(said), _usd(gone), "the output's metadata", found)
        _compare(
            "cost_usd and superseded_usd", _usd(totals.cost_nanos), _usd(sums.cost_nanos + said), "the journal", found
        )
    _check_source(job, plan, run.run_id, None if trial is None else int(trial[1]), found)


def _plan_folder(output: Path, run: RunRecord) -> str | None:
    """The plan that the output was published by: the one on record for this path, else the run's."""
    for folder, record in (run.published or {}).items():
        if Path(record["output"]["path"]).resolve() == output.resolve():
            return str(folder)
    return run.plan


def _superseded(last: Path) -> int:
    """What the last file's metadata says was paid for answers that are in no row any more, nano-dollars."""
    said = json.loads(Facts.of(pq.read_schema(last)).metadata.get("superseded", "{}"))
    return sum(round(usd * NANOS_PER_USD) for usd in said.values())


def _compare_rows(files: Sequence[Path], derived: Iterator[pa.RecordBatch], found: Verified) -> None:
    """Column by column; the first row that differs is named, and how many batches do."""
    written, at = _Cut(_batches(files)), 0
    differing: dict[str, tuple[int, Any, Any]] = {}
    for wanted in derived:
        stands = written.take(wanted.num_rows)
        for name in wanted.schema.names:
            if name in differing:
                continue
            if name not in stands.schema.names:
                differing[name] = (at, "no such column", "one")
            elif (first := _first_difference(stands.column(name).combine_chunks(), wanted.column(name))) is not None:
                differing[name] = (at + first[0], first[1], first[2])
        at += wanted.num_rows
    for name, (row, stands_, derived_) in differing.items():
        found.problems.append(
            f"{name}: row {row + 1:,} has {_shown(stands_)}, by plan and journal it is {_shown(derived_)}"
        )


def _first_difference(stands: Any, wanted: Any) -> tuple[int, Any, Any] | None:
    if stands.type == wanted.type and stands.equals(wanted):
        return None
    # Not-a-number equals itself here; so a column of such is compared by what it reads as.
    pairs = zip(stands.to_pylist(), wanted.to_pylist(), strict=False)
    return next(((row, a, b) for row, (a, b) in enumerate(pairs) if repr(a) != repr(b)), None)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


class _Cut:
    """A table read on and on, in pieces of any size."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._held: pa.Table | None = None

    def take(self, rows: int) -> pa.Table:
        """The next rows."""
        while self._held is None or self._held.num_rows < rows:
            batch = next(self._batches, None)
            if batch is None:
                break
            more = pa.Table.from_batches([batch])
            self._held = more if self._held is None else pa.concat_tables([self._held, more])
        if self._held is None:
            return pa.table({})
        taken, self._held = self._held.slice(0, rows), self._held.slice(rows)
        return taken.combine_chunks()


def _check_source(job: Job, plan: Plan, run_id: str, limit: int | None, found: Verified) -> None:
    """The plan's keys against those that the source gives now, where it is the same source and the same job."""
    try:
        ready = make_ready(job)
    except JobError as error:
        found.notes.append(f"the source was not looked at: {_line(error)}")
        return
    if identity(job, ready.contract, limit) != plan.facts.identity:
        found.notes.append("the job was changed since, so keys were compared with the plan, and not with the source")
        return
    if ready.reader.fingerprint != plan.facts.fingerprint:
        found.notes.append("the source was changed since, so keys were compared with the plan, and not with the source")
        return
    folder = Path(tempfile.mkdtemp(prefix="pipeline-verify-"))
    try:
        again = make_plan(folder / "plan", job, ready, run_id=run_id, limit=limit)
        if again.facts.requests != plan.facts.requests:
            words = f"the source gives {again.facts.requests:,} requests, the plan has {plan.facts.requests:,}"
            found.problems.append(words)
            return
        for old, new in zip(plan.read(prompts=False), again.read(prompts=False), strict=False):
            if old.keys != new.keys:
                row = next((n for n, pair in enumerate(zip(old.keys, new.keys, strict=False)) if pair[0] != pair[1]), 0)
                found.problems.append(f"request_key: row {old.at + row + 1:,} has another key by the source")
                return
    except StorageError as error:
        found.notes.append(f"the source was not looked at: {_line(error)}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())

"""`report`: one run as a page."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.main import say
from pipeline.cli.options import job_options, load_job
from pipeline.errors import JobError, StorageError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.answer import Contract
    from pipeline.job import Job, Overrides
    from pipeline.journal import Journal, RunRecord
    from pipeline.records import Key
    from pipeline.report.run import Album, Asked, Inputs, Laid, Limit, Read, Reader, Stretch, Told
    from pipeline.run.plan import Plan

PAGES = (".html", ".htm")
LONGEST_JOB = 64 * 1024
ROWS_AT_ONCE = 5_000
MOST_PICTURES = 2_000
"""Cards of a contact sheet at most: a page of them has a few megabytes, which is what browsers like to open."""


@click.command("report")
@job_options
@click.option(
    "--pictures",
    type=click.IntRange(0, MOST_PICTURES),
    metavar="N",
    help="Cards of the contact sheet, at most; default: 120.",
)
def report_command(job: Path, overrides: Overrides, pictures: int | None) -> int:
    """Write one self-contained HTML page of a run of JOB: what was asked, what came of it, what it cost, how it went.

    Without --date it is the run that was started last; an unfinished one too. The page goes beside the run's output,
    as <stem>.report.html, or to --output; its path is printed. Nothing is sent, and nothing else is changed.

    A run about pictures has a contact sheet: small pictures of some rows of each status, with what was said of them.

    \b
    Examples:
      pipeline report configs/anomaly.yaml
      pipeline report nightly.yaml --date 2026-11-21 --output /tmp/night.html
    """
    from pipeline.cli.looking import chosen_by, load_of_run
    from pipeline.journal import Journal
    from pipeline.report.run import run_page
    from pipeline.run.look import find_run
    from pipeline.run.naming import journal_path

    page, overrides = overrides.output, replace(overrides, output=None)
    if page is not None and page.suffix.lower() not in PAGES:
        raise JobError(
            f"--output {page}: here it names the page, and should end in .html; the job's output is only read"
        )
    loaded = load_job(job, overrides)
    path = journal_path(loaded)
    journal = Journal.read(path)
    if journal is None:
        raise JobError(f"{loaded.shown_file}: there is no journal at {path}: the job never ran")
    try:
        run = find_run(loaded, journal, chosen=chosen_by(overrides))
        say(f"run {run.run_id}")
        # A param may have become another one since; the page says where the job has changed.
        with suppress(JobError):
            loaded = load_of_run(job, run, journal, loaded, overrides)
        output, published = _output(loaded, run)
        with _album(loaded, pictures) as album:
            told = _told(loaded, run, journal, output, published, album, pictures)
            text = run_page(path, told, now=datetime.now(UTC))
    finally:
        journal.close()
    page = page or output.with_name(f"{output.stem}.report.html")
    _write(page, text)
    print(page)
    return 0


def _output(job: Job, run: RunRecord) -> tuple[Path, str]:
    """Where the run's output is, and what is known of it; one that was published elsewhere is found there."""
    from pipeline.output import Published

    record = (run.published or {}).get(run.plan or "")
    if record is None:
        return job.output.path, f"{job.output.path}, not published yet"
    published = Published(**record["output"])
    there = Path(published.path)
    if published.intact():
        return there, f"{there}, {published.size:,} bytes"
    if there.exists():
        return there, f"{there}, changed since it was published"
    return job.output.path, f"{there}, gone since it was published"


def _summary(output: Path, run: RunRecord) -> Mapping[str, Any]:
    """The summary beside the output, if it is this run's; else the one of what was published last."""
    with suppress(OSError, ValueError):
        found = json.loads(output.with_name(f"{output.name}.summary.json").read_bytes())
        if isinstance(found, dict) and found.get("run_id") == run.run_id:
            return found
    record = (run.published or {}).get(run.plan or "")
    return {} if record is None else dict(record["summary"])


@contextmanager
def _album(job: Job, most: int | None) -> Iterator[Album | None]:
    """The pictures of a job's rows; None where it has none, or none are to be shown."""
    from pipeline.prompt.pictures import picture_columns
    from pipeline.report.run import Album

    if most == 0 or not picture_columns(job):
        yield None
        return
    album = Album(job, job.state / f"{job.name}.pictures.sqlite")
    try:
        yield album
    finally:
        album.close()


def _told(
    job: Job, run: RunRecord, journal: Journal, output: Path, published: str, album: Album | None, most: int | None
) -> Told:
    """All that the page is made of, beside the journal: by the plan, or where that is gone, by the output.

    Raises:
        JobError: there is neither.
    """
    from pipeline.answer import contract
    from pipeline.report.run import Pictured, Told
    from pipeline.run.look import plan_of
    from pipeline.run.plan import identity

    agreed = contract(job)
    asked = _asked(job, run, agreed, published, _summary(output, run))
    read = _reader(journal, agreed)
    try:
        plan = plan_of(job, run)
    except JobError:
        # A plan that another version of the program made, or that was tidied away.
        if not _is_output(output, run):
            raise

        def rows() -> Iterator[Stretch]:
            return _output_stretches(output, job, journal, run, agreed.reading.fields.names)

        pictured = None if album is None else Pictured(album, lambda: map(_bare, rows()), most)
        inputs = _inputs(lambda: (stretch.kept for stretch in rows()))
        return Told(replace(asked, planless=True), rows(), read, pictured, inputs)
    row, prompt = _prompt(plan)
    changed = identity(job, agreed, asked.trial) != plan.facts.identity
    asked = replace(asked, changed=changed, prompt_row=row, prompt=prompt)
    pictured = None if album is None else Pictured(album, lambda: _laid(plan), most)
    inputs = _inputs(lambda: (planned.kept for planned in plan.read(prompts=False)))
    return Told(asked, _stretches(plan, journal, run), read, pictured, inputs)


def _inputs(walk: Callable[[], Iterable[pa.RecordBatch]]) -> Inputs:
    """Look rows up by walking all before them once more."""

    def inputs(places: Collection[int]) -> dict[int, dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        at = 0
        for kept in walk() if places else ():
            here = sorted(place for place in places if at <= place < at + kept.num_rows)
            found.update({place: kept.slice(place - at, 1).to_pylist()[0] for place in here})
            at += kept.num_rows
            if len(found) == len(places):
                break
        return found

    return inputs


def _laid(plan: Plan) -> Iterator[Laid]:
    from pipeline.report.run import Laid

    return (Laid(planned.prompts, planned.kept) for planned in plan.read())


def _bare(stretch: Stretch) -> Laid:
    """Rows whose prompts are gone with the plan."""
    from pipeline.report.run import Laid

    return Laid([None] * len(stretch.lines), stretch.kept)


def _is_output(output: Path, run: RunRecord) -> bool:
    from pipeline.output import owner_of

    found = owner_of(output, run.run_id)
    return (found.job, found.run_id) == (run.job, run.run_id)


def _asked(job: Job, run: RunRecord, agreed: Contract, output: str, summary: Mapping[str, Any]) -> Asked:
    from pipeline.cli.looking import trial_of
    from pipeline.report.run import Asked

    return Asked(
        run=run.id,
        run_id=run.run_id,
        job=job.name,
        description=job.description,
        run_date=run.run_date,
        scope=run.scope,
        trial=trial_of(run),
        completed_at=run.completed_at,
        file=job.shown_file,
        job_text=_text(job.file),
        model=job.request.model,
        endpoint=job.endpoint.host,
        request={name: value for name, value in agreed.fields.items() if name != "model"},
        limits=_limits(job),
        output=output,
        summary=summary,
        mask=job.mask,
    )


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(LONGEST_JOB).decode("utf-8", "replace")
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _limits(job: Job) -> list[Limit]:
    from pipeline.report.run import Limit

    limits = job.limits
    concurrency = limits.concurrency if isinstance(limits.concurrency, int) else None
    return [
        Limit("requests_per_minute", limits.requests_per_minute),
        Limit("input_tokens_per_minute", limits.input_tokens_per_minute),
        Limit("output_tokens_per_minute", limits.output_tokens_per_minute),
        Limit("concurrency", concurrency),
    ]


def _prompt(plan: Plan) -> tuple[str, bytes | None]:
    """The first row that has a prompt, and the prompt."""
    for planned in plan.read():
        for row, prompt in zip(planned.row_ids, planned.prompts, strict=True):
            if prompt is not None:
                return row, prompt
    return "", None


def _stretches(plan: Plan, journal: Journal, run: RunRecord) -> Iterator[Stretch]:
    """The plan's rows in order, each with the outcome that the run refers to."""
    from pipeline.report.run import Line, Stretch
    from pipeline.run.coordinator import chosen_outcomes
    from pipeline.run.look import observer

    standing = observer(run)
    for planned in plan.read(prompts=False):
        keys = list({key for key in planned.keys if key is not None})
        chosen = chosen_outcomes(journal, standing, keys)
        lines = []
        for nth, (key, row, error) in enumerate(zip(planned.keys, planned.row_ids, planned.errors, strict=True)):
            known = None if key is None else chosen[key]
            status = "failed" if key is None else "pending" if known is None else known.status
            attempt = None if known is None else known.attempt
            lines.append(Line(row, status, key, attempt, error, nth in planned.repeats))
        yield Stretch(lines, planned.kept)


def _output_stretches(
    output: Path, job: Job, journal: Journal, run: RunRecord, answers: Collection[str]
) -> Iterator[Stretch]:
    """The rows of the published output, each with the outcome that the run refers to.

    Raises:
        StorageError: the output cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.output import OWN_COLUMNS
    from pipeline.records import KEY_PREFIX
    from pipeline.report.run import Line, Stretch
    from pipeline.run.coordinator import chosen_outcomes
    from pipeline.run.look import observer

    standing = observer(run)
    try:
        file = pq.ParquetFile(output, pre_buffer=False)
        prefix = (file.schema_arrow.metadata or {}).get(b"pipeline.prefix", b"").decode()
        own = {prefix + name for name in OWN_COLUMNS.names}
        kept = [name for name in file.schema_arrow.names if name not in own and name not in answers]
        told = [prefix + name for name in ("request_key", "status", "error_type", "error_message", "reused")]
        at = 0
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[*kept, *told]):
            inputs = batch.select(kept)
            texts, *columns = (batch.column(name).to_pylist() for name in told)
            keys = [None if text is None else bytes.fromhex(text.removeprefix(KEY_PREFIX)) for text in texts]
            chosen = chosen_outcomes(journal, standing, list({key for key in keys if key is not None}))
            names = _names(inputs, job.source.id or (), at)
            lines = []
            for key, name, status, kind, message, reused in zip(keys, names, *columns, strict=True):
                known = None if key is None else chosen[key]
                attempt = None if known is None else known.attempt
                # What this run paid and yet shows as taken over is an earlier equal row's.
                repeats = bool(reused) and known is not None and known.run == run.id
                error = (kind or "", message or "") if key is None else None
                lines.append(Line(name, status, key, attempt, error, repeats))
            yield Stretch(lines, inputs)
            at += len(lines)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise StorageError(f"{output}: the output cannot be read: {error}") from error


def _names(inputs: pa.RecordBatch, by: Collection[str], at: int) -> list[str]:
    """Names of rows: their `source.id` values where the output kept those, else their places."""
    if not by or not set(by) <= set(inputs.schema.names):
        return [f"row {at + nth + 1}" for nth in range(inputs.num_rows)]
    return [", ".join(map(str, row)) for row in zip(*(inputs.column(name).to_pylist() for name in by), strict=True)]


def _reader(journal: Journal, agreed: Contract) -> Reader:
    """Read answers as the output has them."""
    from pipeline.report.run import Read
    from pipeline.run.publish import cells_of

    names = agreed.reading.fields.names

    def read(used: Mapping[Key, int]) -> dict[Key, Read]:
        found = {key: cells_of(answer, agreed.reading) for key, answer in journal.answers(used).items()}
        return {
            key: Read(cells.text, dict(zip(names, cells.values, strict=True)) if cells.values else {})
            for key, cells in found.items()
        }

    return read


def _write(page: Path, text: str) -> None:
    """Write the page whole: who has it open never loads a half.

    Raises:
        StorageError: it could not be written.
    """
    fresh = page.with_name(f".{page.name}.{os.getpid()}.new")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(text, encoding="utf-8", errors="backslashreplace")
        fresh.replace(page)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise StorageError(f"{page}: the report could not be written there: {error.strerror}") from error

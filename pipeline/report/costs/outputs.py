"""Bill lines from outputs: Parquet files found by path, glob or directory, read lazily, our columns only."""

from __future__ import annotations

import glob
import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import JobError, StorageError
from pipeline.output import manifest_path, read_parts
from pipeline.records import NANOS_PER_USD
from pipeline.report.costs.lines import INPUT, MOMENT, REHEARSALS, SCHEMA, TAG, Lines, empty, reading
from pipeline.report.words import many

NEEDED: Mapping[str, Any] = {
    "status": pl.String,
    "model": pl.String,
    "input_tokens": pl.Int64,
    "output_tokens": pl.Int64,
    "cache_write_tokens": pl.Int64,
    "cache_read_tokens": pl.Int64,
    "cost_usd": pl.Float64,
    "attempts": pl.Int64,
    "reused": pl.Boolean,
    "request_key": pl.String,
    "endpoint": pl.String,
    "job": pl.String,
    "run_id": pl.String,
    "run_date": pl.Date,
    "completed_at": MOMENT,
}
"""Our columns that a report reads, before the output's prefix."""

PART = re.compile(r"part-[0-9a-f]+-\d+\.parquet")
"""The name of a part of an output that is a directory."""

TOKENS = ("input_tokens", "output_tokens", "cache_write_tokens", "cache_read_tokens")


@dataclass(frozen=True, slots=True)
class Output:
    """An output file, as its footer describes it.

    Attributes:
        path: where it is.
        mtime_ns: when it was written; of two files of a run, the later one knows more.
        columns: names of its columns.
        nested: of these, the ones whose values are no plain text or number.
        facts: its metadata, without the ``pipeline.`` before each name; empty where another program rewrote it.
    """

    path: Path
    mtime_ns: int
    columns: frozenset[str]
    nested: frozenset[str]
    facts: Mapping[str, str]

    @property
    def prefix(self) -> str:
        """What stands before the names of our columns."""
        return self.facts.get("prefix", "")

    @property
    def tags(self) -> Mapping[str, Any]:
        """The job's labels."""
        return _mapping(self.facts.get("tags"))

    @property
    def named_by(self) -> Sequence[str]:
        """Columns whose values name a row; empty where there are none, or not all were kept."""
        try:
            names = json.loads(self.facts.get("named_by") or "[]")
        except ValueError:
            return ()
        named = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        return named if set(named) <= self.columns - self.nested else ()

    @property
    def month_usd(self) -> float | None:
        """What a month of the job may cost, where it says."""
        try:
            return float(self.facts["month_usd"])
        except (KeyError, ValueError):
            return None

    @property
    def superseded(self) -> Mapping[str, int]:
        """What the run paid for answers that are in no row any more, nano-dollars by model."""
        found = _mapping(self.facts.get("superseded"))
        return {model: round(usd * NANOS_PER_USD) for model, usd in found.items() if isinstance(usd, int | float)}


def read_outputs(paths: Sequence[str], columns: Sequence[str], tags: Sequence[str], *, rehearsals: bool) -> Lines:
    """Read the bill lines of all outputs that the paths lead to.

    Args:
        paths: files, globs and directories, which are searched for ``*.parquet`` at any depth.
        columns: input columns to keep, as text; null in files that have no such column.
        tags: names of tags to keep.
        rehearsals: count what was answered by the embedded model, a simulator or a local server too.

    Raises:
        JobError: a path leads nowhere, a file is no Parquet or no output of this program, or no file has a column.
    """
    notes: list[str] = []
    files = [file for path in paths for file in _find(path, notes)]
    files = _listed(list({file.path.resolve(): file for file in files}.values()), notes)
    for column in columns:
        if not any(column in file.columns for file in files):
            raise JobError(_no_column(column, files))
        for file in files:
            if column in file.nested:
                raise JobError(f"--by {column}: in {file.path} it holds lists, structs or bytes, which are no key")
    counted = [file for file in files if rehearsals or file.facts.get("scope", "public") not in REHEARSALS]
    if left := len(files) - len(counted):
        kinds = ", ".join(sorted({file.facts["scope"] for file in files if file not in counted}))
        notes.append(f"{many(left, 'rehearsal')} left out ({kinds}); --rehearsals counts them")
    runs = _by_run(counted)
    with reading():
        frames = [_run_lines(each, columns, tags, notes, rehearsals=rehearsals) for each in runs.values()]
    named = [*(INPUT + column for column in columns), *(TAG + tag for tag in tags)]
    with reading():
        frame = _with_reuse(pl.concat([empty(named), *frames], how="vertical"))

    def names(rows: Collection[tuple[str, str]]) -> Mapping[tuple[str, str], str]:
        with reading():
            return _row_names(rows, counted)

    source = f"{many(len(counted), 'output')} of {many(len(runs), 'run')}"
    return Lines(frame, notes, source, maybe_nanos=_maybe(counted), budgets=_budgets(counted), names=names)


def _row_names(rows: Collection[tuple[str, str]], files: Sequence[Output]) -> dict[tuple[str, str], str]:
    """The ids of rows by run and request key, or else where they stand; of equal rows the first."""
    found: dict[tuple[str, str], str] = {}
    keys = [key for _, key in rows]
    for file in files:
        by = list(file.named_by)
        run, key = file.prefix + "run_id", file.prefix + "request_key"
        own = [pl.col(run).alias("run"), pl.col(key).alias("key"), *(pl.col(name).cast(pl.String) for name in by)]
        lines = pl.scan_parquet(file.path, glob=False, row_index_name="\0nth").filter(pl.col(key).is_in(keys))
        for nth, run_id, request_key, *values in lines.select("\0nth", *own).collect(engine="streaming").iter_rows():
            if len(by) > 1:
                name = ", ".join(f"{column}={value}" for column, value in zip(by, values, strict=True))
            else:
                name = str(values[0]) if by else f"{file.path.name}, row {nth + 1:,}"
            found.setdefault((run_id, request_key), name)
    return found


def _budgets(files: Sequence[Output]) -> dict[str, float]:
    """What a month may cost by job; the latest output of a job has the last word."""
    last = {file.facts.get("job", ""): file for file in sorted(files, key=lambda file: file.mtime_ns)}
    return {job: file.month_usd for job, file in last.items() if file.month_usd is not None}


def _find(path: str, notes: list[str]) -> list[Output]:
    if "://" in path:
        raise JobError(f"{path}: outputs in object stores cannot be read yet; copy them here first")
    place = Path(path)
    if place.is_dir():
        found = [
            each
            for each in sorted(place.rglob("*.parquet"))
            if each.is_file() and not any(part.startswith(".") for part in each.relative_to(place).parts)
        ]
        if not found:
            raise JobError(f"{path}: no *.parquet file in this directory; name outputs, or the directory they are in")
        return _ours(path, found, notes)
    if place.exists():
        return [_open(place, strict=True)]
    if glob.has_magic(path):
        # Path.glob takes no absolute pattern.
        named = sorted(glob.glob(path, recursive=True))  # noqa: PTH207
        found = [Path(each) for each in named if Path(each).is_file()]
        if not found:
            raise JobError(f"{path}: no file matches; quote a glob so that the shell leaves it as it is")
        return _ours(path, found, notes)
    raise JobError(f"{path}: no such file or directory")


def _ours(path: str, found: Iterable[Path], notes: list[str]) -> list[Output]:
    """Keep outputs of this program; other Parquet files may well lie beside them."""
    opened = [(each, _open(each, strict=False)) for each in found]
    others = [each for each, output in opened if output is None]
    if len(others) == len(opened):
        raise JobError(f"{path}: none of its {many(len(opened), 'Parquet file')} is an output of this program")
    if others:
        notes.append(f"{many(len(others), 'file')} passed over, no output of this program: {_some(others)}")
    return [output for _, output in opened if output is not None]


def _listed(files: Sequence[Output], notes: list[str]) -> list[Output]:
    """Leave out parts that their directory's manifest does not list: they are of a publishing that was cut off."""
    listed: dict[Path, frozenset[str] | None] = {}
    for folder in {file.path.parent for file in files if PART.fullmatch(file.path.name)}:
        try:
            names = frozenset(part.name for part in read_parts(folder))
        except StorageError:
            notes.append(f"{manifest_path(folder)}: no manifest that can be read, so every part there is counted")
            names = frozenset()
        listed[folder] = names or None
        if gone := sorted(name for name in names if not (folder / name).exists()):
            notes.append(f"{folder}: {many(len(gone), 'part')} of the manifest not there: {', '.join(gone[:3])}")

    def counts(file: Output) -> bool:
        names = listed.get(file.path.parent) if PART.fullmatch(file.path.name) else None
        return names is None or file.path.name in names

    kept = [file for file in files if counts(file)]
    if left := [file.path for file in files if not counts(file)]:
        notes.append(
            f"{many(len(left), 'part')} left out, in no manifest (an older or an unfinished one): {_some(left)}"
        )
    return kept


def _open(path: Path, *, strict: bool) -> Any:
    """Read a file's footer; None where it is not ours and nobody named it."""
    try:
        with pq.ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata.metadata or {}
        mtime_ns = path.stat().st_mtime_ns
    except (pa.ArrowException, OSError) as error:
        raise JobError(f"{path}: cannot be read as Parquet: {_first_line(error)}") from error
    facts = {
        name.decode(errors="replace").removeprefix("pipeline."): value.decode(errors="replace")
        for name, value in metadata.items()
        if name.startswith(b"pipeline.")
    }
    nested = frozenset(field.name for field in schema if _is_nested(field.type))
    output = Output(path, mtime_ns, frozenset(schema.names), nested, facts)
    missing = [output.prefix + name for name in NEEDED if output.prefix + name not in output.columns]
    if not missing:
        return output
    if not facts and len(missing) > len(NEEDED) // 2:
        if strict:
            raise JobError(
                f"{path}: not an output of this program: it has no {missing[0]}, {missing[1]}, …; "
                "a report is made of the files that output.path names"
            )
        return None
    version = facts.get("version", "unknown")
    raise JobError(
        f"{path}: an output without {', '.join(missing)}, which a report needs; it was written by version {version} or "
        "rewritten since; `pipeline export` writes it anew from the journal"
    )


def _is_nested(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _by_run(files: Sequence[Output]) -> dict[str, list[Output]]:
    runs: dict[str, list[Output]] = defaultdict(list)
    for file in files:
        runs[file.facts.get("run_id") or "\0".join(_run_ids(file))].append(file)
    return runs


def _run_ids(file: Output) -> list[str]:
    """Ask a file that lost its metadata whose rows it holds."""
    found = pl.scan_parquet(file.path, glob=False).select(pl.col(f"{file.prefix}run_id").drop_nulls().unique().sort())
    return [str(name) for name in found.collect().to_series()]


@dataclass(frozen=True, slots=True)
class _Whole:
    """An output of a run: a file, or all parts of a directory; `rows` are its lines in order."""

    files: Sequence[Output]
    rows: pl.LazyFrame

    @property
    def written(self) -> int:
        """When it was written; of two outputs of a run, the later one knows more."""
        return max(file.mtime_ns for file in self.files)

    @property
    def superseded(self) -> dict[str, int]:
        """What the run paid for answers in no row any more; every part that tells it tells the same."""
        told: dict[str, int] = {}
        for file in self.files:
            for model, nanos in file.superseded.items():
                told[model] = max(nanos, told.get(model, 0))
        return told


def _run_lines(
    files: Sequence[Output], columns: Sequence[str], tags: Sequence[str], notes: list[str], *, rehearsals: bool
) -> pl.LazyFrame:
    """Read the files of one run. A row that stands in two outputs counts once, as the one that knows more has it."""
    grouped: dict[Path, list[Output]] = defaultdict(list)
    for file in files:
        grouped[file.path.parent if PART.fullmatch(file.path.name) else file.path].append(file)
    wholes = [
        _Whole(parts, pl.concat([_file_lines(part, columns, tags, rehearsals=rehearsals) for part in parts]))
        for parts in grouped.values()
    ]
    newest = max(wholes, key=lambda whole: whole.written)
    rows, gone = (newest.rows, newest.superseded) if len(wholes) == 1 else _once(wholes, newest, notes)
    if not any(gone.values()):
        return rows
    return pl.concat([rows, _superseded_lines(newest.files[0], rows, gone)], how="vertical")


def _once(wholes: Sequence[_Whole], newest: _Whole, notes: list[str]) -> tuple[pl.LazyFrame, dict[str, int]]:
    # The nth row of a key: equal rows of a run share a key, and only the first of them was paid.
    numbered = [
        whole.rows.with_columns(
            pl.lit(whole.written, pl.Int64).alias("written"),
            pl.lit(number, pl.Int64).alias("output"),
            pl.int_range(pl.len()).over("run", "request_key").alias("nth"),
        )
        for number, whole in enumerate(wholes)
    ]
    every = pl.concat(numbered, how="vertical").collect()
    kept = every.sort("requests", "written", descending=True, nulls_last=True, maintain_order=True).unique(
        ["run", "request_key", "nth"], keep="first", maintain_order=True
    )
    if twice := len(every) - len(kept):
        names = _some([file.path for whole in wholes for file in whole.files])
        notes.append(f"{many(twice, 'row')} of a run seen in more than one file, counted once: {names}")
    # What the newest output calls superseded may stand in an older one as rows: it is counted there.
    of_newest = every.filter(pl.col("output") == wholes.index(newest))
    only_older = kept.join(of_newest, on=["run", "request_key"], how="anti", nulls_equal=True)
    seen = dict(only_older.group_by("model").agg(pl.col("cost_nanos").sum()).iter_rows())
    gone = {model: max(0, nanos - seen.get(model, 0)) for model, nanos in newest.superseded.items()}
    return kept.drop("written", "output", "nth").lazy(), gone


def _superseded_lines(file: Output, rows: pl.LazyFrame, gone: Mapping[str, int]) -> pl.LazyFrame:
    """Lines of what was paid for answers in no row any more, on the day the run last got an answer."""
    schema = rows.collect_schema()
    last = rows.filter(pl.col("requests") > 0).select(
        pl.col("completed_at").max(), *(pl.col(name).drop_nulls().first() for name in ("job", "run", "run_date"))
    )
    told = {TAG + tag: str(value) for tag, value in file.tags.items()}
    known = last.collect().row(0, named=True)
    lines = [
        {
            **dict.fromkeys(schema.names()),
            **{name: 0 for name, kind in SCHEMA.items() if kind == pl.Int64},
            "unbilled": False,
            **{name: value for name, value in told.items() if name in schema},
            **known,
            "job": known["job"] or file.facts.get("job"),
            "run": known["run"] or file.facts.get("run_id"),
            "recipe": file.facts.get("recipe") or None,
            "model": model,
            "superseded_nanos": nanos,
        }
        for model, nanos in gone.items()
        if nanos
    ]
    return pl.LazyFrame(lines, schema=schema)


def _file_lines(file: Output, columns: Sequence[str], tags: Sequence[str], *, rehearsals: bool) -> pl.LazyFrame:
    own = {name: pl.col(file.prefix + name).cast(kind) for name, kind in NEEDED.items()}
    cost = (own["cost_usd"] * NANOS_PER_USD).round().cast(pl.Int64)
    counts = own["attempts"].fill_null(0)
    known = {
        **{name: own[name] for name in ("job", "run_date", "endpoint", "model", "status", "completed_at")},
        "run": own["run_id"],
        "request_key": own["request_key"],
        "recipe": pl.lit(file.facts.get("recipe") or None, pl.String),
        "rows": pl.lit(1, pl.Int64),
        "ok_rows": (own["status"] == "ok").fill_null(value=False).cast(pl.Int64),
        "requests": counts,
        **{name: own[name].fill_null(0) for name in TOKENS},
        "cache_write_1h_tokens": pl.lit(0, pl.Int64),
        "cost_nanos": cost,
        # Null marks a reused row: what that saved is found in the lines of all files, by `_with_reuse`.
        "reuse_saved_nanos": pl.when(own["reused"]).then(pl.lit(None, pl.Int64)).otherwise(0),
        "superseded_nanos": pl.lit(0, pl.Int64),
        "unpriced_requests": pl.when(cost.is_null()).then(pl.max_horizontal(counts, 1)).otherwise(0).cast(pl.Int64),
        "maybe_requests": pl.lit(0, pl.Int64),
        "maybe_nanos": pl.lit(0, pl.Int64),
        "asked": pl.lit(None, pl.String),
        "terms": pl.lit(None, pl.String),
        "unbilled": ((own["status"] == "refused") & (cost == 0)).fill_null(value=False),
    }
    told = {INPUT + name: _input(file, name) for name in columns}
    told |= {TAG + tag: pl.lit(_text(file.tags.get(tag)), pl.String) for tag in tags}
    # A directory, a star or a bracket in its name is part of it here: the path was found already.
    scanned = pl.scan_parquet(file.path, glob=False)
    lines = scanned.select(
        *(known[name].alias(name) for name in SCHEMA), *(value.alias(name) for name, value in told.items())
    )
    return lines if rehearsals or "scope" in file.facts else lines.filter(~_rehearsed())


def _input(file: Output, name: str) -> pl.Expr:
    if name not in file.columns:
        return pl.lit(None, pl.String)
    return pl.col(name).cast(pl.String)


def _rehearsed() -> pl.Expr:
    """Whether a row without a scope was answered by nobody who bills, judged by its endpoint."""
    host = pl.col("endpoint").fill_null("")
    loopback = r"^(localhost|127\.|\[::1\])"
    return host.is_in(["embedded", "simulator"]) | host.str.contains(loopback)


def _with_reuse(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Say what reused rows would have cost: the bill of the row that paid, else the mean of their job and model."""
    reused = frame.filter(pl.col("reuse_saved_nanos").is_null())
    if reused.head(1).collect().is_empty():
        return frame
    paid = frame.filter(pl.col("cost_nanos") > 0)
    by_key = (
        paid.join(reused.select("request_key").unique(), on="request_key", how="semi")
        .group_by("request_key")
        .agg(pl.col("cost_nanos").max().alias("same"))
        .collect(engine="streaming")
        .lazy()
    )
    mean = pl.col("cost_nanos").mean().round().cast(pl.Int64).alias("usual")
    usual = paid.group_by("job", "model").agg(mean).collect(engine="streaming").lazy()
    joined = frame.join(by_key, on="request_key", how="left").join(usual, on=["job", "model"], how="left")
    return joined.with_columns(
        pl.coalesce("reuse_saved_nanos", "same", "usual").fill_null(0).alias("reuse_saved_nanos")
    ).drop("same", "usual")


def _maybe(files: Sequence[Output]) -> int | None:
    """Add up what calls without an answer may have cost at worst, as the summaries beside the outputs say."""
    found: dict[str, int] = {}
    for file in sorted(files, key=lambda file: file.mtime_ns):
        try:
            summary = json.loads(file.path.with_name(file.path.name + ".summary.json").read_bytes())
            found[str(summary["run_id"])] = round(float(summary["maybe_usd"]) * NANOS_PER_USD)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return sum(found.values()) if found else None


def _no_column(column: str, files: Sequence[Output]) -> str:
    if any(column in file.tags for file in files):
        return f"--by {column}: no output has such a column, but it is a tag of its job; write --by {TAG}{column}"
    known = reduce(frozenset.union, (file.columns for file in files), frozenset[str]())
    own = {file.prefix + name for file in files for name in NEEDED}
    others = ", ".join(sorted(known - own)[:12]) or "none"
    return f"--by {column}: no output has such a column; input columns are: {others}"


def _mapping(text: str | None) -> Mapping[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _some(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths[:3]) + (", …" if len(paths) > 3 else "")


def _first_line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.strip().splitlines()[0].rstrip(".").lower() if text.strip() else type(error).__name__

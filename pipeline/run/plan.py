"""The plan: every request of a run in order, spooled to disk, so that what was asked is what is written.

A plan is a folder: `plan.arrow` (an Arrow stream, zstd), `duplicates.arrow` (places of requests that stand
earlier in the plan too) and, written last, `plan.json`. A folder without `plan.json` is no plan.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from pipeline import __version__
from pipeline.answer import Contract
from pipeline.errors import RowError, StorageError
from pipeline.job import Job
from pipeline.prompt import KeyRecipe, Prompts, row_hash
from pipeline.records import Key, Request, Row
from pipeline.run.heap import rare_collections
from pipeline.run.ready import Ready
from pipeline.source import Inferred

FORMAT = 3
KEPT = "in:"  # apart from the plan's own columns, whatever the source calls its
LINE = (
    pa.field("key", pa.binary(16)),
    pa.field("row_id", pa.string()),
    pa.field("prompt", pa.binary()),
    pa.field("error_type", pa.string()),
    pa.field("error_message", pa.string()),
)
"""The plan's own columns: what `Planned` tells of a request; the kept input columns follow."""
DUPLICATES_AT_ONCE = 100_000  # keys held in memory at a time while duplicates are looked for: 13 MB
KEYS_AT_ONCE = 65_536  # keys read at a time: 1 MB


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a complete plan.

    Attributes:
        identity: hash of the job, its params and the program, as far as they shape the plan.
        fingerprint: of the source's files (path, size, mtime) as they were read.
        requests: number of requests, which is the number of rows of the output.
        rows: number of input rows that went into them.
        distinct: number of different keys.
        unsendable: requests that failed before sending, such as a template error.
        prompt_bytes: the size of all prompts together.
        picture_tokens: what their pictures come to, estimated.
        recipe: what every request is made by, as `recipe_parts` tells it.
        keys: hash of all keys in order, which also tells pictures that changed behind an unchanged table.
        columns: `Inferred.as_json` of the source's columns; None where files tell them, or an older program planned.
    """

    identity: str
    fingerprint: str
    requests: int
    rows: int
    distinct: int
    unsendable: int
    prompt_bytes: int
    picture_tokens: int
    recipe: Mapping[str, str]
    keys: str
    columns: Mapping[str, Any] | None = None

    @property
    def inferred(self) -> Inferred | None:
        """What the source's reader inferred of its columns."""
        return None if self.columns is None else Inferred.from_json(self.columns)


@dataclass(frozen=True, slots=True)
class Planned:
    """Some requests of the plan, in order.

    Attributes:
        at: place of the first one in the plan, from 0.
        keys: None where the request failed before sending.
        row_ids: names for messages.
        prompts: `Request.prompt`; None where the request failed before sending.
        errors: (error_type, error_message) of those that failed before sending, else None.
        kept: the kept input columns.
        repeats: which of them stand earlier in the plan too.
    """

    at: int
    keys: list[Key | None]
    row_ids: list[str]
    prompts: list[bytes | None]
    errors: list[tuple[str, str] | None]
    kept: pa.RecordBatch
    repeats: frozenset[int]

    def __len__(self) -> int:
        return len(self.keys)

    def pieces(self, rows: int) -> Iterator[Planned]:
        """The same in pieces of at most so many requests."""
        for at in range(0, len(self), rows):
            yield self.piece(at, rows)

    def piece(self, at: int, rows: int) -> Planned:
        """At most so many requests of it, from this place in it on."""
        end = at + rows
        return Planned(
            self.at + at,
            self.keys[at:end],
            self.row_ids[at:end],
            self.prompts[at:end],
            self.errors[at:end],
            self.kept.slice(at, rows),
            frozenset(nth - at for nth in self.repeats if at <= nth < end),
        )

    def request(self, nth: int) -> Request | None:
        """The nth request, or None where it failed before sending."""
        key, prompt = self.keys[nth], self.prompts[nth]
        return None if key is None or prompt is None else Request(key, self.row_ids[nth], prompt)


def identity(job: Job, contract: Contract, limit: int | None) -> str:
    """Hash of all that shapes the plan: a plan with another identity is made anew."""
    shape = {
        "format": FORMAT,
        "program": __version__,
        "source": job.source.model_dump(mode="json"),
        "prompt": job.prompt.model_dump(mode="json"),
        "request": [dict(contract.fields), contract.instructions],
        "version": job.endpoint.version,
        "scope": job.endpoint.scope,
        "params": dict(job.params),
        "date": job.run_date.isoformat() if job.run_date else None,
        "reuse": job.reuse,
        "keep": job.output.keep,
        "limit": limit,
    }
    text = json.dumps(shape, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def recipe_parts(job: Job, contract: Contract) -> dict[str, str]:
    """What every request of a job is made by: the model's name, and hashes of the prompt and of all else that is sent.

    `max_tokens` is left out: an answer that ended by itself is good under any.
    """
    sent = {name: value for name, value in contract.fields.items() if name not in ("model", "max_tokens")}
    shapes = {"prompt": job.prompt.model_dump(mode="json"), "request": [sent, contract.instructions]}
    texts = {name: json.dumps(shape, sort_keys=True, default=str) for name, shape in shapes.items()}
    return {
        "model": job.request.model,
        **{name: hashlib.blake2b(text.encode(), digest_size=8).hexdigest() for name, text in texts.items()},
    }


class Plan:
    """A complete plan on disk; `read` walks it as often as wanted."""

    def __init__(self, folder: Path, facts: Facts, only: Collection[int] | None = None) -> None:
        self.folder = folder
        self.facts = facts
        self._only = only

    def narrowed(self, only: Collection[int]) -> Plan:
        """The same plan, of which `read` gives only the batches at these places (`Planned.at`)."""
        return Plan(self.folder, self.facts, only)

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """The plan in this folder; None where there is none, one of another format, or one that lost a part."""
        try:
            facts = json.loads((folder / "plan.json").read_text())
            if facts.pop("format") != FORMAT or facts.pop("sizes") != _sizes(folder):
                return None
            return cls(folder, Facts(**facts))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @property
    def kept_schema(self) -> pa.Schema:
        """Schema of the kept input columns.

        Raises:
            StorageError: the plan cannot be read.
        """
        try:
            with pa.OSFile(str(self.folder / "plan.arrow")) as file:
                return _kept_schema(pa.ipc.open_stream(file).schema)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, why: object) -> StorageError:
        return StorageError(f"{self.folder}: the plan cannot be read: {why}; remove this folder to plan anew")

    def read(self, *, prompts: bool = True) -> Generator[Planned, None, None]:
        """Walk the plan in order; without `prompts` they are left out, which is quicker.

        Raises:
            StorageError: the plan cannot be read.
        """
        try:
            repeats = _Sorted(self.folder / "duplicates.arrow")
            with pa.OSFile(str(self.folder / "plan.arrow")) as file:
                at = 0
                for batch in _batches(file, prompts=prompts):
                    found = repeats.between(at, at + len(batch))
                    if self._only is None or at in self._only:
                        yield _planned(batch, at, found, prompts=prompts)
                    at += len(batch)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        if at != self.facts.requests:
            raise self._unreadable(f"it has {at:,} of {self.facts.requests:,} requests")


def _batches(file: pa.NativeFile, *, prompts: bool) -> Iterator[pa.RecordBatch]:
    """The plan's batches; without prompts these are not even decompressed."""
    stream = pa.ipc.open_stream(file)
    if not prompts:
        wanted = [nth for nth, name in enumerate(stream.schema.names) if name != "prompt"]
        file.seek(0)
        stream = pa.ipc.open_stream(file, options=pa.ipc.IpcReadOptions(included_fields=wanted))
    yield from stream


@rare_collections()
def make_plan(
    folder: Path,
    job: Job,
    ready: Ready,
    *,
    run_id: str,
    limit: int | None,
    progress: Callable[[int], None] = lambda _: None,
    guard: Callable[[Facts], None] = lambda _: None,
    consent: Callable[[Plan], None] = lambda _: None,
) -> Plan:
    """Read the source once and spool the plan.

    Args:
        folder: where the plan goes; what stood there is replaced when the new one is whole.
        job: the job.
        ready: the same, made ready.
        run_id: salts the keys where the job says `reuse: false`.
        limit: at most so many requests.
        progress: told the number of requests planned so far.
        guard: sees the facts before the plan takes its place, and may raise to keep it from that.
        consent: sees the new plan, still beside the old one, and may raise likewise.

    Raises:
        JobError: the source turned out to be unreadable on the way.
        StorageError: the plan cannot be written.
    """
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}.new")
    # The journal's lock is ours, so what an earlier process left half-made is nobody's.
    for left in folder.parent.glob(f"{glob.escape(folder.name)}.*.new"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.mkdir(mode=0o700)
        facts = _spool(fresh, job, ready, run_id, limit, progress)
        guard(facts)
        consent(Plan(fresh, facts))
        described = {"format": FORMAT, "sizes": _sizes(fresh), **asdict(facts)}
        (fresh / "plan.json").write_text(json.dumps(described, indent=1))
        for path in fresh.iterdir():
            path.chmod(0o600)
            _sync(path)
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
        _sync(folder.parent)
    except (OSError, pa.ArrowException, sqlite3.Error) as error:
        raise StorageError(f"{folder}: the plan cannot be written: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return Plan(folder, facts)


def _sizes(folder: Path) -> dict[str, int]:
    """Sizes of the files a plan is made of: a part that was cut off is noticed before it is used."""
    return {name: (folder / name).stat().st_size for name in ("plan.arrow", "duplicates.arrow")}


def _spool(
    folder: Path,
    job: Job,
    ready: Ready,
    run_id: str,
    limit: int | None,
    progress: Callable[[int], None],
) -> Facts:
    reader, prompts, recipe = ready.reader, ready.prompts, ready.recipe
    salt = None if job.reuse else _Salt(folder / "salt.sqlite", recipe, run_id)
    schema = pa.schema([*LINE, *[field.with_name(KEPT + field.name) for field in reader.kept_schema]])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    sums, hashed = _Sums(), hashlib.blake2b(digest_size=16)
    with (
        pa.OSFile(str(folder / "plan.arrow"), "wb") as file,
        pa.ipc.new_stream(file, schema, options=options) as writer,
        (folder / "keys.bin").open("wb") as keys,
    ):
        for batch in reader.batches():
            wanted = batch.rows if limit is None else batch.rows[: limit - sums.requests]
            prompts.look(wanted)
            table = [_line(row, prompts, recipe, salt) for row in wanted]
            columns = [list(column) for column in zip(*table, strict=True)] if table else [[], [], [], [], []]
            kept = batch.kept.slice(0, len(wanted))
            arrays = [pa.array(values, schema.field(nth).type) for nth, values in enumerate(columns)]
            writer.write_batch(pa.record_batch([*arrays, *kept.columns], schema=schema))
            written = b"".join(line[0] or _filler(sums.requests + nth) for nth, line in enumerate(table))
            keys.write(written)
            hashed.update(written)
            sums.add(wanted, table, ready)
            progress(sums.requests)
            if limit is not None and sums.requests >= limit:
                break
    if salt is not None:
        salt.close()
    repeats = find_repeats(folder / "keys.bin", sums.requests)
    _write_sorted(folder / "duplicates.arrow", repeats)
    (folder / "keys.bin").unlink()
    return Facts(
        identity=identity(job, ready.contract, limit),
        fingerprint=reader.fingerprint,
        requests=sums.requests,
        rows=sums.rows,
        distinct=sums.requests - sums.unsendable - len(repeats),
        unsendable=sums.unsendable,
        prompt_bytes=sums.prompt_bytes,
        picture_tokens=sums.picture_tokens,
        recipe=recipe_parts(job, ready.contract),
        keys=hashed.hexdigest(),
        columns=reader.inferred.as_json() if reader.inferred else None,
    )


Line = tuple[Key | None, str, bytes | None, str | None, str | None]
"""As `LINE` names its parts."""


@dataclass(slots=True)
class _Sums:
    """What the lines written so far come to."""

    requests: int = 0
    rows: int = 0
    unsendable: int = 0
    prompt_bytes: int = 0
    picture_tokens: int = 0

    def add(self, rows: Sequence[Row], lines: Sequence[Line], ready: Ready) -> None:
        prompts = [prompt for _, _, prompt, _, _ in lines if prompt is not None]
        self.requests += len(lines)
        self.rows += sum(len(row.rows) for row in rows)
        self.unsendable += sum(line[0] is None for line in lines)
        self.prompt_bytes += sum(map(len, prompts))
        if ready.pictures is not None:
            self.picture_tokens += sum(map(ready.pictures.tokens, prompts))


def _line(row: Row, prompts: Prompts, recipe: KeyRecipe, salt: _Salt | None) -> Line:
    try:
        prompt = prompts.build(row)
    except RowError as error:
        return None, row.id, None, error.error_type, str(error)
    key = recipe.key(prompt)
    return (key if salt is None else salt.key(key, row)), row.id, prompt, None, None


def _filler(place: int) -> bytes:
    """Sixteen bytes for a request without a key: like no other, and like no key but for a chance of 2^-64."""
    return b"\xff" * 8 + place.to_bytes(8, "big")


class _Salt:
    """Keys for `reuse: false`: the nth of equal rows gets a key of its own. Counts on disk, so memory stays flat."""

    def __init__(self, path: Path, recipe: KeyRecipe, run_id: str) -> None:
        self._recipe = recipe
        self._run_id = run_id
        self._path = path
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; BEGIN;")
        self._db.execute("CREATE TABLE seen (row BLOB PRIMARY KEY, count INTEGER) WITHOUT ROWID")

    def key(self, key: Key, row: Row) -> Key:
        values = row_hash(row)
        (count,) = self._db.execute(
            "INSERT INTO seen VALUES (?, 1) ON CONFLICT DO UPDATE SET count = count + 1 RETURNING count",
            (key + values,),
        ).fetchone()
        return self._recipe.salted(key, self._run_id, values, count - 1)

    def close(self) -> None:
        self._db.close()
        self._path.unlink()


def find_repeats(keys: Path, count: int, at_once: int = DUPLICATES_AT_ONCE) -> list[int]:
    """Places of keys that stand earlier in the file too, in order.

    Args:
        keys: a file of `count` keys of 16 bytes.
        count: how many.
        at_once: about how many are held in memory; of more, the file is first dealt out into smaller ones beside it.
    """
    heaps = max(1, -(-count // at_once))
    repeats: list[int] = []
    if heaps == 1:
        seen: set[Key] = set()
        for place, key in _numbered(keys):
            if key in seen:
                repeats.append(place)
            seen.add(key)
        return repeats
    with tempfile.TemporaryDirectory(dir=keys.parent) as name:
        for heap in _dealt(keys, Path(name), heaps):
            repeats += _repeats_in(heap)
    return sorted(repeats)


_PLACED = struct.Struct(">16sq")


def _numbered(keys: Path) -> Iterator[tuple[int, Key]]:
    at = 0
    with keys.open("rb") as file:
        while chunk := file.read(16 * KEYS_AT_ONCE):
            for (key,) in struct.iter_unpack("16s", chunk):
                yield at, key
                at += 1


def _dealt(keys: Path, folder: Path, heaps: int) -> Iterator[Path]:
    """Deal keys with their places out into files, equal ones into the same, and give these."""
    held: list[bytearray] = [bytearray() for _ in range(heaps)]
    paths = [folder / str(heap) for heap in range(heaps)]

    def put() -> None:
        for path, some in zip(paths, held, strict=True):
            with path.open("ab") as file:
                file.write(some)
            some.clear()

    for place, key in _numbered(keys):
        # The last bytes: those of fillers differ too.
        held[int.from_bytes(key[12:]) % heaps] += _PLACED.pack(key, place)
        if place % KEYS_AT_ONCE == KEYS_AT_ONCE - 1:
            put()
    put()
    yield from paths


def _repeats_in(heap: Path) -> list[int]:
    seen: set[Key] = set()
    repeats: list[int] = []
    with heap.open("rb") as file:
        while chunk := file.read(_PLACED.size * KEYS_AT_ONCE):
            for key, place in _PLACED.iter_unpack(chunk):
                if key in seen:
                    repeats.append(place)
                seen.add(key)
    return repeats


def _write_sorted(path: Path, places: Sequence[int]) -> None:
    schema = pa.schema([("place", pa.int64())])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for at in range(0, len(places), 65_536):
            part = pa.array(places[at : at + 65_536], pa.int64())
            writer.write_batch(pa.record_batch([part], schema=schema))


class _Sorted:
    """Ascending places read as a stream, for a walk that goes forward."""

    def __init__(self, path: Path) -> None:
        self._places = self._stream(path)
        self._next = next(self._places, None)

    @staticmethod
    def _stream(path: Path) -> Iterator[int]:
        with pa.OSFile(str(path)) as file:
            for batch in pa.ipc.open_stream(file):
                yield from batch.column(0).to_pylist()

    def between(self, start: int, end: int) -> frozenset[int]:
        """Places of this stretch, counted from its start."""
        found: list[int] = []
        while self._next is not None and self._next < end:
            found.append(self._next - start)
            self._next = next(self._places, None)
        return frozenset(found)


def _kept_schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([f.with_name(f.name[len(KEPT) :]) for f in schema if f.name.startswith(KEPT)])


def _planned(batch: pa.RecordBatch, at: int, repeats: frozenset[int], *, prompts: bool) -> Planned:
    kept = _kept_schema(batch.schema)
    types: list[Any] = batch.column("error_type").to_pylist()
    messages: list[Any] = batch.column("error_message").to_pylist()
    return Planned(
        at=at,
        keys=batch.column("key").to_pylist(),
        row_ids=batch.column("row_id").to_pylist(),
        prompts=batch.column("prompt").to_pylist() if prompts else [None] * len(batch),
        errors=[None if kind is None else (kind, text) for kind, text in zip(types, messages, strict=True)],
        kept=_kept(batch, kept),
        repeats=repeats,
    )


def _kept(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [batch.column(KEPT + name) for name in schema.names]
    if not columns:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(batch), pa.struct([])))
    return pa.record_batch(columns, schema=schema)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

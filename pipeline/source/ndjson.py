"""NDJSON: one object per line; the types of all lines first, then the rows."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from pipeline.source.contract import Complain, broken, first_line, short
from pipeline.source.files import SourceFile
from pipeline.source.inferred import Inferred
from pipeline.source.kinds import ARROW, Kind, cast_text
from pipeline.source.streams import open_bytes, reading
from pipeline.source.table import cast_column, check_names, kind_of

CHUNK_BYTES = 1 << 20
BATCH_ROWS = 2_000
BATCH_BYTES = 8 << 20
UTF8_MARK = b"\xef\xbb\xbf"

WORDS: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "list",
    dict: "object",
}
SCALARS: dict[str, Any] = {"boolean": pa.bool_(), "integer": pa.int64(), "number": pa.float64(), "string": pa.string()}


class MixedTypesError(Exception):
    """Values of one place have no type in common; says which."""


@dataclass(slots=True)
class Shape:
    """What the values of one place in the objects look like, over all lines.

    Attributes:
        types: the Python types seen, without None, and the file and line where each was first.
        items: the shape of a list's items.
        members: the shapes of an object's members, in order of first appearance.
    """

    types: dict[type, str] = field(default_factory=dict)
    items: Shape | None = None
    members: dict[str, Shape] = field(default_factory=dict)

    def see(self, value: Any, file: SourceFile, line: int) -> None:
        """Take one more value into account."""
        if value is None:
            return
        if type(value) not in self.types:
            self.types[type(value)] = f"{file.path}:{line}"
        if isinstance(value, dict):
            self.see_members(value, file, line)
        elif isinstance(value, list):
            self.items = self.items or Shape()
            for item in value:
                self.items.see(item, file, line)

    def see_members(self, value: Mapping[str, Any], file: SourceFile, line: int) -> None:
        """Take the members of one more object into account."""
        members = self.members
        for name, member in value.items():
            shape = members.get(name)
            if shape is None:
                shape = members[name] = Shape()
            # Nothing is learned from another value of a known type, unless it holds values itself.
            if type(member) not in shape.types or type(member) in (dict, list):
                shape.see(member, file, line)

    @property
    def hollow(self) -> bool:
        """Whether an object in here never has a member: Parquet has no type for that."""
        inner = [*self.members.values(), *([self.items] if self.items else [])]
        return (dict in self.types and not self.members) or any(shape.hollow for shape in inner)

    def arrow(self, name: str) -> Any:
        """The Arrow type; text where no value was seen.

        Raises:
            MixedTypesError: so it is, with the place and the line.
        """
        if not self.types:
            return pa.string()
        if list(self.types) == [dict]:
            return pa.struct([(member, shape.arrow(f"{name}.{member}")) for member, shape in self.members.items()])
        if list(self.types) == [list]:
            return pa.list_((self.items or Shape()).arrow(f"{name}[]"))
        if self.types.keys() == {int, float}:
            return SCALARS["number"]
        words = [WORDS[kind] for kind in self.types]
        if len(words) == 1:
            return SCALARS[words[0]]
        first, *_, last = self.types
        raise MixedTypesError(
            f"{self.types[last]}: column {name!r} is {_article(last)} here, {_article(first)} at {self.types[first]}"
        )


@dataclass(slots=True)
class Ndjson:
    """NDJSON files as one table.

    Columns are all members that any line of any file has; an absent one is null. Strings stay text, also where they
    look like dates. A column of whole numbers and fractions is `number`; any other mixture needs a word from `types`,
    which then reads the JSON text of each value. Of two members of one name in an object the last counts, which RFC
    8259 leaves to the reader. Blank lines are no rows. What `known` has of an earlier pass over the same files is
    taken.

    Raises:
        JobError: from every method; a line that is no JSON object, values of mixed types.
    """

    files: Sequence[SourceFile]
    types: Mapping[str, str]
    complain: Complain
    known: Inferred | None = None
    names: tuple[str, ...] = ()
    _shapes: dict[str, Shape] | None = None
    _texts: dict[str, Kind] = field(default_factory=dict)
    _schema: Any = None

    def __post_init__(self) -> None:
        self.names = self.known.names if self.known else tuple(self._learn())
        check_names(self.files[0], self.names, self.complain)

    def _learn(self) -> dict[str, Shape]:
        """The shapes of all columns, for which every line is read."""
        if self._shapes is None:
            whole = Shape()
            for file in self.files:
                with closing(self._sized(file)) as objects:
                    for line, value, _ in objects:
                        whole.see_members(value, file, line)
            self._shapes = whole.members
        return self._shapes

    def settle(self, columns: Sequence[str]) -> pa.Schema:
        """Types of these columns: as the job says, else those that hold all values."""
        known = self.known.schema if self.known is not None and self.known.covers(columns) else None
        self._schema = pa.schema([(name, known.field(name).type if known else self._type(name)) for name in columns])
        for column in self._schema:
            kind = kind_of(self.types, column.name)
            if kind or pa.types.is_string(column.type):
                # Text is its own JSON text, so columns of text and of objects without members are read alike.
                self._texts[column.name] = kind or "string"
        return self._schema

    def _type(self, name: str) -> Any:
        kind = kind_of(self.types, name)
        if kind or self._learn()[name].hollow:
            return ARROW[kind or "string"]
        try:
            return self._learn()[name].arrow(name)
        except MixedTypesError as error:
            message = f"{error}; source.types.{name}: string would take all of them"
            raise broken(self.complain, "source.path", message) from error

    def read(self, file: SourceFile) -> Generator[pa.RecordBatch, None, None]:
        """The rows of one file, typed."""
        lines: list[int] = []
        rows: list[Mapping[str, Any]] = []
        size = 0
        with closing(self._sized(file)) as objects:
            for line, value, length in objects:
                lines.append(line)
                rows.append(value)
                size += length
                if len(rows) >= BATCH_ROWS or size >= BATCH_BYTES:
                    yield self._batch(file, lines, rows)
                    lines, rows, size = [], [], 0
        if rows:
            yield self._batch(file, lines, rows)

    def _batch(self, file: SourceFile, lines: list[int], rows: list[Mapping[str, Any]]) -> pa.RecordBatch:
        def place(index: int) -> str:
            return f"{file.path}:{lines[index]}"

        arrays = []
        for column in self._schema:
            values = [row.get(column.name) for row in rows]
            if column.name in self._texts:
                kind = self._texts[column.name]
                text = pa.array([_text(value) for value in values], pa.string())
                cast, path = partial(cast_text, kind=kind), f"source.types.{column.name}"
                arrays.append(cast_column(text, cast, kind, column.name, place, self.complain, path))
            else:
                arrays.append(self._column(values, column, place))
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _column(self, values: list[Any], column: Any, place: Callable[[int], str]) -> Any:
        try:
            return pa.array(values, column.type)
        except (pa.ArrowException, OverflowError) as error:
            bad = next((row for row, value in enumerate(values) if not _fits(value, column.type)), 0)
            message = (
                f"{place(bad)}: column {column.name!r} holds a value that {short(column.type)} cannot hold exactly"
            )
            hint = f"; source.types.{column.name}: string would take it"
            raise broken(self.complain, "source.path", message + hint) from error

    def _sized(self, file: SourceFile) -> Generator[tuple[int, Mapping[str, Any], int], None, None]:
        """Every object with the number of its line, from 1, and its length in bytes."""
        number = 0
        with closing(self._lines(file)) as lines:
            for text in lines:
                number += 1
                try:
                    value = orjson.loads(text)
                except orjson.JSONDecodeError as error:
                    if not text.strip():
                        continue
                    raise self._bad(file, number, text, f"is not JSON: {first_line(error)}") from error
                if type(value) is not dict:
                    raise self._bad(file, number, text, f"is {_article(type(value))}, expected an object")
                yield number, value, len(text)

    def _lines(self, file: SourceFile) -> Generator[bytes, None, None]:
        with reading(file, self.complain), open_bytes(file) as stream:
            tail: list[bytes] = [stream.read(CHUNK_BYTES).removeprefix(UTF8_MARK)]
            while tail[-1]:
                first, *others = tail.pop().split(b"\n")
                tail.append(first)
                if others:
                    yield b"".join(tail)
                    yield from others[:-1]
                    tail = [others[-1]]
                tail.append(stream.read(CHUNK_BYTES))
            yield b"".join(tail)

    def _bad(self, file: SourceFile, number: int, text: bytes, what: str) -> Exception:
        hint = ""
        if number == 1 and text.lstrip().startswith(b"["):
            hint = "; this looks like one JSON array, ndjson has one object per line"
        if number == 1 and text[:2] in (b"\xff\xfe", b"\xfe\xff"):
            hint = "; this looks like UTF-16, ndjson is UTF-8"
        return broken(self.complain, "source.path", f"{file.path}:{number}: the line {what}{hint}")


def _fits(value: Any, kind: Any) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowException, OverflowError):
        return False
    return True


def _article(kind: type) -> str:
    word = WORDS.get(kind, "null")
    return word if word == "null" else f"an {word}" if word[0] in "aio" else f"a {word}"


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()

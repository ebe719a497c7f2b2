"""`answer.columns`: cells read out of the raw response by JMESPath."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jmespath
import orjson
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

from pipeline.answer.columns import ARROW, Unfit, read_boolean, read_integer, read_json, read_number
from pipeline.answer.schema import Complain, kind_of, nowhere, one_line
from pipeline.errors import Complaint, JobError

ColumnType = Literal["string", "integer", "number", "boolean", "json"]


class ColumnRule(Protocol):
    """How one column is read: `Rule`, or the section of a job."""

    @property
    def path(self) -> str:
        """A JMESPath into the response's JSON."""

    @property
    def type(self) -> ColumnType:
        """What the column holds."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one column is read.

    Attributes:
        path: a JMESPath into the response's JSON.
        type: what the column holds.
    """

    path: str
    type: ColumnType = "string"


class Paths:
    """The columns of `answer.columns`.

    Attributes:
        fields: names and Arrow types, in order.

    Raises:
        JobError: a path is no JMESPath, or calls a function that JMESPath does not have.
    """

    def __init__(self, rules: Mapping[str, ColumnRule], complain: Complain = nowhere) -> None:
        complaints: list[Complaint] = []
        self._readers: list[tuple[str, Any, Callable[[Any], Any]]] = []
        for name, rule in rules.items():
            where = f"answer.columns.{name}"
            if not name.strip():
                complaints.append(complain("answer.columns", "has a column without a name"))
            try:
                compiled = jmespath.compile(rule.path)
            except (JMESPathError, RecursionError) as error:
                why = str(error).splitlines()[0].removesuffix(":")
                complaints.append(complain(f"{where}.path", f"is no JMESPath: {one_line(why, 200)}"))
                continue
            complaints += (
                complain(f"{where}.path", f"calls {function}(), which JMESPath does not have")
                for function in _functions(compiled.parsed)
                if function not in Functions.FUNCTION_TABLE
            )
            self._readers.append((name, compiled, _READERS[rule.type]))
        if complaints:
            raise JobError(*complaints)
        self.fields = tuple((name, ARROW[rule.type]) for name, rule in rules.items())

    def read(self, message: Any) -> tuple[list[Any], tuple[str, ...]]:
        """The cells of a response, and the names of those whose value does not fit.

        A path that finds nothing, or null, is null and fits. A value of another type is null and does not; only text
        takes numbers and booleans too, as JSON writes them, and an integer may be written 3.0.

        Args:
            message: the response's body as JSON.
        """
        cells: list[Any] = []
        misfits: list[str] = []
        for name, compiled, read in self._readers:
            try:
                value = compiled.search(message)
                cells.append(None if value is None else read(value))
            except (Unfit, JMESPathError, TypeError, ArithmeticError, RecursionError):
                # TypeError and its like: the library compares and sums what it finds without looking.
                cells.append(None)
                misfits.append(name)
        return cells, tuple(misfits)


def _functions(node: Mapping[str, Any]) -> Iterator[str]:
    if node["type"] == "function_expression":
        yield node["value"]
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _functions(child)


def read_text(value: Any) -> str:
    """A string as it is; a number or boolean as JSON writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return orjson.dumps(value).decode()
    raise Unfit((), f"is {kind_of(value)}, where a string is wanted")


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "string": read_text,
    "integer": read_integer,
    "number": read_number,
    "boolean": read_boolean,
    "json": read_json,
}

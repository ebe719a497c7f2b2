"""Reading: a response as status and typed cells, by the job's rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import orjson
import pyarrow as pa

from pipeline.answer.ask import TOOL, Way
from pipeline.answer.columns import Columns, Unfit, unfit_text
from pipeline.answer.extract import Found, from_text, from_tool, tool_text
from pipeline.answer.paths import ColumnRule, Paths
from pipeline.answer.schema import Complain, Schema, nowhere, plain, root_object
from pipeline.answer.validate import Validator
from pipeline.answer.verdict import verdict
from pipeline.errors import Complaint, JobError
from pipeline.records import Response, Status

RULES = 1
"""Counts the versions of this room's rules; a new one has every kept answer read again."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a response is worth to its row.

    Attributes:
        status: by the stop reason first; an answer that ended by itself and does not satisfy the schema is `invalid`.
        values: one per field of the reading.
        error_type: `schema_mismatch` where the status is `invalid`.
        error_message: what is wrong with the answer, one line, ready to be sent back.
        billed: as `Verdict.billed`.
        misfits: names of `answer.columns` whose value is of another type, and so null.
    """

    status: Status
    values: tuple[Any, ...] = ()
    error_type: str | None = None
    error_message: str | None = None
    billed: bool = True
    misfits: tuple[str, ...] = ()


class Reading:
    """How the answers of a job are read.

    The schema's cells are filled for the status `ok` alone: a truncated or refused answer is never taken for a whole
    one, even where its text holds an object. The cells of `answer.columns` are read from every response.

    Args:
        schema: as the job has it; None reads no typed cells.
        columns: `answer.columns`.
        way: how the answer was asked for.
        complain: makes complaints about places in the job file.
        prefill: the text that the conversation put into the answer's mouth, such as ``{``: the API does not repeat it.

    Attributes:
        fields: the answer's columns: those of the schema in its order, then `answer.columns`.
        rules_hash: 32 hex digits, other ones when answers are read into other columns.
        verdict_hash: 16 bytes, other ones when the same answer may get another status; None where, as in the first
            version of these rules, the stop reason alone decides.

    Raises:
        JobError: the schema, a column's path or their names are broken; carries every complaint.
    """

    def __init__(
        self,
        schema: Schema | None = None,
        columns: Mapping[str, ColumnRule] | None = None,
        way: Way = "prompt",
        complain: Complain = nowhere,
        *,
        prefill: str = "",
    ) -> None:
        columns = columns or {}
        written = None if schema is None else plain(schema, complain)
        complaints: list[Complaint] = []
        self._typed: _Typed | None = None
        self._paths: Paths | None = None
        try:
            self._typed = None if written is None else _Typed(written, way, prefill, complain)
        except JobError as error:
            complaints += error.complaints
        try:
            self._paths = Paths(columns, complain) if columns else None
        except JobError as error:
            complaints += error.complaints
        fields = [] if self._typed is None else list(self._typed.columns.fields)
        complaints += (
            complain(f"answer.columns.{field.name}", "is a property of answer.schema too; rename this column")
            for field in fields
            if field.name in columns
        )
        if complaints:
            raise JobError(*complaints)
        if self._paths is not None:
            fields += [pa.field(name, arrow) for name, arrow in self._paths.fields]
        self.fields = pa.schema(fields)
        self._untyped = (None,) * (0 if self._typed is None else len(self._typed.columns.fields))
        # Without a schema the status is the stop reason's alone, however an answer would have been asked for.
        judged = [RULES, None if written is None else [way, prefill, written]]
        self.verdict_hash = None if judged == [1, None] else _hash(judged)
        self.rules_hash = _hash([judged, [[name, rule.path, rule.type] for name, rule in columns.items()]]).hex()

    def read(self, response: Response) -> Read:
        """Read a response; no answer, whatever it holds, is an error."""
        judged = verdict(response)
        if self._typed is None and self._paths is None:
            return _judged(judged.status, judged.billed)
        message = _message(response.raw) if self._paths is not None or self._needs_message else None
        values: tuple[Any, ...] = self._untyped
        status, error = judged.status, None
        if self._typed is not None and status == "ok":
            cells = self._typed.read(response.text, message)
            if isinstance(cells, str):
                status, error = "invalid", cells
            else:
                values = tuple(cells)
        misfits: tuple[str, ...] = ()
        if self._paths is not None:
            picked, misfits = self._paths.read(message)
            values = (*values, *picked)
        return Read(status, values, error and "schema_mismatch", error, judged.billed, misfits)

    def text(self, response: Response) -> str:
        """The answer as text: what the model wrote, or the input of the tool that it was made to call, as JSON."""
        called = tool_text(_message(response.raw), TOOL) if self._needs_message else None
        return response.text if called is None else called

    @property
    def _needs_message(self) -> bool:
        return self._typed is not None and self._typed.way == "tool"


class _Typed:
    """The part of a reading that the schema makes."""

    def __init__(self, schema: Schema, way: Way, prefill: str, complain: Complain) -> None:
        # A schema that is none is said once, by the validator; only a sound one is looked at for columns.
        self._validator = Validator(schema, complain)
        self.columns = Columns(schema, complain)
        self.way = way
        self._prefill = prefill
        self._names = frozenset(root_object(schema).get("properties", ()))

    def read(self, text: str, message: Any) -> list[Any] | str:
        """The cells, or what is wrong in one line."""
        called = from_tool(message, TOOL) if self.way == "tool" else None
        found = from_text(self._prefill + text) if called is None else called
        value = self._best(found)
        if value is None:
            return found.reason
        error = self._validator.error(value)
        if error is not None:
            return error
        try:
            return self.columns.values(value)
        except Unfit as unfit:
            return unfit_text(unfit)

    def _best(self, found: Found) -> Mapping[str, Any] | None:
        """The candidate that stands for the answer: the best that has a property of the schema.

        It alone is judged. Falling back to a draft because the final answer is not valid would be silently wrong.
        """
        if len(found.objects) == 1:
            return found.objects[0]
        attempts = (value for value in found.objects if not self._names.isdisjoint(value))
        return next(attempts, next(iter(found.objects), None))


@lru_cache(maxsize=8)
def _judged(status: Status, billed: bool) -> Read:
    return Read(status, billed=billed)


def _message(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        # What was decoded once is JSON; a body that is none has no cells.
        return None


def _hash(rules: Any) -> bytes:
    return blake2b(orjson.dumps(rules), digest_size=16).digest()

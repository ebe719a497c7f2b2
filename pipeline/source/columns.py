"""Which columns serve what: the job's column names held against the source's real ones."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from pipeline.errors import Complaint
from pipeline.source import groups
from pipeline.source.contract import Complain, SourceJob, SourceOptions
from pipeline.source.groups import Cut
from pipeline.source.kinds import is_binary, is_key
from pipeline.source.order import SortKey
from pipeline.source.separators import unseen_separator
from pipeline.source.where import Where, WhereError


@dataclass(frozen=True, slots=True)
class Plan:
    """Which columns serve what; every name here is a column of the source.

    Attributes:
        shown: what templates may name.
        given: what they get: the shown columns that they read.
        id: names a row.
        sort: in which order rows go.
        group: one request per group of these; None where rows are not grouped.
        per_request: rows in a chunk; None where rows are not chunked.
        keep: for rows the kept columns, for units the chosen ones of `unit_columns`.
        where: the condition.
        read: all columns that must be read, in the source's order.
        place: the hidden columns that tell a row's file and number.
    """

    shown: tuple[str, ...]
    given: tuple[str, ...]
    id: tuple[str, ...]
    sort: tuple[SortKey, ...]
    group: tuple[str, ...] | None
    per_request: int | None
    keep: tuple[str, ...]
    where: Where | None
    read: tuple[str, ...]
    place: tuple[str, str]

    @property
    def units(self) -> bool:
        """Whether a request is made from several rows."""
        return self.group is not None or self.per_request is not None


def unit_columns(
    group: Sequence[str] | None, per_request: int | None, sort: Sequence[SortKey]
) -> list[tuple[str, str | None, Callable[[Cut], Any]]]:
    """What may be kept of a group or chunk: name, the column it has its type from (None: int64), what makes it."""
    columns: list[tuple[str, str | None, Callable[[Cut], Any]]] = [
        (name, name, groups.first_of(name)) for name in group or ()
    ]
    columns.append(("row_count", None, groups.row_counts))
    if per_request is not None:
        columns.append(("chunk", None, groups.chunk_numbers))
    for key in sort:
        columns.append((f"{key.name}_first", key.name, groups.first_of(key.name)))
        columns.append((f"{key.name}_last", key.name, groups.last_of(key.name)))
    return columns


class Planner:
    """Turns the job's column names into a plan, collecting complaints about unknown ones."""

    def __init__(self, job: SourceJob, names: Sequence[str], needed: frozenset[str] | None) -> None:
        self._job, self._source = job, job.source
        self._names, self._needed = names, needed
        self._complaints: list[Complaint] = []

    def plan(self) -> tuple[Plan, list[Complaint]]:
        """The plan, and what is wrong with it; it is of use only where nothing is."""
        source = self._source
        sort = tuple(self._sort_key(text) for text in source.sort_by or ())
        self._check([key.name for key in sort], "source.sort_by")
        group = self._known(source.group_by, "source.group_by") if source.group_by else None
        shown = tuple(self._names) if source.columns is None else self._known(source.columns, "source.columns")
        row_id = self._known(source.id or (), "source.id")
        for name in source.types:
            self._check([name], f"source.types.{name}", indexed=False)
        where = self._where()
        per_request = source.rows_per_request
        keep = (
            self._keep(shown or self._names) if group is None and per_request is None else self._unit_keep(group, sort)
        )
        given = tuple(name for name in shown if self._needed is None or name in self._needed)
        used = {*given, *row_id, *(key.name for key in sort), *(group or ()), *(where.columns if where else ())}
        if group is None and per_request is None:
            used.update(keep)
        read = tuple(name for name in self._names if name in used) or tuple(self._names[:1])
        return Plan(shown, given, row_id, sort, group, per_request, keep, where, read, self._place()), self._complaints

    def _sort_key(self, text: str) -> SortKey:
        return SortKey(text) if text in self._names else SortKey.parse(text)

    def _place(self) -> tuple[str, str]:
        mark = ":"
        while any(name.startswith(mark) for name in self._names):
            mark += ":"
        return f"{mark}file", f"{mark}row"

    def _where(self) -> Where | None:
        if self._source.where is None:
            return None
        try:
            return Where.parse(self._source.where, self._names)
        except WhereError as error:
            self._complaints.append(self._job.complain("source.where", str(error)))
            return None

    def _known(self, wanted: Sequence[str], path: str) -> tuple[str, ...]:
        self._check(wanted, path)
        return tuple(dict.fromkeys(name for name in wanted if name in self._names))

    def _check(self, wanted: Sequence[str], path: str, *, indexed: bool = True) -> None:
        for place, name in enumerate(wanted):
            if name not in self._names:
                where = f"{path}.{place}" if indexed else path
                message = f"the source has no column {name!r}{_nearest(name, self._names)}"
                self._complaints.append(self._job.complain(where, message))

    def _keep(self, shown: Sequence[str]) -> tuple[str, ...]:
        keep = self._job.output.keep
        if isinstance(keep, str):
            return tuple(shown) if keep == "all" else ()
        for name in keep:
            if name not in shown:
                why = "source.columns leaves it out" if name in self._names else "the source has no such column"
                message = f"cannot keep {name!r}: {why}{_nearest(name, shown)}"
                self._complaints.append(self._job.complain("output.keep", message))
        return tuple(dict.fromkeys(name for name in keep if name in shown))

    def _unit_keep(self, group: Sequence[str] | None, sort: Sequence[SortKey]) -> tuple[str, ...]:
        names = [name for name, _, _ in unit_columns(group, self._source.rows_per_request, sort)]
        for name in sorted({name for name in names if names.count(name) > 1}):
            message = (
                f"a column named {name!r} clashes with one that groups and chunks add; rename it in the source, "
                "or group and sort by others"
            )
            path = "source.group_by" if name in (group or ()) else "source.sort_by"
            self._complaints.append(self._job.complain(path, message))
        keep = self._job.output.keep
        if isinstance(keep, str):
            return tuple(dict.fromkeys(names)) if keep == "all" else ()
        for name in keep:
            if name not in names:
                why = "a request is made from several rows, which may differ in it; such a request keeps " + ", ".join(
                    names
                )
                self._complaints.append(self._job.complain("output.keep", f"cannot keep {name!r}: {why}"))
        return tuple(dict.fromkeys(name for name in keep if name in names))


def _nearest(name: str, names: Sequence[str]) -> str:
    if separator := unseen_separator(names):
        return f"; there is {names[0]}; {separator}"
    if near := difflib.get_close_matches(name, names, n=3):
        return f"; did you mean {' or '.join(near)}?"
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return f"; there are {', '.join(names[:20])}{more}"


def without_binary(plan: Plan, schema: pa.Schema, job: SourceJob) -> Plan:
    """The plan with the types known: `all` means all columns but binary ones."""
    if plan.units or job.output.keep != "all":
        return plan
    keep = tuple(name for name in plan.keep if not is_binary(schema.field(name).type))
    return replace(plan, keep=keep)


def type_complaints(plan: Plan, schema: pa.Schema, source: SourceOptions, complain: Complain) -> Iterator[Complaint]:
    """What is wrong with the types of columns that the job sorts, groups, names and filters by."""
    sort = [key.name for key in plan.sort]
    for path, names in (("source.id", plan.id), ("source.sort_by", sort), ("source.group_by", plan.group or ())):
        for place, name in enumerate(names):
            kind = schema.field(name).type
            if not is_key(kind):
                message = f"column {name!r} is {kind}; rows are told apart by text, numbers, dates and times only"
                yield complain(f"{path}.{place}", message)
    if plan.where and source.where:
        try:
            plan.where.check(pa.schema([schema.field(name) for name in plan.where.columns]))
        except WhereError as error:
            yield complain("source.where", str(error))

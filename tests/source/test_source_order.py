from __future__ import annotations

import math
import resource
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.errors import StorageError
from pipeline.source.groups import Cutter, TooLargeError
from pipeline.source.order import Sorter, SortKey

PLENTY = 1 << 30
SCHEMA = pa.schema({"i": pa.int64(), "f": pa.float64(), "t": pa.string(), "b": pa.bool_(), "nth": pa.int64()})

Table = list[dict[str, Any]]


def batches(table: Table, size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(table), size):
        yield pa.RecordBatch.from_pylist(table[start : start + size], schema=SCHEMA)


def weight(value: Any) -> tuple[Any, ...]:
    """Nulls first, NaN last."""
    if value is None:
        return (0,)
    return (1, math.isnan(value), 0.0 if math.isnan(value) else value) if isinstance(value, float) else (1, value)


def naive(table: Table, keys: list[SortKey]) -> list[int]:
    found = list(table)
    for key in reversed(keys):
        found.sort(key=lambda row: weight(row[key.name]), reverse=key.descending)
    return [row["nth"] for row in found]


def order(stream: Iterator[pa.RecordBatch]) -> list[int]:
    return [nth for batch in stream for nth in batch.column("nth").to_pylist()]


row_values = st.fixed_dictionaries(
    {
        "i": st.none() | st.integers(-2, 2),
        "f": st.none() | st.sampled_from([0.0, -0.0, 1.5, math.inf, math.nan]),
        "t": st.none() | st.sampled_from(["", "a", "B", "é", "\U0001f600", "ab"]),
        "b": st.none() | st.booleans(),
    }
)
tables = st.lists(row_values, max_size=60).map(lambda rows: [{**row, "nth": nth} for nth, row in enumerate(rows)])
sort_keys = st.lists(st.builds(SortKey, st.sampled_from("iftb"), st.booleans()), min_size=1, max_size=3)
SKEWED: Table = [{"i": 0, "f": None, "t": None, "b": None, "nth": nth} for nth in range(40)] + [
    {"i": nth % 3, "f": None, "t": None, "b": None, "nth": 40 + nth} for nth in range(9)
]


@settings(max_examples=80, deadline=None)
@given(tables, sort_keys, st.integers(1, 9), st.sampled_from([16 * 60, 16 * 300]))
@example(SKEWED, [SortKey("i")], 5, 640)
@example(SKEWED, [SortKey("i", descending=True), SortKey("f")], 1, 640)
def test_sorting_by_spill_equals_sorting_in_memory_equals_sorting_in_python(
    tmp_path_factory: pytest.TempPathFactory, table: Table, keys: list[SortKey], size: int, memory: int
) -> None:
    spill = tmp_path_factory.mktemp("spill")
    expected = naive(table, keys)
    assert order(Sorter(keys, PLENTY, spill).sort(batches(table, size))) == expected
    assert order(Sorter(keys, memory, spill).sort(batches(table, size))) == expected
    assert list(spill.iterdir()) == []


@settings(max_examples=80, deadline=None)
@given(
    tables, st.lists(st.sampled_from("iftb"), unique=True, max_size=2), st.none() | st.integers(1, 5), st.integers(1, 9)
)
def test_grouping_by_spill_equals_grouping_in_memory_equals_grouping_in_python(
    tmp_path_factory: pytest.TempPathFactory, table: Table, group: list[str], per_request: int | None, size: int
) -> None:
    keys = [*map(SortKey, group), SortKey("t", descending=True)]
    by_nth = {row["nth"]: row for row in table}
    expected = []
    for _, members in groupby(naive(table, keys), key=lambda nth: [weight(by_nth[nth][name]) for name in group]):
        whole = list(members)
        step = per_request or len(whole)
        expected += [(whole[at : at + step], at // step) for at in range(0, len(whole), step)]

    def grouped(memory: int) -> list[tuple[list[int], int]]:
        stream = Sorter(keys, memory, tmp_path_factory.getbasetemp()).sort(batches(table, size))
        cuts = Cutter(group, per_request, PLENTY).cut(stream)
        return [
            (cut.batch.column("nth").to_pylist()[unit.start : unit.stop], unit.chunk)
            for cut in cuts
            for unit in cut.units
        ]

    assert grouped(PLENTY) == expected
    assert grouped(16 * 200) == expected


@pytest.mark.parametrize("ending", ["closed", "failed"])
def test_nothing_spilled_stays_behind(tmp_path: Path, ending: str) -> None:
    def rows() -> Iterator[pa.RecordBatch]:
        yield from batches(SKEWED * 20, 50)
        if ending == "failed":
            raise LookupError

    stream = Sorter([SortKey("i")], 16 * 500, tmp_path).sort(rows())
    if ending == "failed":
        with pytest.raises(LookupError):
            next(stream)
    else:
        next(stream)
        assert len(list(tmp_path.iterdir())) == 1
        stream.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_096, hard))
    try:
        with pytest.raises(StorageError, match="rows to sort cannot be kept there"):
            list(Sorter([SortKey("i")], 16 * 500, tmp_path).sort(batches(SKEWED * 100, 50)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_spill_folder_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="rows to sort cannot be kept there"):
        list(Sorter([SortKey("i")], 16 * 500, tmp_path / "no").sort(batches(SKEWED * 100, 50)))


def test_a_unit_that_does_not_fit_in_memory_is_an_error_with_its_size() -> None:
    table: Table = [{"i": nth // 100, "f": None, "t": "x" * 100, "b": None, "nth": nth} for nth in range(300)]
    with pytest.raises(TooLargeError) as caught:
        list(Cutter(["i"], None, 30_000).cut(batches(table, 7)))
    assert caught.value.rows == 100
    assert caught.value.row.column("i").to_pylist() == [0]
    assert 50_000 < caught.value.size < 80_000
    small = list(Cutter(["i"], 10, 30_000).cut(batches(table, 7)))
    assert sum(len(cut.units) for cut in small) == 30

"""Batches to the row groups of a Parquet file, sized for readers and for memory that stays flat."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import RawIOBase
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 5_000
ROW_GROUP_BYTES = 8 * 1024 * 1024

Footer = Mapping[str, str]

DISTINCT = frozenset({"response_text", "request_key", "request_id", "completed_at"})
"""Own columns that a dictionary makes larger and slower to write: hardly a value stands in two rows."""


def write_file(
    file: IO[bytes] | RawIOBase,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    closing: Callable[[], Footer] = dict,
) -> int:
    """Write one Parquet file in groups of about 5,000 rows or 8 MiB, whichever is less; returns the number of rows.

    Pages carry checksums, so that a reader who asks for it notices damage.

    Args:
        file: open for writing.
        schema: of the output.
        batches: its rows.
        closing: gives metadata that is known only when all rows are written.
    """
    rows = 0
    prefix = (schema.metadata or {}).get(b"pipeline.prefix", b"").decode()
    distinct = {prefix + name for name in DISTINCT}
    repeating = [leaf for field in schema if field.name not in distinct for leaf in _leaves(field.name, field.type)]
    with pq.ParquetWriter(
        file, schema, compression="zstd", use_dictionary=repeating, write_page_checksum=True
    ) as writer:
        for group in _groups(batches):
            table = pa.Table.from_batches(group, schema)
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS * 2)
            rows += table.num_rows
        late = {f"pipeline.{name}": value for name, value in closing().items()}
        if late:
            # Once in the footer and once in the schema that Arrow's readers take from there, as all other metadata.
            whole = schema.with_metadata({**(schema.metadata or {}), **late})
            late["ARROW:schema"] = base64.b64encode(whole.serialize()).decode()
        writer.add_key_value_metadata(late)
    return rows


def _leaves(path: str, kind: pa.DataType) -> Iterator[str]:
    """The columns that Parquet makes of one, by path."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    group: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        group.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            yield group
            group, rows, size = [], 0, 0
    if group:
        yield group

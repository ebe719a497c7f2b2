"""The output's columns: the kept input columns, the answer's, then the run's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from pipeline.errors import JobError
from pipeline.job import Job
from pipeline.records import STATUSES

OWN_COLUMNS = pa.schema(
    [
        ("response_text", pa.string()),
        ("status", pa.string()),
        ("error_type", pa.string()),
        ("error_message", pa.string()),
        ("stop_reason", pa.string()),
        ("model", pa.string()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("cache_write_tokens", pa.int64()),
        ("cache_read_tokens", pa.int64()),
        ("cost_usd", pa.float64()),
        ("priced_by", pa.string()),
        ("attempts", pa.int32()),
        ("latency_ms", pa.int64()),
        ("reused", pa.bool_()),
        ("request_key", pa.string()),
        ("request_id", pa.string()),
        ("endpoint", pa.string()),
        ("job", pa.string()),
        ("run_id", pa.string()),
        ("run_date", pa.date32()),
        ("completed_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""The run's own columns, before `output.prefix`."""

OUTPUT_STATUSES = (*STATUSES, "pending")
"""What the column `status` may hold; `pending` only in an export before the run is complete."""


def output_schema(job: Job, kept: pa.Schema, answer: pa.Schema, metadata: Mapping[str, str] | None = None) -> pa.Schema:
    """The schema of the output: kept input columns, the answer's, then the run's own under `output.prefix`.

    Raises:
        JobError: names clash; the message offers the ways out.
    """
    own = [field.with_name(job.output.prefix + field.name) for field in OWN_COLUMNS]
    names = {field.name for field in own}
    complaints = []
    if clashes := [name for name in kept.names if name in names]:
        complaints.append(
            f"the input has {_columns(clashes)}, as the output has of its own; set output.prefix (such as llm_), or "
            "list the columns to keep in output.keep without them"
        )
    if clashes := [name for name in answer.names if name in names]:
        complaints.append(
            f"the answer has {_columns(clashes)}, as the output has of its own; set output.prefix (such as llm_)"
        )
    if clashes := [name for name in answer.names if name in kept.names]:
        complaints.append(
            f"the answer has {_columns(clashes)}, and the input too; call them otherwise in `answer`, or list the "
            "columns to keep in output.keep without them"
        )
    if complaints:
        raise JobError(*(job.complain("output", words) for words in complaints))
    text = {f"pipeline.{name}": value for name, value in (metadata or {}).items()}
    return pa.schema([*kept, *answer, *own], metadata=text or None)


def _columns(names: Sequence[str]) -> str:
    return f"{'a column' if len(names) == 1 else 'columns'} {', '.join(names)}"

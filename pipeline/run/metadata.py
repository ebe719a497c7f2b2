"""What an output says of its run: the columns that are the same in every row, and the file's metadata."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import pyarrow as pa

from pipeline import __version__
from pipeline.answer import Reading
from pipeline.job import Job
from pipeline.journal import RunRecord
from pipeline.output import Tally, output_schema
from pipeline.output.table import RunColumns
from pipeline.records import NANOS_PER_USD
from pipeline.run.plan import Plan


def run_columns(job: Job, run: RunRecord) -> RunColumns:
    """What is the same in every row of the run's output."""
    return RunColumns(job.name, run.id, run.run_id, run.run_date, job.request.model, job.endpoint.host)


def run_schema(job: Job, plan: Plan, reading: Reading, run: RunRecord) -> pa.Schema:
    """The output's schema, with what it says of the run in its metadata."""
    return output_schema(
        job,
        plan.kept_schema,
        reading.fields,
        {
            "job": job.name,
            "run_id": run.run_id,
            "run_date": run.run_date.isoformat() if run.run_date else "",
            "scope": run.scope,
            "tags": json.dumps(dict(job.tags), sort_keys=True),
            "prefix": job.output.prefix,
            "version": __version__,
            "job_hash": plan.facts.identity,
            "recipe": recipe_of(job),
            "named_by": json.dumps(named_by(job)),
            "month_usd": "" if job.budget.month_usd is None else repr(job.budget.month_usd),
        },
    )


def named_by(job: Job) -> list[str]:
    """Columns whose values name a row of the output; none where rows are named by file and number."""
    source = job.source
    if source.id:
        return list(source.id)
    chunk = ["chunk"] if source.group_by and source.rows_per_request is not None else []
    return [*source.group_by, *chunk]


def recipe_of(job: Job) -> str:
    """A short hash of prompt, model and schema, to tell in cost reports what changed between runs; 8 hex digits."""
    shape = [job.prompt.model_dump(mode="json"), job.request.model, job.answer.json_schema]
    text = json.dumps(shape, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def superseded(paid: Mapping[str, int], tally: Tally) -> dict[str, int]:
    """What the run paid, by model, for answers that are in no row of its output any more; nano-dollars."""
    return {model: nanos - tally.by_model[model] for model, nanos in paid.items() if nanos > tally.by_model[model]}


def superseded_metadata(nanos: Mapping[str, int]) -> dict[str, str]:
    """The same as the output's metadata says it, in USD."""
    return {"superseded": json.dumps({model: value / NANOS_PER_USD for model, value in sorted(nanos.items())})}

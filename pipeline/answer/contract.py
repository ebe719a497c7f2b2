"""What a job asks for beside its prompts, and how it reads the answers: decided once, for all of its requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.answer.ask import Additions, Way, additions, how, merged
from pipeline.answer.reading import Reading
from pipeline.answer.schema import PATH
from pipeline.answer.sendable import sendable
from pipeline.errors import JobError
from pipeline.job import Job


@dataclass(frozen=True, slots=True)
class Contract:
    """How the answers of a job are asked for and read.

    Attributes:
        fields: the members of the request's body beside the prompt: the job's own and what `answer.schema` adds.
        instructions: to be appended to the system prompt; None where the fields say all.
        reading: reads the answers.
        repair: how often an invalid answer is sent back.
        way: how an answer of the schema is asked for; None without a schema.
        dropped: keywords of the schema that the API would refuse: not sent as such, and held here.
    """

    fields: Mapping[str, Any]
    instructions: str | None
    reading: Reading
    repair: int
    way: Way | None = None
    dropped: tuple[str, ...] = ()


def contract(job: Job) -> Contract:
    """Decide how the job's answers are asked for and read.

    Raises:
        JobError: the schema or a column is broken, the job sets a member that the schema needs, or the beginning of
            the answer that the job writes itself varies by row.
    """
    schema, fields = job.answer.json_schema, job.request.wire()
    if schema is None:
        reading = Reading(None, job.answer.columns, complain=job.complain)
        return Contract(fields, None, reading, 0)
    prefill = _prefill(job)
    way = how(job.request.model, job.endpoint.host, schema, fields, prefilled=prefill is not None)
    reading = Reading(schema, job.answer.columns, way, job.complain, prefill=prefill or "")
    added: Additions = additions(schema, way)
    return Contract(
        merged(fields, added, job.complain),
        added.instructions,
        reading,
        job.answer.repair,
        way,
        sendable(schema).dropped if way == "format" else (),
    )


def _prefill(job: Job) -> str | None:
    """The text that the job puts into the answer's mouth: the last of its turns, where that is the assistant's."""
    turns = job.prompt.messages
    if not turns or turns[-1].role != "assistant":
        return None
    content = turns[-1].content
    start, _ = job.prompt.delimiters
    if not isinstance(content, str) or start in content:
        raise JobError(
            job.complain(
                f"prompt.messages.{len(turns) - 1}.content",
                f"begins the answer with words that vary; with {PATH} it must be the same text for every row, such "
                "as {, or be left out",
            )
        )
    return content

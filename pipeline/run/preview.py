"""Showing a request as it would be sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from pipeline.job import Job
from pipeline.prompt import estimated_tokens
from pipeline.prompt.pictures import Studio, abbreviated, write_pictures
from pipeline.records import Row, key_text
from pipeline.run.ready import Ready
from pipeline.wire import body, envelope, with_stream


def preview(job: Job, ready: Ready, row: Row, folder: Path | None = None) -> dict[str, Any]:
    """The request of a row, its pictures abbreviated: key, estimated tokens, URL and body.

    Args:
        job: the job.
        ready: the same, made ready.
        row: one of its source's.
        folder: where its pictures are written as they would be sent; None writes none.

    Raises:
        RowError: it would fail before it is sent.
    """
    ready.prompts.look([row])
    prompt = ready.prompts.build(row)
    tokens = estimated_tokens(prompt)
    sent = ready.marks.apply(prompt)
    if ready.pictures is not None:
        tokens += ready.pictures.tokens(prompt)
        sent = Studio(ready.pictures).dress(sent)
    whole = orjson.loads(body(envelope(with_stream(ready.marks.fields)), sent))
    if folder is not None:
        write_pictures(whole, folder, row.id)
    return {
        "row": row.id,
        "request_key": key_text(ready.recipe.key(prompt)) if job.reuse else None,
        "estimated_input_tokens": tokens,
        "url": job.endpoint.url or job.endpoint.word,
        "body": abbreviated(whole),
    }

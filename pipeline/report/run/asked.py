"""What was asked: the job, the prompt of one row, and the starts that worked on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pipeline.cost import usd_text
from pipeline.prompt.pictures.reference import references
from pipeline.report.page import Figure, Table, Text
from pipeline.report.page.text import line, shown
from pipeline.report.run.album import Shot, place_of
from pipeline.report.run.figures import duration
from pipeline.report.run.span import MICROS
from pipeline.report.run.view import View

LONGEST_TEXT = 20_000
LONGEST_VALUE = 400
MOST_STARTS = 50


def asked(view: View) -> Figure:
    """The job in facts, the prompt as it was rendered for one row, and the job file."""
    told, (params, tags) = view.asked, view.ledger.params_and_tags()
    facts = [
        ("job", line(told.job + (f": {told.description}" if told.description else ""), LONGEST_VALUE)),
        ("model", line(told.model)),
        ("endpoint", line(told.mask(", ".join(view.ledger.endpoints() or [told.endpoint])), LONGEST_VALUE)),
        ("request", _pairs(told.request)),
        ("date", str(told.run_date or "")),
        ("params", _pairs(params)),
        ("tags", _pairs(tags)),
        ("limits", ", ".join(f"{each.name} {each.amount:,.10g}" for each in told.limits if each.amount is not None)),
        ("output", line(told.mask(told.output))),
    ]
    texts = []
    if told.prompt is not None:
        where = f"the prompt as it was rendered for row {line(told.mask(told.prompt_row), 120)}"
        names = _picture_names(view, told.prompt)
        texts = [Text(where, shown(prompt_text(told.prompt, names), LONGEST_TEXT), folded=False)]
    texts.append(Text(f"the job file, {line(told.mask(told.file))}", shown(told.mask(told.job_text), LONGEST_TEXT)))
    return Figure("What was asked", facts=[(name, value) for name, value in facts if value], texts=texts)


def _pairs(values: Mapping[str, Any]) -> str:
    pairs = (f"{name} {value if isinstance(value, str) else _json(value)}" for name, value in values.items())
    return line(", ".join(pairs), LONGEST_VALUE)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _picture_names(view: View, prompt: bytes) -> dict[str, str]:
    """What the pictures of a prompt are called, by the digests that stand in it."""
    if view.pictured is None:
        return {}
    album = view.pictured.album
    mask = view.asked.mask
    return {each.digest.hex(): mask(album.label(Shot(each.digest, None))) for each in references(prompt)}


def prompt_text(prompt: bytes, names: Mapping[str, str] | None = None) -> str:
    """Write the turns of a prompt one below the other, each under its role.

    Args:
        prompt: as planned.
        names: what its pictures are called, by their digests.
    """
    try:
        found = json.loads(b"{" + prompt + b"}")
    except ValueError:
        return prompt.decode("utf-8", "replace")
    turns = [("system", found["system"])] if found.get("system") else []
    turns += [(turn.get("role", "?"), turn.get("content", "")) for turn in found.get("messages", [])]
    return "\n\n".join(f"{role}:\n" + "\n".join(_parts(content, names or {})) for role, content in turns)


def _parts(content: Any, names: Mapping[str, str]) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    for block in content if isinstance(content, list) else [content]:
        if isinstance(block, dict) and isinstance(block.get("text"), str):
            yield block["text"]
        elif isinstance(block, dict) and isinstance(block.get("source"), dict):
            yield f"[{_pictured(str(block.get('type')), block['source'], names)}]"
        else:
            kind = block.get("type") if isinstance(block, dict) else None
            yield f"[{kind or 'something else'}: {len(_json(block)):,} characters of JSON]"


def _pictured(kind: str, source: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """A picture or document in words: its name, or where the API is to fetch it."""
    match source:
        case {"type": "picture", "digest": str(digest)}:
            name = names.get(digest, "")
        case {"url": str(url)}:
            name = place_of(url)
        case {"type": "base64", "media_type": str(medium), "data": str(data)}:
            name = f"{medium}, {len(data) * 3 // 4:,} bytes"
        case {"type": "file"}:
            name = "uploaded before"
        case _:
            name = f"{len(_json(source)):,} characters of JSON"
    return f"{kind}: {name}" if name else kind


def starts(view: View) -> Figure | None:
    """The starts of the run, where there was more than one."""
    found = view.ledger.starts()
    if len(found) < 2:
        return None
    rows = [
        [
            _moment(began),
            duration((ended - began) / MICROS) if ended is not None else "",
            line((reason or "").replace("_", " ") or "no end recorded: running, or killed"),
            "" if code is None else str(code),
            f"{calls:,}",
            f"{answered:,}",
            usd_text(nanos),
        ]
        for _, began, ended, code, reason, calls, answered, nanos in found[-MOST_STARTS:]
    ]
    left = len(found) - len(rows)
    table = Table(
        ["began, UTC", "took", "ended", "exit", "calls", "answered", "paid"],
        rows,
        {1, 3, 4, 5, 6},
        caption=f"{left:,} earlier ones are left out." if left else "",
    )
    return Figure(
        "Starts", f"The run was started {len(found):,} times; each went on where the last had ended.", table=table
    )


def _moment(micros: int) -> str:
    return f"{datetime.fromtimestamp(micros // MICROS, UTC):%Y-%m-%d %H:%M:%S}"

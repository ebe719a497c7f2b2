"""Cells: a prompt as the texts and blocks that it consists of, in the order of the wire, and as bytes around texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import orjson

from pipeline.prompt.shape import Content, PromptSection
from pipeline.prompt.template import Template

SYSTEM = -1
"""Where cells of the system prompt stand; those of turns stand at the turn's index."""

BETWEEN = "\n\n"
"""What stands between the job's own system prompt and the program's instructions."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One text, or one block that is no text.

    Attributes:
        path: the place of its text in the job file, or of the block.
        turn: the index of its turn, or `SYSTEM`.
        role: `system`, or whose turn it is.
        source: the template, still as text; None where there is none.
        template: the template once it is parsed; None for constant text of the program's own, and for other blocks.
        fixed: text that stands there for every row; None where a template makes it, and for other blocks.
        block: the block as it is sent, without a cache mark; None where the content is no list but this text.
        mark: the job's own cache mark at this block.
        pictures: it stands for the blocks of a row's pictures, at least one.
    """

    path: str
    turn: int
    role: str
    source: str | None = None
    template: Template | None = None
    fixed: str | None = None
    block: Mapping[str, Any] | None = None
    mark: Mapping[str, Any] | None = None
    pictures: bool = False

    @property
    def is_text(self) -> bool:
        """Whether it is a text, and no other block."""
        return self.block is None or self.block.get("type") == "text"


def cells_of(prompt: PromptSection) -> Iterator[Cell]:
    """Take a job's prompt apart."""
    if prompt.system is not None:
        yield from _cells(prompt.system, "prompt.system", SYSTEM, "system")
    if prompt.user is not None:
        yield Cell("prompt.user", 0, "user", prompt.user)
    for index, turn in enumerate(prompt.messages):
        yield from _cells(turn.content, f"prompt.messages.{index}.content", index, turn.role)


def _cells(content: Content, path: str, turn: int, role: str) -> Iterator[Cell]:
    if isinstance(content, str):
        yield Cell(path, turn, role, content)
        return
    for index, given in enumerate(content):
        place = f"{path}.{index}"
        members = dict(given if isinstance(given, Mapping) else given.wire())
        mark = members.pop("cache_control", None)
        if isinstance(given, Mapping):
            yield Cell(place, turn, role, block=members, mark=mark)
        else:
            yield Cell(f"{place}.text", turn, role, given.text, block=members, mark=mark)


def with_pictures(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Put the place of a row's pictures before the first text of the last turn of the user."""
    last = max((cell.turn for cell in cells if cell.role == "user"), default=SYSTEM)
    inside = [index for index, cell in enumerate(cells) if cell.turn == last]
    at = next((index for index in inside if cells[index].is_text), inside[-1] + 1)
    place = Cell("prompt.images", last, "user", block={"type": "image"}, pictures=True)
    behind = [
        replace(cell, block={"type": "text"}) if cell.turn == last and cell.block is None else cell
        for cell in cells[at:]
    ]
    return (*cells[:at], place, *behind)


def around(cells: Sequence[Cell]) -> tuple[list[tuple[bytes, Cell]], bytes]:
    """Write what stands around the texts of a prompt: ``"system":…,"messages":[…]`` without them.

    Args:
        cells: in the order of the wire; marks are written where they have one.

    Returns:
        The bytes before each text, with its cell, and the bytes after the last. A text is a JSON string; pictures count
        as a text that is blocks with commas between.
    """
    texts: list[tuple[bytes, Cell]] = []
    lead = b""
    in_turns = False
    for turn, held in groupby(cells, key=lambda cell: cell.turn):
        group = list(held)
        if turn == SYSTEM:
            lead += b'"system":'
        else:
            lead += (b"," if in_turns else b'"messages":[') + b'{"role":%b,"content":' % orjson.dumps(group[0].role)
            in_turns = True
        lead = _written(group, lead, texts) + (b"," if turn == SYSTEM else b"}")
    return texts, lead + b"]"


def _written(group: Sequence[Cell], lead: bytes, texts: list[tuple[bytes, Cell]]) -> bytes:
    """Write one content; gives the bytes since its last text."""
    if group[0].block is None:
        texts.append((lead, group[0]))
        return b""
    lead += b"["
    for index, cell in enumerate(group):
        lead += b"," if index else b""
        if cell.pictures:
            texts.append((lead, cell))
            lead = b""
            continue
        members = dict(cell.block or {}) | ({} if cell.mark is None else {"cache_control": cell.mark})
        if not cell.is_text:
            lead += orjson.dumps(members)
            continue
        rest = orjson.dumps({name: value for name, value in members.items() if name not in {"type", "text"}})
        texts.append((lead + b'{"type":"text","text":', cell))
        lead = b"}" if rest == b"{}" else b"," + rest[1:]
    return lead + b"]"

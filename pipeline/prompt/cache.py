"""Cache marks: what all rows share is marked for the API's prompt cache, right before a request is sent.

Keys, plan and journal know the prompt without marks. What stands before the first text that names a row's value is the
same bytes in every request, so marking is replacing one beginning by another: `CacheMarks.apply`. The mark stands as
far behind as it can: in the text that varies, at the end of its constant beginning, which becomes a block of its own;
else at the last constant block; else at the last tool (messages-api §1.3).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from pipeline.errors import Complaint
from pipeline.job.blocks import UNMARKED
from pipeline.job.rules import MAX_MARKS, cache_minimum
from pipeline.prompt.cells import SYSTEM, Cell, around
from pipeline.prompt.prompts import CHARACTERS_PER_TOKEN, Prompts
from pipeline.prompt.shape import CachedJob

WORTH_TOKENS = 64
"""A constant beginning of a text that varies is made a block of its own from this length on."""

IMAGE_TOKENS = 1_568
"""What a picture of a constant block is taken for: the most of a standard one (messages-api §6)."""

_NEXT_BLOCK = b'},{"type":"text","text":"'
_TEXT_BLOCK: Mapping[str, Any] = {"type": "text"}
_MAYBE_BLANK = re.compile(rb'(?: |\\[nrtf]|\\u00[01][0-9a-f]|[\x80-\xff])*+"')
"""The rest of a JSON string that consists of white space and perhaps other characters beyond ASCII."""


@dataclass(frozen=True, slots=True)
class Splice:
    """A beginning of prompts as they are built, and what stands in its place as they are sent."""

    built: bytes
    sent: bytes


@dataclass(frozen=True, slots=True)
class Split:
    """A text that is cut in two at the end of its constant beginning.

    Attributes:
        splice: up to the cut, which is inside of a JSON string.
        ending: what closes the list of blocks behind that string, where the content was one text; else nothing.
        follows: what stands behind that string in the prompt as built, its quote included; where it is not found the
            string ends the last turn. A quote inside of a string has a backslash before it, so this cannot be found
            inside of one.
    """

    splice: Splice
    ending: bytes
    follows: bytes

    def apply(self, prompt: bytes) -> bytes | None:
        """Cut a prompt; None where it begins otherwise, or where a blank block would be left."""
        if not prompt.startswith(self.splice.built):
            return None
        start = len(self.splice.built)
        if blank := _MAYBE_BLANK.match(prompt, start):
            rest = orjson.loads(b'"' + blank[0])
            if not rest:
                return self.splice.sent.removesuffix(_NEXT_BLOCK) + self.ending + prompt[start + 1 :]
            if rest.isspace():
                return None
        if not self.ending:
            return self.splice.sent + prompt[start:]
        found = prompt.find(self.follows, start)
        end = found + 1 if found >= 0 else len(prompt) - len(b"}]")
        return self.splice.sent + prompt[start:end] + self.ending + prompt[end:]


@dataclass(frozen=True, slots=True)
class CacheMarks:
    """The cache marks of one job's requests.

    Attributes:
        fields: the members sent apart from the prompt; the last tool is marked where nothing behind it is.
        constant_tokens: estimated length of what all rows share: tools, system, turns and the beginning of the text
            that varies, where that is long enough to be cut.
        varying: the place in the job file of the first text that varies; None where none does.
        marked: whether `prompt.cache` marks anything.
    """

    fields: Mapping[str, Any]
    constant_tokens: int
    varying: str | None
    marked: bool
    _split: Split | None = None
    _whole: Splice | None = None
    _later: tuple[tuple[int, int, Mapping[str, Any]], ...] = ()

    @property
    def bare(self) -> bool:
        """Whether `apply` leaves every prompt as it is."""
        return self._split is None and self._whole is None and not self._later

    def apply(self, prompt: bytes) -> bytes:
        """Mark a prompt as `Prompts.build` writes it; further turns may stand behind.

        Its texts stay what they are, but that the one that varies may become two, which joined give it. No text is made
        empty or blank. A prompt that begins otherwise comes back as it is.
        """
        if self._later:
            prompt = _with_marks(prompt, self._later)
        if self._split is not None and (cut := self._split.apply(prompt)) is not None:
            return cut
        if self._whole is not None and prompt.startswith(self._whole.built):
            return self._whole.sent + prompt[len(self._whole.built) :]
        return prompt


def _with_marks(prompt: bytes, marks: Sequence[tuple[int, int, Mapping[str, Any]]]) -> bytes:
    """Put the job's own marks at blocks, by turn and place in its content."""
    built = orjson.loads(b"{" + prompt + b"}")
    for turn, index, mark in marks:
        content = built["system"] if turn == SYSTEM else built["messages"][turn]["content"]
        content[index]["cache_control"] = mark
    return orjson.dumps(built)[1:-1]


@dataclass(frozen=True, slots=True)
class _Shared:
    """What rows share of a prompt.

    Attributes:
        constant: the cells before the first text that varies, their texts fixed.
        head: how that text begins in every row.
        rest: that text and all cells behind it.
    """

    constant: tuple[Cell, ...]
    head: str
    rest: tuple[Cell, ...]

    @classmethod
    def of(cls, prompts: Prompts) -> _Shared:
        constant: list[Cell] = []
        for index, cell in enumerate(prompts.cells):
            if cell.pictures:
                return cls(tuple(constant), "", prompts.cells[index:])
            if not cell.is_text:
                constant.append(cell)
                continue
            text, whole = cell.fixed, True
            if text is None:
                text, whole = prompts.head(cell)
            if not whole:
                return cls(tuple(constant), text, prompts.cells[index:])
            if text:  # an empty system prompt is left out
                constant.append(replace(cell, fixed=text))
        return cls(tuple(constant), "", ())

    def last(self) -> int | None:
        """Give the last constant cell that can bear a mark."""
        for index in reversed(range(len(self.constant))):
            cell = self.constant[index]
            if bool((cell.fixed or "").strip()) if cell.is_text else (cell.block or {}).get("type") not in UNMARKED:
                return index
        return None

    def whole(self, at: int | None, mark: Mapping[str, Any]) -> Splice | None:
        """Mark a constant cell, beside the job's own marks; None where there is none at all."""
        cells = list(self.constant)
        if at is not None and cells[at].mark is None:
            cells[at] = replace(cells[at], block=cells[at].block or _TEXT_BLOCK, mark=mark)
        if all(cell.mark is None for cell in cells):
            return None
        return Splice(self._built(), _begin(cells, self.rest))

    def split(self, mark: Mapping[str, Any]) -> Split | None:
        """Cut the text that varies, where its beginning is long enough and it has neither mark nor citations."""
        if (
            not self.rest
            or self.rest[0].pictures
            or len(self.head) < WORTH_TOKENS * CHARACTERS_PER_TOKEN
            or not self.head.strip()
        ):
            return None
        cell = self.rest[0]
        if cell.mark is not None or (cell.block is not None and set(cell.block) != {"type", "text"}):
            return None
        head = replace(cell, template=None, fixed=self.head, block=_TEXT_BLOCK, mark=mark)
        behind = (replace(cell, block=_TEXT_BLOCK), *self.rest[1:])
        splice = Splice(self._built() + orjson.dumps(self.head)[:-1], _begin((*self.constant, head), behind) + b'"')
        return Split(
            splice,
            ending=b"}]" if cell.block is None else b"",
            follows=b'","messages":[' if cell.turn == SYSTEM else b'"},{"',
        )

    def _built(self) -> bytes:
        return _begin([replace(cell, mark=None) for cell in self.constant], self.rest)


def _begin(constant: Sequence[Cell], rest: Sequence[Cell]) -> bytes:
    """Write a prompt up to the first text of `rest`; where there is none, up to where further turns may follow."""
    texts, tail = around([*constant, *rest])
    begun = b""
    for lead, cell in texts:
        begun += lead
        if cell.fixed is None:
            return begun
        begun += orjson.dumps(cell.fixed)
    return (begun + tail).removesuffix(b"]")


def cache_marks(job: CachedJob, prompts: Prompts, fields: Mapping[str, Any]) -> CacheMarks:
    """Find where a job's requests are marked: where its own blocks say so, and where `prompt.cache` asks for it.

    Args:
        job: whose `prompt.cache` is read.
        prompts: the job's prompts.
        fields: the members sent apart from the prompt.

    Returns:
        Marks that never are more than the API takes, those of tools and of the top level counted.
    """
    shared = _Shared.of(prompts)
    span = job.prompt.cache
    mark = {"type": "ephemeral", "ttl": "1h"} if span == "1h" else {"type": "ephemeral"}
    own = sum(cell.mark is not None for cell in prompts.cells) + _own_marks(fields)
    adds = bool(span) and own < MAX_MARKS
    at = shared.last() if adds else None
    split = shared.split(mark) if adds else None
    sent = _with_tool_marked(fields, mark) if adds and at is None and split is None else fields
    return CacheMarks(
        fields=sent,
        constant_tokens=_tokens(fields, shared.constant, shared.head if split is not None else ""),
        varying=shared.rest[0].path if shared.rest else None,
        marked=at is not None or split is not None or sent is not fields,
        _split=split,
        _whole=shared.whole(at, mark),
        _later=_later(prompts.cells, len(prompts.cells) - len(shared.rest)),
    )


def _own_marks(fields: Mapping[str, Any]) -> int:
    return sum("cache_control" in tool for tool in _tools(fields)) + (fields.get("cache_control") is not None)


def _tools(fields: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = fields.get("tools")
    return [tool for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, (list, tuple)) else []


def _with_tool_marked(fields: Mapping[str, Any], mark: Mapping[str, Any]) -> Mapping[str, Any]:
    """Mark the last tool that is in the prefix; one that is loaded later is not, and takes no mark."""
    tools = _tools(fields)
    for index in reversed(range(len(tools))):
        if not tools[index].get("defer_loading"):
            marked = {"cache_control": mark} | dict(tools[index])
            return {**fields, "tools": [*tools[:index], marked, *tools[index + 1 :]]}
    return fields


def _later(cells: Sequence[Cell], first: int) -> tuple[tuple[int, int, Mapping[str, Any]], ...]:
    """Give the job's own marks from a cell on, with the turn and the place in its content; negative: from its end."""
    sizes = Counter(cell.turn for cell in cells)
    places: Counter[int] = Counter()
    marks = []
    after_pictures = None
    for index, cell in enumerate(cells):
        # However many pictures a row has, what stands behind them is counted from the end.
        place = places[cell.turn] - (sizes[cell.turn] if cell.turn == after_pictures else 0)
        if cell.mark is not None and index >= first:
            marks.append((cell.turn, place, cell.mark))
        if cell.pictures:
            after_pictures = cell.turn
        places[cell.turn] += 1
    return tuple(marks)


def _tokens(fields: Mapping[str, Any], constant: Sequence[Cell], head: str) -> int:
    tools = _tools(fields)
    characters = len(head) + (len(orjson.dumps(tools).decode()) if tools else 0)
    pictures = 0
    for cell in constant:
        kind = (cell.block or {}).get("type")
        if cell.is_text:
            characters += len(cell.fixed or "")
        elif kind == "image":
            pictures += IMAGE_TOKENS
        else:
            characters += len(orjson.dumps(cell.block).decode())
    return pictures - int(-characters // CHARACTERS_PER_TOKEN)


def cache_warnings(job: CachedJob, prompts: Prompts, fields: Mapping[str, Any]) -> list[Complaint]:
    """Say why `prompt.cache` will hardly keep anything, before it is sent: the host, the length, or nothing shared.

    Args:
        job: whose `prompt.cache` and endpoint are read. A rehearsal elsewhere than at the job's own host is not judged.
        prompts: the job's prompts.
        fields: the members sent apart from the prompt.
    """
    if not job.prompt.cache:
        return []
    marks = cache_marks(job, prompts, fields)
    words = [_of_host(job), _of_prefix(marks, str(fields.get("model", "")))]
    return [job.complain("prompt.cache", said) for said in words if said is not None]


def _of_host(job: CachedJob) -> str | None:
    host = job.endpoint.host
    if job.endpoint.scope != job.endpoint.home_scope:
        return None
    if job.endpoint.scope in {"embedded", "local"}:
        return (
            f"marks mean nothing to most local servers (llama.cpp, Ollama, vLLM), and {host} is one; what they keep of "
            "a prompt they keep by themselves"
        )
    for name, why in _NO_CACHE.items():
        if host == name or host.endswith(f".{name}"):
            return f"{host} {why}; leave it out, or see in the first answers whether cache tokens are counted"
    return None


_NO_CACHE = {
    "aimlapi.com": "documents no cache_control for /messages",
    "ollama.com": "ignores cache_control",
}
"""Hosts whose description has no prompt cache (messages-api §0, §11; 2026-11-22)."""


def _of_prefix(marks: CacheMarks, model: str) -> str | None:
    if not marks.marked:
        return (
            "marks nothing: no tool, system prompt or turn stands before what varies"
            + ("" if marks.varying is None else f" ({marks.varying})")
            + "; move what all rows share to the front, or remove it"
        )
    least = cache_minimum(model)
    if least is None or marks.constant_tokens >= least:
        return None
    return (
        f"rows share about {marks.constant_tokens:,} tokens at the beginning, and {model} keeps none below {least:,}; "
        "nothing will be cached: move more of what rows share to the front, or remove it"
    )

"""Prompts: a row in, the members ``"system":…,"messages":[…]`` of its request out."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

import orjson

from pipeline.errors import Complaint, ErrorType, JobError, RowError
from pipeline.prompt.cells import BETWEEN, SYSTEM, Cell, around, cells_of, with_pictures
from pipeline.prompt.language import MAX_PROMPT_BYTES, Delimiters, Language
from pipeline.prompt.names import Names
from pipeline.prompt.shape import PromptJob, RowPictures
from pipeline.prompt.template import BrokenTemplateError, RenderError, Template, TooLongError
from pipeline.records import Row

CHARACTERS_PER_TOKEN = 3.5

_SYSTEM = "prompt.system"
_EMPTY = b'""'
_BLANK = "comes out empty, and the API refuses empty text"
_HALF_PAIR = "half of a surrogate pair was found, which no request can carry"


def parse(job: PromptJob) -> tuple[tuple[Cell, ...], tuple[Complaint, ...]]:
    """Parse the job's templates, as far as that goes without a source. The system's cells come first."""
    delimiters = Delimiters(*job.prompt.delimiters)
    trouble = delimiters.trouble()
    if trouble:
        return (), (job.complain("prompt.delimiters", trouble),)
    language = Language(delimiters)
    cells: list[Cell] = []
    complaints: list[Complaint] = []
    for cell in cells_of(job.prompt):
        if cell.source is None:
            cells.append(cell)
            continue
        try:
            cell.source.encode()
            template = Template(language, cell.source)
        except UnicodeEncodeError:
            complaints.append(job.complain(cell.path, _HALF_PAIR))
        except BrokenTemplateError as error:
            complaints.extend(job.complain(cell.path, message) for message in error.messages)
        else:
            constant = template.constant
            if constant is not None and not constant.strip() and not _may_be_empty(cell):
                complaints.append(job.complain(cell.path, _BLANK))
            cells.append(replace(cell, template=template, fixed=constant))
    return tuple(cells), tuple(in_file_order(complaints))


def _may_be_empty(cell: Cell) -> bool:
    """Whether it is left out where it comes out empty: a system prompt that is one text."""
    return cell.turn == SYSTEM and cell.block is None


def _misnamed(template: Template, names: Names) -> Iterator[str]:
    language = Language(names.delimiters)
    about: frozenset[str] = frozenset()
    for words, named in names.unquoted(template, lambda text: Template(language, text)):
        about |= named
        yield words
    yield from names.complaints(template.reads, about)


_PLACE = re.compile(r":(\d+):(\d+)$")


def in_file_order(complaints: Iterable[Complaint]) -> list[Complaint]:
    """Sort complaints about one file by line and column, those without a place first; else they keep their order."""

    def place(complaint: Complaint) -> tuple[int, ...]:
        found = _PLACE.search(complaint.where)
        return tuple(map(int, found.groups())) if found else ()

    return sorted(complaints, key=place)


def in_order(columns: Collection[str]) -> Sequence[str]:
    """Take columns as they come, and a set in the order of its names."""
    return sorted(columns) if isinstance(columns, AbstractSet) else tuple(columns)


def needed_columns(job: PromptJob, also: Collection[str] = ()) -> frozenset[str] | None:
    """Give the columns that the templates read, before the source is open; None for all.

    Args:
        job: whose templates are read.
        also: columns that are needed besides, such as those of pictures.

    A name that is not a built-in one counts as a column. A built-in name counts too, since a column may bear it: a
    reader keeps of these what it has.

    Raises:
        JobError: a template cannot be parsed.
    """
    cells, complaints = parse(job)
    if complaints:
        raise JobError(*complaints)
    shown = job.prompt.dataset.columns
    names = Names.of(job, (), Delimiters(*job.prompt.delimiters))
    needed: set[str] = set(also)
    for template in filter(None, (cell.template for cell in cells)):
        reads = template.reads
        columns = names.needed(reads)
        if columns is None or ("DATASET" in reads.names and shown is None):
            return None
        needed |= columns | reads.names
    return frozenset(needed)


class Prompts:
    """Builds the prompt of each row.

    Attributes:
        needed: the columns that the templates read; None for all.
        cells: the texts and blocks of the prompt, in the order of the wire.
    """

    needed: frozenset[str] | None
    cells: tuple[Cell, ...]

    def __init__(
        self,
        job: PromptJob,
        columns: Collection[str],
        *,
        owner: str = "the source",
        source: Sequence[str] | None = None,
        instructions: str | None = None,
        pictures: RowPictures | None = None,
        binary: Collection[str] = (),
    ) -> None:
        """Check the job's templates against the source's real columns.

        Args:
            job: whose section `prompt` is read.
            columns: those that templates may name, in the source's order; a set is taken in the order of its names.
            owner: what has these columns, in messages.
            source: the source's columns where `columns` are others, if known: only such are suggested.
            instructions: text of the program's own that ends the system prompt, after a blank line; it is no template.
            pictures: writes the blocks of a row's pictures; None leaves them out.
            binary: columns that have no text form, so that DATASET leaves them out where it shows all.

        Raises:
            JobError: with every complaint, in the order of the file: a template that cannot be parsed, a name that
                nothing provides, a column that DATASET is to show and the source lacks.
        """
        cells, complaints = parse(job)
        if complaints:
            raise JobError(*complaints)
        names = Names.of(job, in_order(columns), Delimiters(*job.prompt.delimiters), owner, source, binary)
        templated = [(cell.path, cell.template) for cell in cells if cell.template is not None]
        misnamed = [job.complain(path, words) for path, used in templated for words in _misnamed(used, names)]
        misnamed += [job.complain("prompt.dataset.columns", words) for words in names.dataset_complaints()]
        if pictures is not None:
            at = [f"prompt.images.{index}" for index in range(len(pictures.columns))]
            misnamed += [
                job.complain(path, words)
                for path, words in zip(at, names.unknown(pictures.columns), strict=True)
                if words
            ]
        if misnamed:
            raise JobError(*in_file_order(misnamed))
        needs = [names.needed(used.reads) for _, used in templated]
        self.needed = None if None in needs else frozenset[str]().union(*(need for need in needs if need is not None))
        self._names = names
        if self.needed is not None and pictures is not None:
            self.needed |= frozenset(pictures.columns)
        self._pictures = pictures
        cells, self._ending = _instructed(cells, instructions or "")
        self.cells = cells if pictures is None else with_pictures(cells)
        self._parts, self._tail = _parts(self.cells, names, self._ending, pictures)

    def look(self, rows: Sequence[Row]) -> None:
        """Find the pictures of rows that are about to be built, all at once; without pictures this does nothing.

        Raises:
            StorageError: what was found cannot be kept.
        """
        if self._pictures is not None:
            self._pictures.look(rows)

    def build(self, row: Row) -> bytes:
        """Render a row's prompt: ``"system":…,"messages":[…]``, JSON members in UTF-8 without braces.

        A system text that comes out empty is left out.

        Raises:
            RowError: `template`: a value that the template cannot take or that has no text form, a column that varies
                within the group, a turn that comes out empty; `too_long`: larger than the API takes; an image type: a
                picture cannot be had.
        """
        parts = []
        for lead, text in self._parts:
            parts.append(lead)
            parts.append(text(row))
        parts.append(self._tail)
        prompt = b"".join(parts)
        if len(prompt) > MAX_PROMPT_BYTES:
            raise RowError(
                "too_long", f"row {row.id}: the prompt has {len(prompt)} bytes, the API's limit is {MAX_PROMPT_BYTES}"
            )
        return prompt

    def head(self, cell: Cell) -> tuple[str, bool]:
        """Give how a templated text of `cells` begins in every row, and whether that is all of it."""
        assert cell.template is not None, "a fixed text has no head"
        text, whole = cell.template.head(self._names.provider, self._names.constants)
        if whole and self._ending and _may_be_empty(cell):
            text = text + self._ending if text else self._ending.removeprefix(BETWEEN)
        return text, whole

    def messages(self, row: Row) -> dict[str, Any]:
        """Give what `build` writes as objects: ``{"system": …, "messages": […]}``.

        Raises:
            RowError: as `build`.
        """
        built: dict[str, Any] = orjson.loads(b"{" + self.build(row) + b"}")
        return built


def estimated_tokens(prompt: bytes) -> int:
    """Estimate the input tokens of a prompt as built: a token for each 3.5 characters, rounded up."""
    characters = len(prompt.decode())
    return -int(-characters // CHARACTERS_PER_TOKEN)


def _instructed(cells: Sequence[Cell], instructions: str) -> tuple[tuple[Cell, ...], str]:
    """Put the program's instructions at the end of the system prompt, and leave out a system text that is empty.

    Returns:
        The cells, and what remains to be put behind a system text that varies.
    """
    system = [cell for cell in cells if cell.turn == SYSTEM]
    turns = [cell for cell in cells if cell.turn != SYSTEM]
    if not system or system[0].fixed == "":
        alone = [Cell(_SYSTEM, SYSTEM, "system", fixed=instructions)] if instructions else []
        return (*alone, *turns), ""
    if not instructions:
        return tuple(cells), ""
    more = BETWEEN + instructions
    if system[0].block is not None:
        return (*system, Cell(_SYSTEM, SYSTEM, "system", fixed=more, block={"type": "text"}), *turns), ""
    if system[0].fixed is None:
        return tuple(cells), more
    return (replace(system[0], fixed=system[0].fixed + more), *turns), ""


def _parts(
    cells: Sequence[Cell], names: Names, ending: str, pictures: RowPictures | None
) -> tuple[list[tuple[bytes, Callable[[Row], bytes]]], bytes]:
    """Give the functions that write what varies, with the bytes before each, and the bytes after the last."""
    parts: list[tuple[bytes, Callable[[Row], bytes]]] = []
    unmarked = [replace(cell, mark=None) for cell in cells]
    if unmarked and _may_be_empty(unmarked[0]) and unmarked[0].fixed is None:
        parts.append((b"", _system(_content(unmarked.pop(0), names), ending)))
    texts, tail = around(unmarked)
    before = b""
    for lead, cell in texts:
        before += lead
        if cell.pictures and pictures is not None:
            parts.append((before, pictures.blocks))
            before = b""
        elif cell.fixed is not None:
            before += orjson.dumps(cell.fixed)
        else:
            parts.append((before, _content(cell, names, blank_is_refused=True)))
            before = b""
    return parts, before + tail


def _system(content: Callable[[Row], bytes], ending: str) -> Callable[[Row], bytes]:
    """Give the function that writes the member `system` for a row, nothing where the text comes out empty."""
    alone = b'"system":%b,' % orjson.dumps(ending.removeprefix(BETWEEN)) if ending else b""
    closing = orjson.dumps(ending)[1:] + b","

    def member(row: Row) -> bytes:
        system = content(row)
        return b'"system":' + system[:-1] + closing if system != _EMPTY else alone

    return member


def _content(cell: Cell, names: Names, *, blank_is_refused: bool = False) -> Callable[[Row], bytes]:
    """Give the function that renders a text for a row as a JSON string."""
    assert cell.template is not None, "every text is a template, or fixed"
    render = cell.template.bind(names.provider, names.item)
    path = cell.path

    def content(row: Row) -> bytes:
        try:
            rendered = render(row)
        except RenderError as error:
            kind: ErrorType = "too_long" if isinstance(error, TooLongError) else "template"
            raise RowError(kind, f"row {row.id}: {path}: {error}") from error
        if blank_is_refused and (not rendered or rendered.isspace()):
            raise RowError("template", f"row {row.id}: {path} {_BLANK}")
        try:
            return orjson.dumps(rendered)
        except orjson.JSONEncodeError as error:
            raise RowError("template", f"row {row.id}: {path}: {_HALF_PAIR}") from error

    return content

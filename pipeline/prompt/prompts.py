"""Prompts: a row in, the members ``"system":…,"messages":[…]`` of its request out."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.errors import Complaint, ErrorType, JobError, RowError
from pipeline.prompt.language import MAX_PROMPT_BYTES, Delimiters, Language
from pipeline.prompt.names import Names
from pipeline.prompt.shape import PromptJob
from pipeline.prompt.template import BrokenTemplateError, RenderError, Template, TooLongError
from pipeline.records import Row

CHARACTERS_PER_TOKEN = 3.5

_SYSTEM = "prompt.system"
_EMPTY = b'""'
_BLANK = "comes out empty, and the API refuses empty text"
_HALF_PAIR = "half of a surrogate pair was found, which no request can carry"


@dataclass(frozen=True, slots=True)
class Text:
    """One templated text of the job.

    Attributes:
        path: its place in the job file: ``prompt.system``, ``prompt.user``, ``prompt.messages.0.content``.
        role: ``system``, or the role of the turn.
    """

    path: str
    role: str
    template: Template


def parse(job: PromptJob) -> tuple[tuple[Text, ...], tuple[Complaint, ...]]:
    """Parse the job's templates, as far as that goes without a source. The system's text comes first."""
    delimiters = Delimiters(*job.prompt.delimiters)
    trouble = delimiters.trouble()
    if trouble:
        return (), (job.complain("prompt.delimiters", trouble),)
    language = Language(delimiters)
    texts: list[Text] = []
    complaints: list[Complaint] = []
    for path, role, source in _sources(job):
        try:
            source.encode()
            template = Template(language, source)
        except UnicodeEncodeError:
            complaints.append(job.complain(path, _HALF_PAIR))
        except BrokenTemplateError as error:
            complaints.extend(job.complain(path, message) for message in error.messages)
        else:
            if template.constant is not None and not template.constant.strip() and path != _SYSTEM:
                complaints.append(job.complain(path, _BLANK))
            texts.append(Text(path, role, template))
    return tuple(texts), tuple(in_file_order(complaints))


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


def needed_columns(job: PromptJob) -> frozenset[str] | None:
    """Give the columns that the templates read, before the source is open; None for all.

    A name that is not a built-in one counts as a column. A built-in name counts too, since a column may bear it: a
    reader keeps of these what it has.

    Raises:
        JobError: a template cannot be parsed.
    """
    texts, complaints = parse(job)
    if complaints:
        raise JobError(*complaints)
    shown = job.prompt.dataset.columns
    names = Names.of(job, (), Delimiters(*job.prompt.delimiters))
    needed: set[str] = set()
    for text in texts:
        reads = text.template.reads
        columns = names.needed(reads)
        if columns is None or ("DATASET" in reads.names and shown is None):
            return None
        needed |= columns | reads.names
    return frozenset(needed)


class Prompts:
    """Builds the prompt of each row.

    Attributes:
        needed: the columns that the templates read; None for all.
    """

    needed: frozenset[str] | None

    def __init__(
        self,
        job: PromptJob,
        columns: Collection[str],
        *,
        owner: str = "the source",
        source: Sequence[str] | None = None,
    ) -> None:
        """Check the job's templates against the source's real columns.

        Args:
            job: whose section `prompt` is read.
            columns: those that templates may name, in the source's order; a set is taken in the order of its names.
            owner: what has these columns, in messages.
            source: the source's columns where `columns` are others, if known: only such are suggested.

        Raises:
            JobError: with every complaint, in the order of the file: a template that cannot be parsed, a name that
                nothing provides, a column that DATASET is to show and the source lacks.
        """
        texts, complaints = parse(job)
        if complaints:
            raise JobError(*complaints)
        names = Names.of(job, in_order(columns), Delimiters(*job.prompt.delimiters), owner, source)
        misnamed = [job.complain(text.path, words) for text in texts for words in names.complaints(text.template.reads)]
        misnamed += [job.complain("prompt.dataset.columns", words) for words in names.dataset_complaints()]
        if misnamed:
            raise JobError(*in_file_order(misnamed))
        needs = [names.needed(text.template.reads) for text in texts]
        self.needed = None if None in needs else frozenset[str]().union(*(need for need in needs if need is not None))
        self._system = next((_system(text, names) for text in texts if text.path == _SYSTEM), None)
        self._turns: list[tuple[bytes, Callable[[Row], bytes]]] = []
        lead = b'"messages":[{"role":'
        for text in texts:
            if text.path != _SYSTEM:
                turn = _content(text, names, blank_is_refused=True)
                self._turns.append((lead + orjson.dumps(text.role) + b',"content":', turn))
                lead = b'},{"role":'

    def build(self, row: Row) -> bytes:
        """Render a row's prompt: ``"system":…,"messages":[…]``, JSON members in UTF-8 without braces.

        A system text that comes out empty is left out.

        Raises:
            RowError: `template`: a value that the template cannot take or that has no text form, a column that varies
                within the group, a turn that comes out empty; `too_long`: larger than the API takes.
        """
        parts = [self._system(row)] if self._system else []
        for lead, turn in self._turns:
            parts.append(lead)
            parts.append(turn(row))
        parts.append(b"}]")
        prompt = b"".join(parts)
        if len(prompt) > MAX_PROMPT_BYTES:
            raise RowError(
                "too_long", f"row {row.id}: the prompt has {len(prompt)} bytes, the API's limit is {MAX_PROMPT_BYTES}"
            )
        return prompt

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


def _sources(job: PromptJob) -> Iterator[tuple[str, str, str]]:
    if job.prompt.system is not None:
        yield _SYSTEM, "system", job.prompt.system
    if job.prompt.user is not None:
        yield "prompt.user", "user", job.prompt.user
    for index, turn in enumerate(job.prompt.messages):
        yield f"prompt.messages.{index}.content", turn.role, turn.content


def _system(text: Text, names: Names) -> Callable[[Row], bytes]:
    content = _content(text, names)

    def member(row: Row) -> bytes:
        system = content(row)
        return b'"system":' + system + b"," if system != _EMPTY else b""

    return member


def _content(text: Text, names: Names, *, blank_is_refused: bool = False) -> Callable[[Row], bytes]:
    """Give the function that renders a text for a row as a JSON string."""
    render = text.template.bind(names.provider, names.item)
    path = text.path

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

    if text.template.constant is None:
        return content
    constant = orjson.dumps(text.template.constant)
    return lambda _: constant

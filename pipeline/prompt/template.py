"""Template: one text of the job with its placeholders; what it reads is known before any row is.

Rendering is one pass: a value that holds ``<<X>>`` comes out as it went in, so a row's text can never pull another
column into the prompt. A template of plain text, ``<<name>>`` and ``<<row["name"]>>`` is joined without Jinja2, which
is five times as fast; the result is the same, which a test holds.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import CodeType
from typing import Any, TypeAlias

from jinja2 import Template as Compiled
from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.visitor import NodeTransformer

from pipeline.prompt.language import MAX_PROMPT_BYTES, Delimiters, Language
from pipeline.prompt.nearest import did_you_mean
from pipeline.prompt.values import NoTextError, text
from pipeline.records import Row

Provide: TypeAlias = Callable[[Row], Any]
"""Gives the value of one name for a row."""

Render: TypeAlias = Callable[[Row], str]


class BrokenTemplateError(Exception):
    """A template cannot be compiled, whatever the columns are.

    Attributes:
        messages: each thing wrong with it, in words.
    """

    def __init__(self, *messages: str) -> None:
        self.messages = messages
        super().__init__(*messages)


class RenderError(Exception):
    """A template cannot be rendered for one row. The message holds no text of the row."""


class TooLongError(RenderError):
    """A template grows beyond what the API takes."""


@dataclass(frozen=True, slots=True)
class Reads:
    """What a template reads.

    Attributes:
        names: free names, such as columns, ``rows``, ``params``.
        row: columns named as ``row["Unit Price"]`` or ``row.title``.
        whole_row: `row` is also used in ways that may read any column.
        params: names asked of `params`.
    """

    names: frozenset[str]
    row: frozenset[str]
    whole_row: bool
    params: frozenset[str]


class Template:
    """A parsed template.

    Attributes:
        reads: what it reads.
        constant: what it renders for every row alike, if it is nothing but text.
        texts: what stands between values, blocks and comments.
        values: what stands between the delimiters of values, as written.
    """

    def __init__(self, language: Language, source: str, *, joined: bool = True) -> None:
        """Parse a template.

        Args:
            language: the environment that compiles it.
            source: its text.
            joined: use the short way where the template allows it.

        Raises:
            BrokenTemplateError: it is not a template of this language.
        """
        self._source = source
        self._language = language
        tree = _parse(language, source)
        self._plain = _plain(tree)
        self._tree = tree
        self._joined = joined and self._plain is not None
        self.reads = _reads(tree, self._plain)
        self.texts = tuple(node.data for node in tree.find_all(nodes.TemplateData))
        self.values = tuple(found[1] for found in _values(language.delimiters).finditer(source))
        texts = [part for part in self._plain or () if isinstance(part, str)]
        self.constant = "".join(texts) if self._plain is not None and len(texts) == len(self._plain) else None

    def bind(self, provider: Callable[[str], Provide], item: Callable[[str], Provide] | None) -> Render:
        """Give the function that renders the template for a row.

        Args:
            provider: gives the provider of a free name.
            item: gives the provider of a column, for ``row["name"]``; None where `row` is itself a column.

        Returns:
            A function of a row that returns text, and raises `RenderError`.
        """
        slots = {index: part for index, part in enumerate(self._plain or ()) if isinstance(part, _Slot)}
        if self._joined and self._plain is not None and (item or not any(slot.of_row for slot in slots.values())):
            return _joiner(
                ["" if isinstance(part, _Slot) else part for part in self._plain],
                [
                    (index, slot.shown, item(slot.name) if item and slot.of_row else provider(slot.name))
                    for index, slot in slots.items()
                ],
            )
        code: CodeType = self._language.compile(self._tree)
        compiled = Compiled.from_code(self._language, code, {})
        return self._renderer(compiled, {name: provider(name) for name in sorted(self.reads.names)})

    def head(self, provider: Callable[[str], Provide], constants: AbstractSet[str]) -> tuple[str, bool]:
        """Give the beginning that comes out the same for every row.

        Args:
            provider: gives the provider of a free name.
            constants: the free names that stand for the same value in every row.

        Returns:
            The text up to the first expression or block that reads any other name, and whether that is all of it.
            Nothing where the beginning cannot be rendered.
        """
        if self.constant is not None:
            return self.constant, True
        body = _flat(self._tree)

        def varies(count: int) -> bool:
            return not meta.find_undeclared_variables(self._tree_of(body[:count])) <= constants

        count = bisect(range(1, len(body) + 1), False, key=varies)  # noqa: FBT003 - a key to search for, no flag
        head = self._tree_of(body[:count])
        names = sorted(meta.find_undeclared_variables(head))
        code: CodeType = self._language.compile(head)
        render = self._renderer(Compiled.from_code(self._language, code, {}), {name: provider(name) for name in names})
        try:
            return render(Row("", ({},))), count == len(body)
        except RenderError:
            return "", False

    def _tree_of(self, body: list[nodes.Node]) -> nodes.Template:
        tree = nodes.Template(body, lineno=1)
        tree.set_environment(self._language)
        return tree

    def _renderer(self, compiled: Compiled, providers: Mapping[str, Provide]) -> Render:
        def render(row: Row) -> str:
            parts: list[str] = []
            size = 0
            try:
                values = {name: provide(row) for name, provide in providers.items()}
            except NoTextError as error:
                raise RenderError(str(error)) from error
            try:
                for part in compiled.generate(values):
                    parts.append(part)
                    size += len(part)
                    if size > MAX_PROMPT_BYTES:
                        raise TooLongError(f"grows beyond {MAX_PROMPT_BYTES} characters")
            except _TROUBLE as error:
                raise RenderError(_explain(error, self._source)) from error
            return "".join(parts)

        return render


_TROUBLE = (
    TemplateError,
    TypeError,
    ValueError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
)
"""What an expression of the job's author may raise over a row."""


@dataclass(frozen=True, slots=True)
class _Slot:
    name: str
    of_row: bool
    shown: str


_Plain: TypeAlias = list[str | _Slot]


def _joiner(parts: list[str], slots: list[tuple[int, str, Provide]]) -> Render:
    def render(row: Row) -> str:
        out = parts.copy()
        for index, shown, provide in slots:
            try:
                value = provide(row)
                out[index] = value if type(value) is str else text(value)
            except NoTextError as error:
                raise RenderError(f"{shown}: {error}") from error
            except UndefinedError as error:
                raise RenderError(str(error)) from error
        return "".join(out)

    return render


def _parse(language: Language, source: str) -> nodes.Template:
    delimiters = language.delimiters
    try:
        tree: nodes.Template = language.parse(source)
    except TemplateSyntaxError as error:
        raise BrokenTemplateError(
            f"line {error.lineno} of the text is no template: {_lower(error.message or 'it cannot be read')}"
            f"{_as_column(language, source, error.lineno)}; if {delimiters.opening} or {delimiters.around('%')[0]} is "
            f"meant as text there, choose other prompt.delimiters or put it between {delimiters.block('raw')} and "
            f"{delimiters.block('endraw')}"
        ) from error
    trouble = sorted([*_unknown(tree, language), *_foreign_files(tree)], key=lambda found: found[0])
    if trouble:
        raise BrokenTemplateError(*(f"line {line} of the text: {words}" for line, words in trouble))
    tree = _Spelled().visit(tree)
    try:
        meta.find_undeclared_variables(tree)  # runs Jinja2's own checks of the tree
    except TemplateSyntaxError as error:
        raise BrokenTemplateError(
            f"line {error.lineno} of the text: {_lower(error.message or 'it cannot be compiled')}"
        ) from error
    return tree


def _values(delimiters: Delimiters) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(delimiters.opening)}[ \t]*([^\n]*?)[ \t]*{re.escape(delimiters.closing)}")


def _as_column(language: Language, source: str, line: int) -> str:
    """End a sentence about a line with how a column is written whose name is no word of the language."""
    lines = source.split("\n")
    for found in _values(language.delimiters).finditer(lines[line - 1] if line <= len(lines) else ""):
        if found[1] and not _OPERATORS.search(found[1]):
            try:
                language.parse(found[0])
            except TemplateSyntaxError:
                spelled = language.delimiters.value(f'row["{found[1]}"]')
                return f"; a column that is called {found[1]} is written {spelled}"
    return ""


_OPERATORS = re.compile(r"[|\"'\[\]{}=]")
"""What nobody has in the name of a column, and an expression easily has."""


class _Spelled(NodeTransformer):
    """Makes ``a ~ b`` write its operands as prompts show them, not as Python does."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Concat:  # noqa: N802 - the visitor's naming
        self.generic_visit(node)
        node.nodes = [
            nodes.Filter(operand, "string", [], [], None, None, lineno=operand.lineno, environment=operand.environment)
            for operand in node.nodes
        ]
        return node


def _unknown(tree: nodes.Template, language: Language) -> Iterator[tuple[int, str]]:
    for kind, node_type, known in (
        ("filter", nodes.Filter, language.filters),
        ("test", nodes.Test, language.tests),
    ):
        for node in tree.find_all(node_type):
            if node.name not in known:
                yield node.lineno, f"there is no {kind} {node.name}{did_you_mean(node.name, list(known))}"


def _foreign_files(tree: nodes.Template) -> Iterator[tuple[int, str]]:
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        yield node.lineno, "a prompt cannot include or import; put all of it into one text or file"


def _plain(tree: nodes.Template) -> _Plain | None:
    """Take a template of text and bare placeholders apart; None where it is more than that."""
    parts: _Plain = []
    for node in tree.body:
        if not isinstance(node, nodes.Output):
            return None
        for child in node.nodes:
            if isinstance(child, nodes.TemplateData):
                parts.append(child.data)
                continue
            slot = _slot(child)
            if slot is None:
                return None
            parts.append(slot)
    return parts


def _flat(tree: nodes.Template) -> list[nodes.Node]:
    """Give a template's top level with each text and each expression on its own."""
    flat: list[nodes.Node] = []
    for node in tree.body:
        if isinstance(node, nodes.Output):
            flat += [nodes.Output([child], lineno=child.lineno) for child in node.nodes]
        else:
            flat.append(node)
    return flat


def _slot(node: nodes.Node) -> _Slot | None:
    if isinstance(node, nodes.Name):
        return _Slot(node.name, of_row=False, shown=node.name)
    item = _item_of(node, "row")
    if item is None or item in _METHODS:
        return None
    return _Slot(item, of_row=True, shown=f'row["{item}"]')


_METHODS = frozenset(name for name in dir(dict) if not name.startswith("_"))


def _item_of(node: nodes.Node, name: str) -> str | None:
    """Give the literal x of ``name["x"]`` or ``name.x``."""
    if (
        isinstance(node, (nodes.Getitem, nodes.Getattr))
        and isinstance(node.node, nodes.Name)
        and node.node.name == name
    ):
        if isinstance(node, nodes.Getattr):
            return node.attr
        if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            return node.arg.value
    return None


def _reads(tree: nodes.Template, plain: _Plain | None) -> Reads:
    names = (
        frozenset("row" if part.of_row else part.name for part in plain if isinstance(part, _Slot))
        if plain is not None
        else frozenset(meta.find_undeclared_variables(tree))
    )
    row, whole_row = _items(tree, "row")
    params, _ = _items(tree, "params")
    return Reads(names, row, whole_row=whole_row, params=params)


def _items(tree: nodes.Template, name: str) -> tuple[frozenset[str], bool]:
    """Give the literal items that are read of a mapping, and whether it is read in other ways too.

    A template that gives the name a value of its own (``<% for row in rows %>``) says nothing of the mapping.
    """
    uses = [node for node in tree.find_all(nodes.Name) if node.name == name]
    if any(node.ctx != "load" for node in uses):
        return frozenset(), True
    items = [
        item
        for node in tree.find_all((nodes.Getitem, nodes.Getattr))
        if (item := _item_of(node, name)) is not None and not (isinstance(node, nodes.Getattr) and item in _METHODS)
    ]
    return frozenset(items), len(items) < len(uses)


_QUOTED = re.compile(r"'([^']*)'")


def _explain(error: BaseException, source: str) -> str:
    """Say what went wrong over a row, without repeating text of the row."""
    return f"line {_line(error)}: {_words(error, source)}"


def _words(error: BaseException, source: str) -> str:
    message = _lower(str(error))
    if isinstance(error, (NoTextError, SecurityError)):
        return message
    if isinstance(error, UndefinedError):
        quoted = _QUOTED.findall(message)
        known = all(word in source or word.endswith(" object") for word in quoted)
        return message if known else "an item is asked for by a name that is not there"
    if isinstance(error, (TypeError, ArithmeticError)):
        return message or type(error).__name__
    return f"a value does not fit the expression ({type(error).__name__})"


def _line(error: BaseException) -> int:
    """Give the line of the template; Jinja2 has put it into the traceback."""
    line = 1
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:].rstrip(".")

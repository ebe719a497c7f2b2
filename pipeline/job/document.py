"""From the bytes of a job file to a tree of nodes, with every bound kept while parsing.

PyYAML's scanner and parser do the reading of characters; composing is done here, because PyYAML keeps the last of two
equal keys silently, resolves scalars by YAML 1.1, and follows aliases without any bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from yaml import events as ev

from pipeline.job.mistakes import advice
from pipeline.job.nodes import START, Mapping, Mark, Node, Scalar, Sequence
from pipeline.job.words import found, one_line, quoted

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_ALIASES = 1_000
MAX_NODES = 100_000
"""Values in one file, those that aliases stand for counted wherever they are named."""

_CHARS_A_NODE = 256
"""A long text behind an alias counts as several nodes."""

_FORBIDDEN = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_TEMPLATE_SIGNS = ("${", "<<", "*", "{{", "{%", "<%")
QUOTE_IT = "quote this string, or use a | block"

Complain = Callable[[Mark, tuple[str, ...], str], None]


class UnreadableError(Exception):
    """Reading ends here: what follows cannot be told apart."""

    def __init__(self, mark: Mark, message: str) -> None:
        self.mark = mark
        self.message = message
        super().__init__(message)


def decode(raw: bytes) -> str:
    """Read the bytes as UTF-8, with or without a byte order mark.

    Raises:
        UnreadableError: too long, another encoding, or a character that YAML does not allow.
    """
    if len(raw) > MAX_BYTES:
        raise UnreadableError(
            START,
            f"the file is larger than {MAX_BYTES:,} bytes; put long prompts into files of their own "
            "(user: {file: prompt.md}) and data into the source",
        )
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or raw[:4] == b"\0\0\xfe\xff":
        raise UnreadableError(START, "the file is UTF-16 or UTF-32; save it as UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        byte = raw[error.start]
        raise UnreadableError(_end_of(before), f"the byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from error
    if bad := _FORBIDDEN.search(text):
        raise UnreadableError(
            _end_of(text[: bad.start()]),
            f"the character U+{ord(bad[0]):04X} is not allowed in YAML; "
            f'remove it, or write it in double quotes as "{one_line(bad[0])}"',
        )
    return text


def _end_of(text: str) -> Mark:
    lines = re.split(r"\r\n|\r|\n", text)
    return Mark(len(lines), len(lines[-1]) + 1)


def parse(text: str, complain: Complain) -> Node | None:
    """Compose the one document of a text; None where there is none.

    Duplicate keys, tags, merge keys, keys that are not text and unknown aliases are complained about, and reading goes
    on.

    Raises:
        UnreadableError: it is not YAML, or a bound was passed.
    """
    return _Composer(complain).compose(_events(text))


def _events(text: str) -> Iterator[ev.Event]:
    loader: yaml.SafeLoader | None = None
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_event():
            yield loader.get_event()  # type: ignore[no-untyped-call]  # the stubs leave it bare
    except yaml.MarkedYAMLError as error:
        raise _unreadable(error, text) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # An escape such as "\UFFFFFFFF" or a %YAML directive of a thousand digits leaves PyYAML as a ValueError.
        mark = _mark(loader.get_mark()) if loader is not None else START
        raise UnreadableError(mark, f"this is not YAML: {one_line(str(error))}") from error
    finally:
        if loader is not None:
            loader.dispose()


def _unreadable(error: yaml.MarkedYAMLError, text: str) -> UnreadableError:
    lines = text.splitlines()
    mark = _mark(error.problem_mark or error.context_mark)
    if "'\\t'" in (error.problem or ""):
        return UnreadableError(mark, "this is not YAML: a tab stands here; indent with spaces, not with tabs")
    problem = " ".join(part for part in (error.problem, error.context) if part)
    better, words = advice(error, lines)
    if words:
        problem += f"; {words}"
    places = [place.line for place in (error.problem_mark, error.context_mark) if place is not None]
    near = " ".join(lines[line] for line in places if line < len(lines))
    if any(sign in near for sign in _TEMPLATE_SIGNS):
        problem += f"; {QUOTE_IT}"
    return UnreadableError(better or mark, f"this is not YAML: {one_line(problem)}")


def _mark(mark: Any) -> Mark:
    return START if mark is None else Mark(mark.line + 1, mark.column + 1)


@dataclass(slots=True)
class _Weighed:
    """A finished node, with how many nodes it stands for and how deep it goes, aliases followed."""

    node: Node
    nodes: int = 1
    height: int = 1


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not come yet."""

    mark: Mark
    anchor: str | None
    is_mapping: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Node] = field(default_factory=dict)
    key_marks: dict[str, Mark] = field(default_factory=dict)
    key: str | None = None
    awaits_value: bool = False
    nodes: int = 1
    height: int = 0

    @property
    def place(self) -> str | None:
        """The part of a path that the next value has."""
        return self.key if self.is_mapping else str(len(self.items))


class _Composer:
    def __init__(self, complain: Complain) -> None:
        self._complain = complain
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Weighed] = {}
        self._aliases = 0
        self._nodes = 0
        self._root: Node | None = None
        self._documents = 0

    def compose(self, events: Iterator[ev.Event]) -> Node | None:
        for event in events:
            self._take(event)
        return self._root

    def _take(self, event: ev.Event) -> None:
        mark = _mark(event.start_mark)
        match event:
            case ev.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    raise UnreadableError(mark, "a second document starts here; a file holds one job")
            case ev.ScalarEvent():
                self._refuse_tag(event, mark)
                text = self._whole(event.value, mark)
                scalar = Scalar(text, mark, plain=event.style is None)
                self._count(1, mark)
                self._finish(_Weighed(scalar, 1 + len(text) // _CHARS_A_NODE), event.anchor)
            case ev.AliasEvent():
                self._finish(self._aliased(event, mark), None)
            case ev.SequenceStartEvent() | ev.MappingStartEvent():
                self._refuse_tag(event, mark)
                self._within_depth(1, mark)
                self._count(1, mark)
                self._anchors.pop(event.anchor or "", None)
                self._stack.append(_Open(mark, event.anchor, isinstance(event, ev.MappingStartEvent)))
            case ev.SequenceEndEvent() | ev.MappingEndEvent():
                done = self._stack.pop()
                node: Node = (
                    Mapping(done.entries, done.mark, done.key_marks)
                    if done.is_mapping
                    else Sequence(tuple(done.items), done.mark)
                )
                self._finish(_Weighed(node, done.nodes, done.height + 1), done.anchor)
            case _:
                pass

    def _finish(self, weighed: _Weighed, anchor: str | None) -> None:
        """Hand a finished node to what it stands in."""
        if anchor is not None:
            self._anchors[anchor] = weighed
        if not self._stack:
            self._root = weighed.node
            return
        parent = self._stack[-1]
        parent.nodes += weighed.nodes
        parent.height = max(parent.height, weighed.height)
        if not parent.is_mapping:
            parent.items.append(weighed.node)
        elif not parent.awaits_value:
            parent.key = self._key(weighed.node, parent)
            parent.awaits_value = True
        else:
            if parent.key is not None:
                parent.entries[parent.key] = weighed.node
            parent.key, parent.awaits_value = None, False

    def _key(self, node: Node, parent: _Open) -> str | None:
        """Read a key; None for one that was complained about, whose value is then dropped."""
        if not isinstance(node, Scalar):
            what = found(node.entries if isinstance(node, Mapping) else node.items)
            self._say(node.mark, f"a key must be text, found {what}; {QUOTE_IT}")
            return None
        if node.is_null:
            self._say(node.mark, f"a key must be text, found {found(node)}; quote it if you mean the word")
            return None
        if node.plain and node.text == "<<":
            self._say(
                node.mark,
                "<< is the merge key of YAML 1.1, which YAML 1.2 does not have; write the keys out, or give a whole "
                f"section by its *alias; if it belongs to a template, {QUOTE_IT}",
            )
            return None
        if node.text in parent.key_marks:
            first = parent.key_marks[node.text]
            self._complain(
                node.mark,
                (*self._path(), node.text),
                f"the key stands here twice, first in line {first.line}; keep one of them",
            )
            return None
        parent.key_marks[node.text] = node.mark
        return node.text

    def _aliased(self, event: ev.AliasEvent, mark: Mark) -> _Weighed:
        name = event.anchor
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            raise UnreadableError(
                mark, f"this is alias number {self._aliases:,}; a job file has at most {MAX_ALIASES:,}"
            )
        if any(open_.anchor == name for open_ in self._stack) and name not in self._anchors:
            self._say(mark, f"*{name} stands inside of &{name}, so it would never end")
            return _Weighed(Scalar("", mark, broken=True))
        if name not in self._anchors:
            self._say(mark, f"*{name} names no anchor, there is no &{name} above; if it is text, {QUOTE_IT}")
            return _Weighed(Scalar("", mark, broken=True))
        target = self._anchors[name]
        self._count(target.nodes, mark)
        self._within_depth(target.height, mark)
        return replace(target, node=replace(target.node, mark=mark))

    def _count(self, more: int, mark: Mark) -> None:
        self._nodes += more
        if self._nodes > MAX_NODES:
            raise UnreadableError(
                mark, f"here the file comes to more than {MAX_NODES:,} values, aliases followed; a job holds less"
            )

    def _within_depth(self, more: int, mark: Mark) -> None:
        if len(self._stack) + more > MAX_DEPTH:
            raise UnreadableError(mark, f"lists and mappings stand in each other more than {MAX_DEPTH} deep")

    def _refuse_tag(self, event: ev.NodeEvent, mark: Mark) -> None:
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = str(tag).replace("tag:yaml.org,2002:", "!!")
            self._say(mark, f"the tag {quoted(shown)} was found; tags are not read: quote a text that starts with !")

    def _whole(self, text: str, mark: Mark) -> str:
        """Join the pairs of surrogates that JSON writes for characters beyond U+FFFF."""
        if not _LONE_SURROGATE.search(text):
            return text
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if _LONE_SURROGATE.sub("", text).count("\ufffd") != joined.count("\ufffd"):
            self._say(
                mark, 'half of a surrogate pair was found, which UTF-8 cannot carry; write both, as in "\\ud83d\\ude00"'
            )
        return joined

    def _path(self) -> tuple[str, ...]:
        return tuple(place for open_ in self._stack[:-1] if (place := open_.place) is not None)

    def _say(self, mark: Mark, message: str) -> None:
        path = tuple(place for open_ in self._stack if (place := open_.place) is not None)
        self._complain(mark, path, message)

"""The job file as a tree of nodes that know where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.job.core import NULLS


class Mark(NamedTuple):
    """A place in the file: line and column, both from 1."""

    line: int
    column: int


START = Mark(1, 1)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text with its place; what it means is decided by the field that reads it.

    Attributes:
        text: its characters, names filled in.
        mark: where it starts.
        plain: it was written without quotes and not as a block, so it may be a number, true, false or null.
        written: its characters before names were filled in; None where there was nothing to fill in.
        broken: a complaint about it was made already; whoever reads it stays silent.
    """

    text: str
    mark: Mark = START
    plain: bool = True
    written: str | None = None
    broken: bool = False

    @property
    def is_null(self) -> bool:
        """Whether it is one of YAML's words for nothing, or empty."""
        return self.plain and self.written is None and self.text in NULLS

    @property
    def is_loose(self) -> bool:
        """Whether it may be read as a number: it was not quoted, or what it says was filled in."""
        return self.plain or self.written is not None


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark = START


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping; its keys are text, none of them twice."""

    entries: dict[str, Node]
    mark: Mark = START
    key_marks: dict[str, Mark] = field(default_factory=dict)


Node = Scalar | Sequence | Mapping
Path = tuple[str, ...]


def plain_data(node: Node) -> Any:
    """Give dicts and lists with the scalars as leaves, which is what the models read."""
    if isinstance(node, Mapping):
        return {key: plain_data(value) for key, value in node.entries.items()}
    if isinstance(node, Sequence):
        return [plain_data(item) for item in node.items]
    return node


def scalars(node: Node, path: Path = ()) -> Iterator[tuple[Path, Scalar]]:
    """Walk all scalars that are values, in the order of the file."""
    if isinstance(node, Scalar):
        yield path, node
    elif isinstance(node, Sequence):
        for index, item in enumerate(node.items):
            yield from scalars(item, (*path, str(index)))
    else:
        for key, value in node.entries.items():
            yield from scalars(value, (*path, key))


def dotted(path: Path) -> str:
    """Write a path as complaints show it: ``source.columns.2``."""
    return ".".join(path)


class Places:
    """Where every dotted path stands: text at its first character, a mapping or list at its key."""

    def __init__(self, root: Node | None = None) -> None:
        self._values: dict[str, Mark] = {}
        self._keys: dict[str, Mark] = {}
        if root is not None:
            self._note(root, (), root.mark)

    def _note(self, node: Node, path: Path, key_mark: Mark) -> None:
        name = dotted(path)
        self._values.setdefault(name, node.mark if isinstance(node, Scalar) else key_mark)
        self._keys.setdefault(name, key_mark)
        if isinstance(node, Mapping):
            for key, value in node.entries.items():
                self._note(value, (*path, key), node.key_marks.get(key, value.mark))
        elif isinstance(node, Sequence):
            for index, item in enumerate(node.items):
                self._note(item, (*path, str(index)), item.mark)

    def at(self, path: str, *, key: bool = False) -> Mark:
        """Give the place of a dotted path, or of its deepest known ancestor.

        Args:
            path: the dotted path; keys may hold dots themselves.
            key: the place of its key, not of its value.
        """
        places = self._keys if key else self._values
        while path not in places:
            if not path:
                return START
            path = path.rpartition(".")[0]
        return places[path]

"""Filling in ``${name}`` and ``${env:NAME}``, scalar by scalar, after parsing: a value that holds YAML is just text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

from pipeline.job.nodes import Mapping as MappingNode
from pipeline.job.nodes import Node, Path, Scalar, Sequence
from pipeline.job.sections import PLAIN_TEXT_SECTIONS, looks_like_a_key
from pipeline.job.words import SHORTEST_SECRET, did_you_mean, listed, quoted

MAX_FILLED_CHARS = 1024 * 1024
"""All names of a file together may stand for this much text."""

_PART = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_ENV_NAME = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
_DATE = "date"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a text that holds names.

    Attributes:
        words: what is wrong.
        missing_variable: the environment lacks what the text names.
    """

    words: str
    missing_variable: bool = False


@dataclass(slots=True)
class Names:
    """What can be filled in.

    Attributes:
        params: the text of each param; None for one without a value.
        run_date: what ``${date}`` stands for; None where it cannot be named.
        environ: the environment.
        secrets: collects the values that were taken from the environment, each with its variable's name.
        undated: why the date cannot be named, in words.
        filled_chars: how much was filled in so far, which is bounded.
    """

    params: dict[str, str | None]
    run_date: date | None
    environ: Mapping[str, str]
    secrets: dict[str, str] = field(default_factory=dict)
    undated: str = "the date is not known here"
    filled_chars: int = 0

    def fill(self, text: str, *, env: bool) -> tuple[str, list[Problem]]:
        """Fill in every name once; what was filled in is not looked at again.

        Args:
            text: as written.
            env: whether the environment may be named here.
        """
        problems: list[Problem] = []

        def part(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            try:
                return self._within_bounds(self._value(match[1], env=env))
            except _FillError as error:
                problems.append(error.problem)
                return match[0]

        return _PART.sub(part, text), problems

    def _within_bounds(self, value: str) -> str:
        """Stop params that double each other, line by line."""
        self.filled_chars += len(value)
        if self.filled_chars > MAX_FILLED_CHARS:
            raise _FillError(f"the names up to here stand for more than {MAX_FILLED_CHARS:,} characters")
        return value

    def _value(self, name: str | None, *, env: bool) -> str:
        if name is None:
            raise _FillError("${ is not closed by }; write ${name}, or $${ for the characters themselves")
        if name.startswith("env:"):
            return self._variable(name, env=env)
        if name == _DATE:
            if self.run_date is None:
                raise _FillError(f"${{date}} cannot be named here: {self.undated}")
            return self.run_date.isoformat()
        if name in self.params:
            value = self.params[name]
            if value is None:
                raise _FillError(f"the param {name} has no value; give one with --param {name}=…")
            return value
        known = [_DATE, *self.params]
        hint = did_you_mean(name, known)
        way_out = f"; for an environment variable write ${{env:{name}}}" if name in self.environ and not hint else ""
        raise _FillError(
            f"${{{name}}} is no param; there is {listed(known)}{hint}{way_out}; $${{ writes the characters themselves"
        )

    def _variable(self, name: str, *, env: bool) -> str:
        match = _ENV_NAME.fullmatch(name)
        if match is None or looks_like_a_key(match[1]):
            raise _FillError("${env:…} wants the name of an environment variable, such as ${env:HOME}")
        if not env:
            raise _FillError(
                f"${{env:{match[1]}}} works only in endpoint, source.path, output.path and state; here use a "
                f'param, and start with --param name="${match[1]}"'
            )
        value = self.environ.get(match[1])
        if not value:
            state = "is not set" if value is None else "is empty"
            raise _FillError(f"the environment variable {match[1]} {state}; export {match[1]}=…", missing_variable=True)
        if len(value) >= SHORTEST_SECRET:
            self.secrets.setdefault(value, match[1])
        return value


class _FillError(Exception):
    def __init__(self, words: str, *, missing_variable: bool = False) -> None:
        self.problem = Problem(words, missing_variable)
        super().__init__(words)


def may_name_env(path: Path) -> bool:
    """Whether ``${env:NAME}`` works at a place."""
    return path[:1] in {("endpoint",), ("state",)} or path[:2] in {("source", "path"), ("output", "path")}


def names_in(text: str) -> Iterator[str]:
    """Give the names that a text fills in."""
    for match in _PART.finditer(text):
        if match[1] is not None:
            yield match[1]


def names_date(text: str) -> bool:
    """Whether a text fills in the date."""
    return _DATE in names_in(text)


def fill_tree(node: Node, names: Names, complain: Callable[[Path, Problem], None], path: Path = ()) -> Node:
    """Fill in all texts of the file but those of `params`, which are read first, and of the plain-text sections.

    A text that could not be filled in comes back marked as broken, so that nobody complains about it again.
    """
    if path and path[0] in PLAIN_TEXT_SECTIONS | {"params"}:
        return node
    if isinstance(node, Scalar):
        return _fill_scalar(node, names, complain, path)
    if isinstance(node, Sequence):
        return replace(
            node,
            items=tuple(fill_tree(item, names, complain, (*path, str(index))) for index, item in enumerate(node.items)),
        )
    for key in node.entries:
        if any(True for _ in names_in(key)):
            complain(
                (*path, key), Problem(f"names are not filled in in keys, found {quoted(key)}; write the name itself")
            )
    entries = {key: fill_tree(value, names, complain, (*path, key)) for key, value in node.entries.items()}
    return MappingNode(entries, node.mark, node.key_marks)


def _fill_scalar(node: Scalar, names: Names, complain: Callable[[Path, Problem], None], path: Path) -> Scalar:
    if "${" not in node.text or node.broken:
        return node
    text, problems = names.fill(node.text, env=may_name_env(path))
    for problem in problems:
        complain(path, problem)
    return replace(node, text=text, written=node.text, broken=bool(problems))

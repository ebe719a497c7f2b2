"""The job's params: the file's values, what ``--param`` makes of them, and how each is read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

from pipeline.job.core import BOOLEANS, core, number
from pipeline.job.interpolate import Names, names_in
from pipeline.job.nodes import Mapping as MappingNode
from pipeline.job.nodes import Node, Path, Scalar, Sequence, plain_data
from pipeline.job.sections import PARAM_NAME, ParamValue
from pipeline.job.words import did_you_mean, found, listed, quoted

_RESERVED = {"date": "${date} is the run's date", "env": "${env:NAME} reads the environment"}
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Param:
    """A param's value, and the text that ``${name}`` puts in its place: as it was written."""

    value: ParamValue
    text: str | None


@dataclass(slots=True)
class Resolved:
    """Params after reading.

    Attributes:
        params: those that could be read.
        in_file: complaints about the file, by place.
        on_command_line: complaints about ``--param``, by its text.
        dated: params that could not be read because they name the date, which is not known yet.
    """

    params: dict[str, Param] = field(default_factory=dict)
    in_file: list[tuple[Path, str]] = field(default_factory=list)
    on_command_line: list[tuple[str, str]] = field(default_factory=list)
    dated: set[str] = field(default_factory=set)

    def values(self) -> dict[str, ParamValue]:
        """Give the values by name."""
        return {name: param.value for name, param in self.params.items()}

    def texts(self) -> dict[str, str | None]:
        """Give the texts by name."""
        return {name: param.text for name, param in self.params.items()}


def resolve(
    section: Node | None, overrides: Mapping[str, str], run_date: date | None, environ: Mapping[str, str]
) -> Resolved:
    """Read the params in the order of the file; each may name ``${date}`` and those above it.

    An override replaces a value and is read by the type of the file's value: text, whole number, number, true or false.
    It is taken as it is: names in it are not filled in.
    """
    resolved = Resolved()
    entries = _entries(section, resolved)
    names = Names({}, run_date, environ)
    for name, node in entries.items():
        path = ("params", name)
        if (reason := _RESERVED.get(name)) is not None:
            resolved.in_file.append((path, f"the name {name} is taken: {reason}; choose another"))
        elif not re.fullmatch(PARAM_NAME, name):
            resolved.in_file.append((path, f"must be named with letters, digits and _, found {quoted(name)}"))
        elif not isinstance(node, Scalar):
            what = found(plain_data(node))
            resolved.in_file.append((path, f"must be text, a number, true, false or null; found {what}"))
        elif not node.broken:
            _one(resolved, name, node, overrides.get(name), names)
    for name in overrides:
        if name not in entries:
            known = f"it has {listed(entries)}" if entries else "it has no params at all"
            resolved.on_command_line.append(
                (name, f"the job has no param of this name; {known}{did_you_mean(name, entries)}")
            )
    return resolved


def _entries(section: Node | None, resolved: Resolved) -> dict[str, Node]:
    if section is None or (isinstance(section, Scalar) and (section.is_null or section.broken)):
        return {}
    if isinstance(section, MappingNode):
        return section.entries
    what = found(plain_data(section) if isinstance(section, Sequence) else section)
    resolved.in_file.append((("params",), f"must be a mapping, such as {{region: eu}}; found {what}"))
    return {}


def _one(resolved: Resolved, name: str, node: Scalar, given: str | None, names: Names) -> None:
    default: ParamValue
    text: str | None = node.text
    used = set(names_in(node.text))
    if given is None and names.run_date is None and ("date" in used or used & resolved.dated):
        resolved.dated.add(name)
        return
    if used or "${" in node.text:
        default, problems = names.fill(node.text, env=False)
        text = default
        if given is None:
            resolved.in_file += [(("params", name), problem.words) for problem in problems]
    else:
        default = core(node.text) if node.plain else node.text
        text = None if default is None else node.text
    value = default
    if given is not None:
        text = given
        try:
            value = read_as(default, given)
        except ValueError as error:
            resolved.on_command_line.append((name, str(error)))
    resolved.params[name] = Param(value, text)
    names.params[name] = text


def read_as(default: ParamValue, given: str) -> ParamValue:
    """Read an override by the type of the file's value.

    Raises:
        ValueError: in words.
    """
    if _LONE_SURROGATE.search(given):
        raise ValueError("must be UTF-8 text")
    if isinstance(default, bool):
        if given not in BOOLEANS:
            raise ValueError(f"must be true or false, as the job's {str(default).lower()} is; found {quoted(given)}")
        return BOOLEANS[given]
    if isinstance(default, int):
        whole = number(given)
        if whole is None or not math.isfinite(whole) or whole != int(whole):
            raise ValueError(f"must be a whole number, as the job's {default} is; found {quoted(given)}")
        return int(whole)
    if isinstance(default, float):
        decimal = number(given)
        if decimal is None or not math.isfinite(decimal):
            raise ValueError(f"must be a number, as the job's {default} is; found {quoted(given)}")
        return float(decimal)
    return given

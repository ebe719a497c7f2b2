"""From the filled-in tree to models, section by section, and pydantic's errors to complaints in our words."""

from __future__ import annotations

from functools import cache
from itertools import takewhile
from typing import Any, Protocol, get_args

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from pipeline.job.fields import PROBLEM
from pipeline.job.nodes import Path, Scalar
from pipeline.job.section import Section
from pipeline.job.sections import JobFile
from pipeline.job.words import found, listed, nearest

NOT_YET = "is not supported in this version"


class Say(Protocol):
    """Takes complaints."""

    def __call__(self, path: Path, words: str, *, of_key: bool = False) -> None:
        """Complain about a path; `of_key` where its key is meant rather than its value."""


_REASONS = {
    "dict_type": "must be a mapping, such as {{name: value}}; found {found}",
    "model_type": "must be a mapping, such as {{name: value}}; found {found}",
    "tuple_type": "must be a list, such as [a, b]; found {found}",
}


def read_sections(data: dict[str, Any], say: Say) -> dict[str, Any]:
    """Read each top-level key on its own, so that one broken section hides no complaint about another.

    Args:
        data: the file as dicts and lists, with `Scalar` leaves.
        say: takes complaints.

    Returns:
        The sections that could be read, defaults where the file is silent.
    """
    for key in data:
        if key not in JobFile.model_fields:
            say((key,), _unknown(JobFile, key), of_key=True)
    read = {}
    for name, field in JobFile.model_fields.items():
        if name not in data:
            if field.is_required():
                say((name,), f"is missing; {_wanted(name, field.description)}")
            else:
                read[name] = field.get_default()
            continue
        try:
            read[name] = _adapter(name).validate_python(data[name])
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                _translate(name, detail, data, say)
    return read


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(JobFile.model_fields[name].rebuild_annotation())


def _translate(name: str, detail: ErrorDetails, data: dict[str, Any], say: Say) -> None:
    loc = tuple(str(part) for part in detail["loc"] if not str(part).startswith("<") or _stands(data, name, part))
    path = (name, *loc)
    value = detail["input"]
    if isinstance(value, Scalar) and value.broken:
        return
    match detail["type"]:
        case kind if kind == PROBLEM:
            for at, words in detail["ctx"]["problems"]:
                if words is not None:
                    say((*path, *map(str, at)), words)
        case "extra_forbidden":
            words = _cut_number(data, path) or _unknown(_model_at(path[:-1]), path[-1])
            say(path, words, of_key=True)
        case "missing":
            model = _model_at(path[:-1])
            field = model.model_fields[model.file_keys()[path[-1]]]
            say(path, f"is missing; {_wanted(path[-1], field.description)}")
        case kind if kind in _REASONS:
            say(path, _REASONS[kind].format(found=found(value)))
        case _:
            say(path, f"{detail['msg'].lower()}; found {found(value)}")


def _cut_number(data: dict[str, Any], path: Path) -> str:
    """Say so of the end of ``{run_usd: 0,50}``, which YAML takes for another key; nothing of other keys."""
    section: Any = data
    for part in path[:-1]:
        section = section.get(part) if isinstance(section, dict) else None
    if not isinstance(section, dict):
        return ""
    *_, before = (None, *takewhile(lambda key: key != path[-1], section))
    number, end = section.get(before), section.get(path[-1])
    cut = isinstance(end, Scalar) and not end.text and path[-1].isdecimal()
    if not (cut and isinstance(number, Scalar) and number.plain and number.text.isdecimal()):
        return ""
    return f"the comma begins another key here; write {before}: {number.text}.{path[-1]}, with a point"


def _stands(data: dict[str, Any], name: str, part: str | int) -> bool:
    """Whether a part of a location that looks like our own mark is a key of the file."""
    section = data.get(name)
    return isinstance(section, dict) and part in section


def _wanted(name: str, description: str | None) -> str:
    """Take the example out of a description."""
    example = (description or "").rpartition("Example: ")[2].removesuffix(".")
    return f"write {name}: {example}" if example else f"write {name}:"


def _unknown(model: type[Section], key: str) -> str:
    keys = list(model.file_keys())
    if key in model.LATER:
        return NOT_YET
    if way_out := model.WAYS_OUT.get(key):
        return f"unknown key; {way_out}"
    near = nearest(key, keys)
    elsewhere = _homes().get(key)
    if near is None and elsewhere is not None and not elsewhere.startswith(f"{key}."):
        return f"unknown key here; it belongs to {elsewhere.rpartition('.')[0]}, as {elsewhere}"
    all_keys = listed(keys) if len(keys) <= 8 else ", ".join(keys)
    hint = f"; did you mean {near}?" if near else f"; there is {all_keys}"
    newer = f"; {model.NEWER}" if model.NEWER and not near else ""
    return f"unknown key{hint}{newer}"


@cache
def _homes() -> dict[str, str]:
    """Where each key of the sections belongs, if it is the only place."""
    homes: dict[str, list[str]] = {}
    for section in JobFile.model_fields:
        model = _first_model(JobFile.model_fields[section].annotation)
        for key in model.file_keys() if model is not None and section not in {"prices", "tests"} else ():
            homes.setdefault(key, []).append(f"{section}.{key}")
    return {key: places[0] for key, places in homes.items() if len(places) == 1}


def _model_at(path: Path) -> type[Section]:
    """Find the model that reads a path; keys of free names and list positions lead into their items."""
    model: type[Section] = JobFile
    for part in path:
        field = model.model_fields.get(part)
        inner = _first_model(field.annotation) if field is not None else None
        if inner is not None:
            model = inner
    return model


def _first_model(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in get_args(annotation):
        if (model := _first_model(argument)) is not None:
            return model
    return None

"""Whether an answer satisfies its schema, and in one line why not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import jsonschema_rs

from pipeline.answer.contradictions import contradictions
from pipeline.answer.schema import PATH, Complain, Schema, nowhere, one_line, place, plain
from pipeline.errors import JobError

MAX_ERRORS = 3
MAX_ERROR_CHARS = 200
"""Of one error; all together stay below 700."""


class Validator:
    """A schema, draft 2020-12, compiled once. Formats are held; nothing is ever fetched.

    Raises:
        JobError: it is no schema, refers to what is not in it, or is one that no answer can meet.
    """

    def __init__(self, schema: Schema, complain: Complain = nowhere) -> None:
        whole = plain(schema, complain)
        try:
            self._compiled = jsonschema_rs.Draft202012Validator(whole, validate_formats=True, offline=True)
        except jsonschema_rs.ValidationError as error:
            path = ".".join([PATH, *map(str, error.instance_path)])
            raise JobError(complain(path, f"is no JSON Schema: {one_line(error.message, MAX_ERROR_CHARS)}")) from error
        except ValueError as error:
            raise JobError(complain(PATH, f"is no JSON Schema: {one_line(str(error), MAX_ERROR_CHARS)}")) from error
        if wrong := list(contradictions(whole)):
            raise JobError(*(complain(path, one_line(words, MAX_ERROR_CHARS)) for path, words in wrong))

    def is_valid(self, value: Any) -> bool:
        """Whether a value, as JSON has it, satisfies the schema."""
        return self._compiled.is_valid(value)

    def error(self, value: Any) -> str | None:
        """Say in one line what is wrong, such as ``$.price: "12 EUR" is not of type "number"``; None if valid.

        The first three errors are told.
        """
        if self.is_valid(value):
            return None
        found = list(islice(self._errors(value), MAX_ERRORS + 1))
        return "; ".join(found[:MAX_ERRORS]) + ("; and more" if len(found) > MAX_ERRORS else "")

    def _errors(self, value: Any) -> Iterator[str]:
        for error in self._compiled.iter_errors(value):
            yield one_line(_told(error), MAX_ERROR_CHARS)


def _told(error: jsonschema_rs.ValidationError) -> str:
    """One error with its place; of alternatives, why each does not fit."""
    branches = getattr(error.kind, "context", None)
    reasons = dict.fromkeys(_inside(branch[0], error) for branch in branches or () if branch)
    return f"{place(error.instance_path)}: {' and '.join(reasons) or one_line(error.message, 160)}"


def _inside(error: jsonschema_rs.ValidationError, outer: jsonschema_rs.ValidationError) -> str:
    deeper = error.instance_path[len(outer.instance_path) :]
    message = one_line(error.message, 80)
    return f"{place(deeper)[1:]}: {message}" if deeper else message

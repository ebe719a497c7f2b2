"""The section `answer`: what an answer must look like, and what of it becomes columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from pipeline.job.fields import Choice, Free, ProblemError, Schema, Text, Whole
from pipeline.job.nodes import Scalar
from pipeline.job.section import Section, unless_nothing
from pipeline.job.words import found, quoted

ColumnType = Literal["string", "integer", "number", "boolean", "json"]


class JsonSchema(Free):
    """A JSON Schema, or the file that holds it, which the loader has put the file's content in place of."""

    def read(self, value: Any) -> dict[str, Any]:
        """Give the schema as a dict of plain Python values, nothing filled in."""
        if not isinstance(value, dict):
            raise ProblemError(
                "must be a JSON Schema, such as {type: object, properties: {…}}, or the path of a JSON or YAML file "
                f"that holds one; found {found(value)}"
            )
        return super().read(value)

    def shape(self) -> Schema:
        """An object, or a path."""
        return {"anyOf": [{"type": "string", "minLength": 1}, {"type": "object"}]}


class Column(Section):
    """A column of the output that is taken out of the response."""

    WAYS_OUT: ClassVar[Mapping[str, str]] = {"jmespath": "write path"}

    path: Annotated[str, Text(literal=True, wanted="a JMESPath, such as usage.output_tokens")] = Field(
        description="Where in the response it stands: a JMESPath. Required; no default. Example: "
        "content[?type=='thinking'].thinking | [0]."
    )
    type: Annotated[ColumnType, Choice(words=get_args(ColumnType), literal=True)] = Field(
        "string",
        description="The column's type: string, integer, number, boolean, or json (whatever stands there, as JSON "
        "text). Default: string. Example: integer.",
    )


def _path_alone(value: Any) -> Any:
    """Take a bare text for the path of a column."""
    bare = isinstance(value, str) or (isinstance(value, Scalar) and not value.broken)
    return {"path": value} if bare else value


class _OrText:
    """Metadata that adds a bare text to the JSON Schema."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        return {"anyOf": [{"type": "string", "minLength": 1}, handler(schema)]}


class Answer(Section):
    """What an answer must look like, and what of it becomes columns."""

    WAYS_OUT: ClassVar[Mapping[str, str]] = {
        "repairs": "write repair",
        "format": "write schema",
        "fields": "write columns",
    }

    json_schema: Annotated[dict[str, Any] | None, JsonSchema(optional=True, json=True, literal=True)] = Field(
        None,
        alias="schema",
        description="JSON Schema that every answer must fit, written here, or in a JSON or YAML file: its path, or "
        "{file: path}. Relative paths start at the job file's directory. Each property becomes a column. Default: "
        "answers are text. Example: {type: object, properties: {label: {type: string}}, required: [label]}.",
    )
    repair: Annotated[int, Whole(at_least=0, literal=True)] = Field(
        1,
        description="How often an answer that does not fit is sent back with what is wrong with it; each time is paid. "
        "Default: 1. Example: 0.",
    )
    columns: Annotated[
        Mapping[str, Annotated[Column, BeforeValidator(_path_alone), _OrText()]], BeforeValidator(unless_nothing)
    ] = Field(
        {},
        description="Further columns out of the response, by name: a JMESPath, or {path: …, type: …}. Default: {}. "
        "Example: {used: {path: usage.output_tokens, type: integer}}.",
    )


def check_answer(answer: Answer) -> list[tuple[str, str]]:
    """Find columns that no table can have: places with words."""
    wrong = []
    properties = (answer.json_schema or {}).get("properties")
    taken = properties if isinstance(properties, dict) else {}
    for name in answer.columns:
        if not name.strip() or not name.isprintable():
            wrong.append((f"answer.columns.{name}", f"must have a name that can be printed, found {quoted(name)}"))
        elif name in taken:
            words = f"the schema's property {quoted(name)} has a column of this name already; choose another"
            wrong.append((f"answer.columns.{name}", words))
    return wrong

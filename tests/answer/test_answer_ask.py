"""What is sent for a schema: which way, what is taken out, and what the request gets."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import orjson
import pytest
from answer_schemas import objects
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answer import Additions, additions, dialect_of, how, merged, sendable
from pipeline.errors import JobError

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FREE: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "object"}}}
THINKING = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
ANTHROPIC = "api.anthropic.com"
AIMLAPI = "api.aimlapi.com"


@pytest.mark.parametrize(
    ("host", "dialect"),
    [
        ("api.anthropic.com", "anthropic"),
        ("api.anthropic.com:443", "anthropic"),
        ("anthropic.com.evil.org", "unknown"),
        ("notanthropic.com", "unknown"),
        ("API.aimlapi.com", "aimlapi"),
        ("simulator", "simulator"),
        ("embedded", "embedded"),
        ("localhost:8080", "unknown"),
    ],
)
def test_the_host_tells_the_dialect(host: str, dialect: str) -> None:
    assert dialect_of(host) == dialect


@pytest.mark.parametrize(
    ("model", "host", "schema", "request_", "way"),
    [
        ("claude-sonnet-4-5", ANTHROPIC, SCHEMA, {}, "format"),
        ("claude-sonnet-4-5-20250929", ANTHROPIC, SCHEMA, THINKING, "format"),
        ("claude-haiku-4-5", "simulator", SCHEMA, {}, "format"),
        ("claude-opus-5-5", ANTHROPIC, SCHEMA, {}, "format"),
        ("claude-opus-4-1", ANTHROPIC, SCHEMA, {}, "tool"),
        ("claude-sonnet-4-20250514", ANTHROPIC, SCHEMA, {}, "tool"),
        ("claude-3-5-sonnet-20240620", ANTHROPIC, SCHEMA, {}, "tool"),
        ("claude-3-haiku-20240307", ANTHROPIC, SCHEMA, THINKING, "prompt"),
        ("claude-haiku-5-5", ANTHROPIC, FREE, {}, "tool"),
        ("claude-sonnet-5", ANTHROPIC, FREE, {"thinking": {"type": "adaptive"}}, "tool"),
        ("claude-sonnet-5-5", ANTHROPIC, FREE, {}, "prompt"),
        ("claude-opus-5-5", ANTHROPIC, FREE, {}, "prompt"),
        ("claude-fable-5", ANTHROPIC, FREE, {}, "tool"),
        ("claude-fable-5-1", ANTHROPIC, FREE, {}, "prompt"),
        ("claude-newest-9", ANTHROPIC, FREE, {}, "prompt"),
        ("claude-haiku-4-5", ANTHROPIC, FREE, THINKING, "prompt"),
        ("claude-haiku-4-5", ANTHROPIC, FREE, {"tools": [{"name": "x"}]}, "prompt"),
        ("claude-haiku-4-5", ANTHROPIC, FREE, {"tool_choice": {"type": "auto"}}, "prompt"),
        ("anthropic/claude-sonnet-4.5", AIMLAPI, SCHEMA, {}, "tool"),
        ("claude-sonnet-5-5", AIMLAPI, SCHEMA, {}, "prompt"),
        ("gpt-4o", AIMLAPI, SCHEMA, {}, "prompt"),
        ("claude-sonnet-4-5", "localhost:4000", SCHEMA, {}, "prompt"),
        ("smollm2", "embedded", SCHEMA, {}, "prompt"),
    ],
)
def test_the_best_way_that_is_open_is_taken(
    model: str, host: str, schema: dict[str, Any], request_: dict[str, Any], way: str
) -> None:
    assert how(model, host, schema, request_) == way


def test_a_prefilled_answer_is_asked_for_in_words() -> None:
    assert how("claude-sonnet-4-5", ANTHROPIC, SCHEMA, {}, prefilled=True) == "prompt"


def test_each_way_adds_what_it_needs() -> None:
    schema = {**SCHEMA, "$schema": "https://json-schema.org/draft/2020-12/schema"}
    sent = {**SCHEMA, "additionalProperties": False}
    form = additions(schema, "format")
    assert form == Additions({"output_config": {"format": {"type": "json_schema", "schema": sent}}})
    tool = additions(schema, "tool")
    assert tool.fields["tools"][0]["input_schema"] == SCHEMA
    assert tool.fields["tool_choice"]["name"] == tool.fields["tools"][0]["name"]
    words = additions(schema, "prompt")
    assert not words.fields
    assert words.instructions is not None
    assert words.instructions.endswith(orjson.dumps(SCHEMA).decode())


def test_additions_join_the_requests_own_fields() -> None:
    added = additions(SCHEMA, "format")
    fields = merged({"model": "m", "output_config": {"effort": "low"}}, added)
    assert fields == {"model": "m", "output_config": {"effort": "low", **added.fields["output_config"]}}
    assert merged({"model": "m"}, additions(SCHEMA, "prompt")) == {"model": "m"}


@pytest.mark.parametrize(
    ("own", "way", "path"),
    [
        ({"output_config": {"format": {}}}, "format", "request.output_config.format"),
        ({"tools": [1]}, "tool", "request.tools"),
    ],
)
def test_a_request_that_sets_them_itself_is_a_broken_job(own: dict[str, Any], way: Any, path: str) -> None:
    with pytest.raises(JobError) as caught:
        merged(own, additions(SCHEMA, way))
    assert caught.value.complaints[0].path == path


@pytest.mark.parametrize(
    ("part", "sent"),
    [
        ({"type": "integer", "minimum": 0}, {"type": "integer", "description": "minimum: 0"}),
        (
            {"type": "string", "description": "A name", "minLength": 1, "maxLength": 9},
            {"type": "string", "description": "A name (minLength: 1; maxLength: 9)"},
        ),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"type": "string", "format": "regex"}, {"type": "string", "description": 'format: "regex"'}),
        ({"type": "string", "pattern": "^a{2,3}$"}, {"type": "string", "pattern": "^a{2,3}$"}),
        ({"type": "string", "pattern": "a(?=b)"}, {"type": "string", "description": 'pattern: "a(?=b)"'}),
        ({"type": "string", "pattern": r"(a)\1"}, {"type": "string", "description": r'pattern: "(a)\\1"'}),
        ({"type": "string", "pattern": "a{5000}"}, {"type": "string", "description": 'pattern: "a{5000}"'}),
        (
            {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
            {"type": "array", "minItems": 1, "description": "maxItems: 3", "items": {"type": "string"}},
        ),
        (
            {"type": "array", "items": {"type": "string"}, "minItems": 2},
            {"type": "array", "description": "minItems: 2", "items": {"type": "string"}},
        ),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"allOf": [{"$ref": "#/$defs/d"}], "description": "x"}, {"$ref": "#/$defs/d"}),
        ({"enum": ["a", None], "examples": ["a"]}, {"enum": ["a", None]}),
        (
            {"type": "object", "properties": {"b": {"const": 1}}, "required": ["b"]},
            {
                "type": "object",
                "required": ["b"],
                "additionalProperties": False,
                "properties": {"b": {"const": 1}},
            },
        ),
    ],
)
def test_what_the_api_refuses_is_taken_out_and_told(part: dict[str, Any], sent: dict[str, Any]) -> None:
    whole = {"type": "object", "properties": {"a": part}, "required": ["a"], "$defs": {"d": {"type": "string"}}}
    found = sendable(whole)
    assert found.obstacles == ()
    assert found.schema["properties"]["a"] == sent
    assert found.schema["additionalProperties"] is False


OPTIONAL = {f"p{n}": {"type": "string"} for n in range(25)}
UNIONS = {f"p{n}": {"type": ["string", "null"]} for n in range(17)}
TREE = {"$ref": "#/$defs/t", "$defs": {"t": {"type": "object", "properties": {"c": {"$ref": "#/$defs/t"}}}}}


@pytest.mark.parametrize(
    ("schema", "obstacle"),
    [
        (TREE, "recursive"),
        ({"properties": {"a": {"$ref": "#"}}}, "recursive"),
        ({"properties": {"a": {"$ref": "#/properties/b"}, "b": {"type": "string"}}}, "not to its own $defs"),
        ({"properties": {"a": {"type": "object"}}}, "free keys"),
        ({"properties": {"a": {"type": "object", "additionalProperties": {"type": "string"}}}}, "free keys"),
        ({"properties": {"a": {"type": "array"}}}, "an array in it holds anything"),
        ({"properties": {"a": {}}}, "allows anything"),
        ({"properties": {"a": True}}, "allows anything"),
        ({"properties": {"a": {"enum": [[1], [2]]}}}, "allows anything"),
        ({"properties": {"a": {"const": {"b": 1}}}}, "allows anything"),
        ({"properties": {"a": {"allOf": [{"$ref": "#/$defs/d"}, {"minLength": 1}]}}}, "allOf has a $ref"),
        ({"properties": OPTIONAL}, "25 optional properties"),
        ({"properties": UNIONS, "required": list(UNIONS)}, "17 values of several types"),
    ],
)
def test_what_cannot_be_sent_at_all_is_said(schema: dict[str, Any], obstacle: str) -> None:
    assert any(obstacle in found for found in sendable({"type": "object", **schema}).obstacles)


def test_references_between_definitions_are_no_recursion() -> None:
    defs = {"a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}}, "b": {"type": "string"}}
    found = sendable({"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": defs})
    assert found.obstacles == ()
    assert found.schema["$defs"]["a"]["additionalProperties"] is False


@given(st.data())
def test_what_is_sent_allows_every_answer_that_the_schema_allows(data: st.DataObject) -> None:
    schema, values = data.draw(objects())
    sent = sendable(schema).schema
    value = orjson.loads(orjson.dumps(data.draw(values)))
    assert jsonschema_rs.Draft202012Validator(dict(sent), validate_formats=True).is_valid(value)

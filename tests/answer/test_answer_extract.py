"""Finding the object in an answer, whatever stands around it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answer.extract import from_text, from_tool


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":1}', [{"a": 1}]),
        ('\ufeff {"a":1}\n', [{"a": 1}]),
        ('```json\n{"a":1}\n```', [{"a": 1}]),
        ('```\n{"a":1}\n```\n', [{"a": 1}]),
        ('Sure! {"a":{"b":"}"}} Anything else?', [{"a": {"b": "}"}}]),
        ('{"a":"\\"{"} and more', [{"a": '"{'}]),
        ('first {"a":1}, no: {"a":2}', [{"a": 2}, {"a": 1}]),
        ('```json\n{"a":1}\n```\nThe form was {"a":0}.', [{"a": 1}, {"a": 0}]),
        ('see {"a":0}\n~ ```json\n{"a":1}\n``` then ```json\n{"a":2}\n```', [{"a": 2}, {"a": 1}, {"a": 0}]),
        ('so {"a":"```"} is not {"a":2}', [{"a": 2}, {"a": "```"}]),
        ("with {braces} and [1] and {} only", [{}]),
        ('{"a":1} {"a":', [{"a": 1}]),
        ('{broken "x"} {"a":1}', [{"a": 1}]),
    ],
)
def test_the_objects_of_a_text_are_found_best_first(text: str, expected: list[Any]) -> None:
    assert list(from_text(text).objects) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the answer has no text"),
        (" \n", "the answer has no text"),
        ("I cannot tell.", "the answer holds no JSON object"),
        ("[1, 2]", "the answer is an array of JSON, where an object is wanted"),
        ('Here: [{"a": 1}, {"a": 2}]', "the answer is an array of JSON, where an object is wanted"),
        ("null", "the answer is null of JSON, where an object is wanted"),
        ('"a"', "the answer is a string of JSON, where an object is wanted"),
        ('{"secret": 1', "the JSON of the answer breaks off: expecting ',' delimiter"),
        ('{"secret": 1,}', "the JSON of the answer is broken: "),
        ('{"secret": NaN}', "the JSON of the answer is broken: "),
        ('{"secret": "\\ud800"}', "the JSON of the answer is broken: "),
        ('{"a":' * 5000, "nested too deeply"),
        ("[[" * 5000, "nested too deeply"),
        ('{"a":' + "9" * 5000 + "} or so", "a number too long"),
    ],
)
def test_a_text_without_an_object_has_a_reason_that_quotes_nothing(text: str, reason: str) -> None:
    found = from_text(text)
    assert found.objects == ()
    assert reason in found.reason
    assert "secret" not in found.reason


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PROSE = st.text(st.characters(codec="utf-8", exclude_characters="{[`"))
AROUND = st.sampled_from(["{}", "```json\n{}\n```", "```\n{}```", "{}\n", "**{}**"])


@given(st.dictionaries(st.text(), JSON, max_size=4), PROSE, AROUND, PROSE, st.booleans())
def test_an_object_is_found_in_any_prose_and_fence(
    value: dict[str, Any], before: str, around: str, after: str, indented: bool
) -> None:
    written = orjson.dumps(value, option=orjson.OPT_INDENT_2 if indented else 0).decode()
    found = from_text(before + around.replace("{}", written) + after)
    assert found.objects == (value,)


@given(st.text() | st.text(alphabet='{}[]":,\\`0aEn -\n', max_size=60))
def test_no_text_is_an_error(text: str) -> None:
    found = from_text(text)
    assert bool(found.objects) or bool(found.reason)


def native(name: str, value: Any) -> dict[str, Any]:
    text = {"type": "text", "text": '{"a": 0}'}
    return {"content": [text, {"type": "tool_use", "id": "t", "name": name, "input": value}]}


def openai(name: str, arguments: Any) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}
    return {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}


@pytest.mark.parametrize(
    ("message", "objects", "reason"),
    [
        (native("answer", {"a": 1}), [{"a": 1}], ""),
        (native("answer", '{"a": 1}'), [{"a": 1}], ""),
        (openai("answer", '{"a":1}'), [{"a": 1}], ""),
        (openai("answer", {"a": 1}), [{"a": 1}], ""),
        (openai("answer", '{"a":'), [], "the tool's input is no JSON"),
        (openai("answer", "[]"), [], "the tool's input is an array"),
        (native("answer", None), [], "the tool's input is null"),
    ],
)
def test_the_input_of_a_called_tool_is_read(message: Any, objects: list[Any], reason: str) -> None:
    found = from_tool(message, "answer")
    assert found is not None
    assert list(found.objects) == objects
    assert found.reason.startswith(reason)


@pytest.mark.parametrize(
    "message",
    [
        None,
        [],
        {},
        {"content": "x"},
        native("other", {}),
        openai("other", "{}"),
        {"choices": [None]},
        {"choices": [{"message": {"tool_calls": [1, {"function": 2}]}}]},
    ],
)
def test_a_tool_that_was_not_called_has_no_input(message: Any) -> None:
    assert from_tool(message, "answer") is None


CALLS = st.builds(native, st.just("answer"), JSON) | st.builds(openai, st.just("answer"), JSON)


@given(JSON | CALLS)
def test_no_response_is_an_error(message: Any) -> None:
    found = from_tool(message, "answer")
    assert found is None or bool(found.objects) or bool(found.reason)


def test_a_long_text_full_of_broken_objects_is_given_up_early() -> None:
    found = from_text('{"a" ' * 100_000)
    assert found.objects == ()
    assert "expecting ':' delimiter" in found.reason

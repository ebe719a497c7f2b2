"""Answers that must fit: tools are called and JSON is written as the schema says, unless a fault breaks them."""

from __future__ import annotations

from random import Random
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_clients import Client, Got, body_of, run, serving

from pipeline.answer.sendable import sendable
from pipeline.serve import answers
from pipeline.serve.asked import Reading
from pipeline.serve.dialects import LLAMACPP, OLLAMA
from pipeline.serve.faults import INVALID, Fault, FaultWhen
from pipeline.serve.fitting import fitting, is_schema, told
from pipeline.serve.patterns import text_for
from pipeline.serve.spoiling import text as spoiled_text
from pipeline.serve.spoiling import value as spoiled_value

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["label", "seen_at", "tags"],
    "properties": {
        "label": {"type": "string", "enum": ["calm", "odd"]},
        "seen_at": {"type": "string", "format": "date-time"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "note": {"type": ["string", "null"]},
    },
}
TOOL = {"name": "report", "input_schema": SCHEMA}
OTHER = {"name": "look_up", "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}}}
FORMAT: dict[str, Any] = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}

SEEDS = st.binary(min_size=16, max_size=16)


def valid(schema: dict[str, Any], found: Any) -> bool:
    return bool(jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(found))


# --- values ----------------------------------------------------------------------------------------------------------

BOUNDS = st.tuples(st.integers(-50, 50), st.integers(0, 40)).map(lambda pair: (pair[0], pair[0] + pair[1]))
LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.sampled_from(["date", "date-time", "time", "email", "uuid", "ipv4", "ipv6", "uri", "hostname", "duration"]).map(
        lambda name: {"type": "string", "format": name}
    ),
    st.tuples(st.integers(0, 12), st.integers(0, 12)).map(
        lambda pair: {"type": "string", "minLength": pair[0], "maxLength": sum(pair)}
    ),
    BOUNDS.map(lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[1]}),
    BOUNDS.map(lambda pair: {"type": "number", "exclusiveMinimum": pair[0], "exclusiveMaximum": pair[1] + 1}),
    st.integers(1, 9).map(lambda step: {"type": "integer", "multipleOf": step, "minimum": 0}),
    st.lists(st.integers(-(2**63), 2**63) | st.text(max_size=4), min_size=1, max_size=4).map(
        lambda words: {"enum": words}
    ),
    st.sampled_from(["string", "integer", "number"]).map(lambda name: {"type": [name, "null"]}),
)


def objects(parts: dict[str, Any]) -> Any:
    return st.lists(st.sampled_from(sorted(parts)), unique=True).map(
        lambda names: {"type": "object", "properties": parts, "required": names, "additionalProperties": False}
    )


SCHEMAS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abcde"), inner, min_size=1, max_size=4).flatmap(objects),
        st.tuples(inner, st.integers(0, 3), st.integers(0, 3)).map(
            lambda three: {"type": "array", "items": three[0], "minItems": three[1], "maxItems": three[1] + three[2]}
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda branches: {"anyOf": branches}),
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(schema=SCHEMAS, seed=SEEDS)
def test_a_value_fits_its_schema_and_is_decided_by_the_seed(schema: dict[str, Any], seed: bytes) -> None:
    found = fitting(schema, seed)
    assert valid(schema, found)
    assert found == fitting(schema, seed)


TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "required": ["name", "children"],
            "properties": {
                "name": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
        }
    },
}


KINDS = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}
INTEGERS = {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 3}}
COMBINED: list[dict[str, Any]] = [
    TREE,
    {"allOf": [{"type": "object", "required": ["a"]}, {"properties": {"a": {"const": 3}}}]},
    {"oneOf": [{"type": "string", "format": "date"}, {"type": "integer", "minimum": 5}]},
    {**INTEGERS, "uniqueItems": True, "minItems": 3},
    {"type": "array", "prefixItems": [{"const": "x"}, {"type": "boolean"}], "items": False, "minItems": 2},
    {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 3},
    {"type": "object", "required": ["free"]},
    {"type": "number", "minimum": 0.001, "maximum": 0.002},
    {"properties": {"a": {"type": "integer"}}},
    {**KINDS, "not": {"properties": {"kind": {"const": "b"}}}},
    {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}], "$defs": {"x": {"type": ["array", "integer"]}}},
    {"type": "integer", "minimum": 0, "maximum": 3, "allOf": [{"minimum": -9, "maximum": 10**9}]},
    {},
]


@pytest.mark.parametrize("schema", COMBINED, ids=range(len(COMBINED)))
def test_what_refers_combines_or_says_little_is_fitted_too(schema: dict[str, Any]) -> None:
    for seed in range(20):
        assert valid(schema, fitting(schema, bytes([seed])))


@pytest.mark.parametrize("schema", [{"type": "colour"}, {"properties": 5}, {"$ref": "#/$defs/none"}, [], None])
def test_what_is_no_schema_is_known(schema: Any) -> None:
    assert not is_schema(schema)


@settings(max_examples=300, deadline=None)
@given(schema=SCHEMAS, description=st.none() | st.text(max_size=20), seed=SEEDS)
def test_bounds_that_a_client_moved_into_the_description_hold(
    schema: dict[str, Any], description: str | None, seed: bytes
) -> None:
    part = schema if description is None else {**schema, "description": description}
    whole = {"type": "object", "properties": {"x": part}, "required": ["x"], "additionalProperties": False}
    assert valid(whole, fitting(sendable(whole).schema, seed))


@pytest.mark.parametrize(
    ("description", "bounds"),
    [
        ("People needed (minimum: 0; maximum: 6)", {"minimum": 0, "maximum": 6}),
        ("exclusiveMinimum: 0; maximum: 1", {"exclusiveMinimum": 0, "maximum": 1}),
        ("Of all (that is, without guests) (maxLength: 5)", {"maxLength": 5}),
        ('A code (pattern: "^a; (b)$"; x: {"y": [")"]})', {"pattern": "^a; (b)$", "x": {"y": [")"]}}),
        ("People needed (minimum: 0; maximum: 6).", {}),
        ("People needed (at least 0)", {}),
        ("minimum: 0, maximum: 6", {}),
        ("minimum: 0; ", {}),
        ("minimum: none", {}),
        ('minimum: "two"', {}),
        ("", {}),
    ],
)
def test_only_keywords_with_values_are_bounds_told_in_words(description: str, bounds: dict[str, Any]) -> None:
    assert told(description) == bounds


def test_a_schema_that_only_refers_to_itself_ends() -> None:
    fitting({"$ref": "#"}, b"seed")
    both = {"$ref": "#"}
    fitting({"type": "object", "required": ["a", "b"], "properties": {"a": both, "b": both}}, b"seed")
    fitting({"type": "array", "minItems": 10**9}, b"seed")


def test_a_body_or_a_schema_in_words_that_is_nested_too_deeply_is_no_crash() -> None:
    async def journey() -> None:
        deep = b'{"a":' * 400 + b"1" + b"}" * 400
        told = body_of("JSON Schema: " + deep.decode().replace('"a"', '"properties":{"a"').replace("}", "}}"))
        async with serving() as client:
            for path in ("/v1/messages", "/v1/messages/count_tokens"):
                got = await client.post(None, path=path, raw=b'{"model": "m", "messages": [%b]}' % deep)
                assert got.status == 400
            assert (await client.post(told)).status == 200

    run(journey())


@settings(deadline=None)
@given(
    pattern=st.sampled_from(
        [
            *(r"^\d{4}-\d{2}$", r"^[A-Z]{3}[0-9]+$", r"(foo|bar)?-x", r"^[^a-z]{2}$", r"^a.b*?c{2,}$", r"\w+\.\w+"),
            *(r"^(?:ab){2,3}$", r"[a\-c]", r"^\+?[1-9]\d{1,14}$", "plain", r"^#[0-9a-fA-F]{6}$"),
        ]
    ),
    seed=SEEDS,
)
def test_a_usual_pattern_is_matched(pattern: str, seed: bytes) -> None:
    schema = {"type": "string", "pattern": pattern}
    assert valid(schema, fitting(schema, seed))


@given(st.text(st.sampled_from(r"ab09[]()^$*+?{},\dw|.-"), max_size=12), st.randoms(use_true_random=False))
def test_no_pattern_ends_in_an_error(pattern: str, chance: Any) -> None:
    text_for(pattern, chance)


def test_a_pattern_nested_without_end_is_left_unread() -> None:
    assert text_for("(" * 100_000, Random(1)) is None


# --- who is asked for what -------------------------------------------------------------------------------------------


def said_to(body: dict[str, Any], reading: Reading | None = None) -> answers.Answer:
    digest = answers.digest_of(body)
    return answers.answer(answers.read(body, digest) if reading is None else answers.read(body, digest, reading))


@pytest.mark.parametrize(
    ("choice", "text", "called"),
    [
        ({"type": "tool", "name": "report"}, "hello", "report"),
        ({"type": "any"}, "hello", "look_up"),
        ({"type": "any"}, "please report it", "report"),
        ({"type": "auto"}, "please report it", "report"),
        ({"type": "auto"}, "a reporter came", None),
        ({"type": "none"}, "please report it", None),
        (None, "please report it", "report"),
        (None, "hello", None),
        ("required", "hello", "look_up"),
        ("none", "please report it", None),
        ({"type": "function", "function": {"name": "report"}}, "hello", "report"),
    ],
)
def test_a_forced_tool_is_called_and_a_free_one_when_it_is_named(choice: Any, text: str, called: str | None) -> None:
    for spelled in ([OTHER, TOOL], [openai_spelled(OTHER), openai_spelled(TOOL)]):
        body = body_of(text, tools=spelled, **({} if choice is None else {"tool_choice": choice}))
        said = said_to(body)
        assert (said.call and said.call.name) == called
        assert said.stop_reason == ("end_turn" if called is None else "tool_use")
        if called == "report":
            assert said.call is not None
            assert valid(SCHEMA, said.call.input)
            assert said == said_to(body)


def openai_spelled(tool: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool["name"], "parameters": tool["input_schema"]}}


def test_servers_make_of_a_choice_what_they_make_of_it() -> None:
    def called(choice: str, text: str, reading: Reading) -> str | None:
        said = said_to(body_of(text, tools=[OTHER, TOOL], tool_choice={"type": choice, "name": "report"}), reading)
        return None if said.call is None else said.call.name

    # llama.cpp: any tool for this tool, and no notice of none; Ollama: no notice of any choice.
    assert called("tool", "hello", LLAMACPP.reading) == "look_up"
    assert called("none", "report it", LLAMACPP.reading) == "report"
    assert called("tool", "hello", OLLAMA.reading) is None
    assert called("none", "report it", OLLAMA.reading) == "report"


def test_after_a_result_the_model_answers_unless_it_must_call() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": "report"}
    turns = [
        {"role": "user", "content": "report it"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "report", "input": {}}]},
        {"role": "user", "content": [result, {"type": "text", "text": "now report"}]},
    ]
    assert said_to(body_of(messages=turns, tools=[TOOL])).call is None
    assert said_to(body_of(messages=turns, tools=[TOOL], tool_choice={"type": "any"})).call is not None


def test_a_call_for_which_there_are_no_tokens_is_none() -> None:
    said = said_to(body_of(tools=[TOOL], tool_choice={"type": "any"}, max_tokens=3))
    assert (said.call, said.stop_reason, said.output_tokens) == (None, "max_tokens", 3)


@pytest.mark.parametrize(
    "system",
    [
        "Answer with one JSON object. It must satisfy this JSON Schema:\n{}",
        "JSON Schema:\n```json\n{}\n```\nNothing else.",
        "JSON Schema: {} and so on",
    ],
)
def test_a_schema_told_in_the_prompt_is_answered_in_json(system: str) -> None:
    written = orjson.dumps(SCHEMA).decode()
    for body in (
        body_of(system=system.replace("{}", written)),
        body_of(system=[{"type": "text", "text": system.replace("{}", written)}]),
        body_of(f"hello. {system.replace('{}', written)}"),
    ):
        assert valid(SCHEMA, orjson.loads(said_to(body).text or ""))


@pytest.mark.parametrize("text", ["JSON Schema:", "JSON Schema: none", "JSON Schema: {", 'JSON Schema: {"type": 5}'])
def test_words_without_a_schema_ask_for_no_json(text: str) -> None:
    assert (said_to(body_of(text)).text or "").startswith("answer ")


def test_a_number_of_any_size_may_stand_in_a_schema_in_words() -> None:
    assert orjson.loads(said_to(body_of(f'JSON Schema: {{"const": {10**30}}}')).text or "") == 1e30


def test_structured_output_fits_and_is_cut_by_max_tokens() -> None:
    assert valid(SCHEMA, orjson.loads(said_to(body_of(**FORMAT)).text or ""))
    cut = said_to(body_of(**FORMAT, max_tokens=5))
    assert (cut.stop_reason, len(cut.text or "")) == ("max_tokens", 20)


# --- broken on purpose -----------------------------------------------------------------------------------------------


def json_in(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


@given(schema=SCHEMAS, seed=SEEDS, fault=st.sampled_from(sorted(INVALID)))
@settings(deadline=None)
def test_a_spoiled_text_never_fits(schema: dict[str, Any], seed: bytes, fault: str) -> None:
    text = spoiled_text(schema, fitting(schema, seed), fault, seed)
    found = json_in(text)
    assert found is None or not valid(schema, found)


@given(seed=SEEDS, fault=st.sampled_from(sorted(INVALID)))
def test_a_spoiled_input_never_fits(seed: bytes, fault: str) -> None:
    assert not valid(SCHEMA, spoiled_value(SCHEMA, fitting(SCHEMA, seed), fault, seed))


def test_each_way_of_breaking_looks_as_it_says() -> None:
    fitted = fitting(SCHEMA, b"seed")
    ways = {kind: spoiled_text(SCHEMA, fitted, f"invalid-{kind}", b"s") for kind in ("missing", "type", "prose", "cut")}
    assert set(orjson.loads(ways["missing"])) == set(fitted) - {"label"}
    assert set(orjson.loads(ways["type"])) == set(fitted)
    assert "{" not in ways["prose"]
    assert "```json\n{" in ways["cut"]
    assert ways["cut"].count("```") == 1
    fenced = spoiled_text(SCHEMA, fitted, "invalid-fenced", b"s")
    assert orjson.loads(fenced.partition("```json")[2].partition("```")[0]) == fitted


def ask_again(body: dict[str, Any], got: Got) -> dict[str, Any]:
    """The same request, with its answer sent back."""
    content = got.json["content"]
    calls = [block for block in content if block["type"] == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call["id"], "is_error": True, "content": "no"} for call in calls]
    turns = [{"role": "assistant", "content": content}, {"role": "user", "content": results or "That is an error."}]
    return {**body, "messages": [*body["messages"], *turns]}


def fits(got: Got) -> bool:
    (block,) = got.json["content"]
    return valid(SCHEMA, block["input"] if block["type"] == "tool_use" else json_in(block["text"]))


FORCED = {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "report"}}
TOLD = {"system": f"JSON Schema:\n{orjson.dumps(SCHEMA).decode()}"}


@pytest.mark.parametrize("members", [FORMAT, FORCED, TOLD], ids=["format", "tool", "prompt"])
def test_a_broken_answer_sent_back_is_mended_unless_it_never_is(members: dict[str, Any]) -> None:
    async def journey() -> None:
        whens = (FaultWhen("row-17", "invalid"), FaultWhen("row-18", "invalid-always"))
        async with serving(fault_whens=whens) as client:
            for row, mended in (("row-17", True), ("row-18", False)):
                body = body_of(row, **members)
                first = await client.post(body)
                assert (await client.post(body)).raw == first.raw
                second = ask_again(body, first)
                third = ask_again(second, await client.post(second))
                assert not fits(first)
                assert fits(await client.post(second)) is mended
                assert fits(await client.post(third)) is mended
            assert fits(await client.post(body_of("row-19", **members)))
            faults = [(line["text_head"][:6], line["fault"], line["matched"]) for line in await client.ledger()]
        assert faults[0] == ("row-17", "invalid", "row-17")
        assert faults[-1] == ("row-19", None, None)

    run(journey())


def test_a_share_of_conversations_breaks_and_every_one_of_them_is_mended() -> None:
    async def fitting_rows(client: Client) -> list[bool]:
        found = []
        for row in range(60):
            body = body_of(f"row {row}", **FORMAT)
            got = await client.post(body)
            found.append(fits(got))
            if not found[-1]:
                assert fits(await client.post(ask_again(body, got)))
        return found

    async def journey() -> None:
        async with serving(faults=(Fault("invalid", 0.3),), seed=1) as client:
            first = await fitting_rows(client)
            assert first == await fitting_rows(client)
        assert 8 < first.count(False) < 30

    run(journey())


def test_a_share_of_conversations_is_never_mended() -> None:
    async def journey() -> None:
        async with serving(faults=(Fault("invalid-always", 0.5),), seed=1) as client:
            for row in range(20):
                body = body_of(f"row {row}", **FORMAT)
                got = await client.post(body)
                if not fits(got):
                    assert not fits(await client.post(ask_again(body, got)))

    run(journey())


def test_without_a_schema_there_is_nothing_to_break() -> None:
    async def journey() -> None:
        async with serving(faults=(Fault("invalid", 1),)) as client:
            got = await client.post(body_of("hello"))
            (line,) = await client.ledger()
        assert got.json["content"][0]["text"].endswith(": hello")
        assert line["fault"] is None

    run(journey())

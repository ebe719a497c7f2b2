from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_jobs import AJob, AnEndpoint, ARequest, group, one

from pipeline.prompt import KeyRecipe, row_hash
from pipeline.records import key_text

PROMPT = b'"messages":[{"role":"user","content":"hi"}]'
FIELDS: dict[str, Any] = {"model": "claude-sonnet-4-5", "max_tokens": 1024}


def key(fields: dict[str, Any] | None = None, *, scope: str = "public", version: str | None = "2023-06-01") -> str:
    request = ARequest(FIELDS if fields is None else fields)
    return key_text(KeyRecipe(AJob(request=request, endpoint=AnEndpoint(scope, version))).key(PROMPT))


def test_what_is_sent_beside_the_prompt_is_in_the_key_in_place_of_the_jobs_own_fields() -> None:
    form = {**FIELDS, "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}
    recipe = KeyRecipe(AJob(request=ARequest(FIELDS)), form)
    assert key_text(recipe.key(PROMPT)) == key(form) != key()


def test_the_recipe_k1_is_pinned() -> None:
    """A change of this value makes every journal ask again: it needs a new recipe that also looks up this one."""
    envelope = b'{"request":{"model":"claude-sonnet-4-5"},"scope":"public","version":"2023-06-01"}'
    by_hand = blake2b(len(envelope).to_bytes(8, "big") + envelope + PROMPT, digest_size=16, person=b"pipeline k1")
    assert key() == f"k1-{by_hand.hexdigest()}" == "k1-b2fc84789ab3391c7d7888cb1f074f17"


def test_what_a_beta_switches_on_may_change_the_answer_and_is_in_the_key() -> None:
    def with_headers(**headers: str) -> str:
        job = AJob(request=ARequest(FIELDS), endpoint=AnEndpoint(headers=headers))
        return key_text(KeyRecipe(job).key(PROMPT))

    assert with_headers(**{"X-Team": "quality"}) == key()
    assert with_headers(**{"anthropic-beta": "a-1, b-2"}) == with_headers(**{"Anthropic-Beta": "b-2,a-1"}) != key()


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 9},
        {"stream": True},
        {"service_tier": "auto"},
        {"metadata": {"user_id": "u"}},
        {"cache_control": {"type": "ephemeral"}},
        {"cache_control": None},
    ],
)
def test_what_cannot_change_the_answer_is_not_in_the_key(fields: dict[str, Any]) -> None:
    assert key(FIELDS | fields) == key()


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "claude-opus-5"},
        {"temperature": 0.5},
        {"temperature": 0.0},
        {"top_k": 1},
        {"stop_sequences": ["x"]},
        {"thinking": {"type": "adaptive"}},
        {"output_config": {"effort": "low"}},
        {"a_newer_field": None},
    ],
)
def test_what_can_change_the_answer_is_in_the_key(fields: dict[str, Any]) -> None:
    assert key(FIELDS | fields) != key()


def test_of_the_endpoint_its_scope_and_version_are_in_the_key() -> None:
    keys = {key(), key(scope="local"), key(scope="simulator"), key(version=None), key(version="2026-10-21")}
    assert len(keys) == 5


def test_the_order_of_members_is_not_in_the_key() -> None:
    assert key({"max_tokens": 1, "thinking": {"b": 1, "a": 2}, "model": "m"}) == key(
        {"model": "m", "thinking": {"a": 2, "b": 1}}
    )


def test_cache_marks_are_left_out_at_any_depth_but_a_property_of_that_name_stays() -> None:
    tool = {"name": "t", "input_schema": {"type": "object", "properties": {"x": {"type": "string"}}}}
    marked = tool | {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    assert key(FIELDS | {"tools": [marked]}) == key(FIELDS | {"tools": [tool]})
    schema = {"properties": {"cache_control": {"type": "string"}}}
    assert key(FIELDS | {"output_config": schema}) != key(FIELDS | {"output_config": {"properties": {}}})


def test_a_recipe_may_be_used_for_any_number_of_prompts() -> None:
    recipe = KeyRecipe(AJob())
    first = recipe.key(b"a")
    assert recipe.key(b"b") != first
    assert recipe.key(b"a") == first
    assert len(first) == 16


@settings(deadline=None)
@given(st.text(max_size=6), st.text(max_size=6), st.binary(max_size=6), st.binary(max_size=6))
def test_no_two_pairs_of_envelope_and_prompt_share_a_key(
    one_model: str, other: str, prompt: bytes, last: bytes
) -> None:
    def keyed(model: str, prompt: bytes) -> bytes:
        return KeyRecipe(AJob(request=ARequest({"model": model}))).key(prompt)

    same = (one_model, prompt) == (other, last)
    assert (keyed(one_model, prompt) == keyed(other, last)) is same
    assert keyed(one_model, b'"}' + prompt) != keyed(one_model + '"}', prompt)


def test_a_salted_key_differs_by_run_row_and_place_among_equal_rows() -> None:
    recipe = KeyRecipe(AJob())
    content, row = recipe.key(PROMPT), row_hash(one(a=1))
    keys = {
        content,
        recipe.salted(content, "run-1", row, 0),
        recipe.salted(content, "run-2", row, 0),
        recipe.salted(content, "run-1", row_hash(one(a=2)), 0),
        recipe.salted(content, "run-1", row, 1),
        recipe.salted(recipe.key(b"other"), "run-1", row, 0),
    }
    assert len(keys) == 6
    assert recipe.salted(content, "run-1", row, 0) in keys
    assert all(len(key) == 16 for key in keys)


def test_no_run_id_can_pass_for_a_part_of_a_row() -> None:
    recipe, content = KeyRecipe(AJob()), bytes(16)
    assert recipe.salted(content, "r", bytes(8), 0) != recipe.salted(content, "r\0\0\0\0\0\0\0\x08", b"", 0)


def test_equal_rows_have_equal_hashes_and_others_do_not() -> None:
    when = datetime(2026, 11, 22, tzinfo=UTC)
    assert row_hash(one(a=1, b=when)) == row_hash(one(b=when, a=1))
    rows = [
        one(a=1),
        one(a=2),
        one(b=1),
        one(a="1"),
        one(a=None),
        one(a=b"1"),
        one(a=Decimal("1.0")),
        one(a=when),
        one(a=when.isoformat()),
        one(a="\ud800"),
        one(a="\ud801"),
        one(a=2**70),
        one(a=[1]),
        group({"a": 1}, {"a": 1}),
    ]
    assert len({row_hash(row) for row in rows}) == len(rows)

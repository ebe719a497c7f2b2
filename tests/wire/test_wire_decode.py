from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Busy, PipelineError, Refused, RunRejected
from pipeline.records import Response, Usage
from pipeline.wire import decode


def native(**changes: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [{"type": "text", "text": "Paris."}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 36, "output_tokens": 8},
    } | changes


def openai_like(**changes: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "object": "message",
        "model": "claude-3-5-sonnet-20240620",
        "choices": [{"message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 15, "total_tokens": 25},
    } | changes


def read(answer: Any, headers: dict[str, str] | None = None) -> Response:
    return decode(200, headers or {}, orjson.dumps(answer))


def test_a_native_answer() -> None:
    raw = orjson.dumps(native())
    assert decode(200, {"Request-Id": "req_1"}, raw) == Response(
        raw, "Paris.", "end_turn", "claude-sonnet-4-5-20250929", Usage(36, 8), "req_1", None
    )


def test_an_openai_like_answer_reads_the_same() -> None:
    raw = orjson.dumps(openai_like())
    assert decode(200, {}, raw) == Response(raw, "Paris.", "end_turn", "claude-3-5-sonnet-20240620", Usage(10, 15))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([], ""),
        ([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "a"}], "a"),
        ([{"type": "text", "text": "a"}, {"type": "new_block", "text": "no"}, {"type": "text", "text": "b"}], "ab"),
        ([{"type": "tool_use", "id": "t", "name": "n", "input": {}}], ""),
        (["text", 7, None, {"type": "text"}, {"type": "text", "text": 5}, {"type": "text", "text": "a"}], "a"),
        ("plain text", "plain text"),
        (None, ""),
    ],
)
def test_text_is_joined_from_text_blocks_wherever_they_stand(content: Any, text: str) -> None:
    assert read(native(content=content)).text == text


def test_a_list_of_content_is_native_without_a_type() -> None:
    answer = native()
    del answer["type"]
    assert read(answer).text == "Paris."


@pytest.mark.parametrize(
    ("reason", "stop_reason"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("function_call", "tool_use"),
        ("content_filter", "refusal"),
        ("something_new", "something_new"),
        (None, None),
        (3, None),
    ],
)
def test_finish_reasons_become_native_words(reason: Any, stop_reason: str | None) -> None:
    choices = [{"message": {"content": "a"}, "finish_reason": reason}]
    assert read(openai_like(choices=choices)).stop_reason == stop_reason


@pytest.mark.parametrize(
    ("message", "text", "stop_reason"),
    [
        ({"content": None, "tool_calls": []}, "", "end_turn"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", "end_turn"),
        ({"content": None, "refusal": "I cannot."}, "", "refusal"),
    ],
)
def test_messages_of_openai_like_answers(message: Any, text: str, stop_reason: str) -> None:
    response = read(openai_like(choices=[{"message": message, "finish_reason": "stop"}]))
    assert (response.text, response.stop_reason) == (text, stop_reason)


def test_a_missing_stop_reason_is_unknown_and_the_text_is_kept() -> None:
    answer = native()
    del answer["stop_reason"]
    assert read(answer).stop_reason is None
    assert read(answer).text == "Paris."


@pytest.mark.parametrize(
    ("found", "usage"),
    [
        ({"input_tokens": 1, "output_tokens": 2}, Usage(1, 2)),
        (
            {"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 4},
            Usage(1, 2, 30, 0, 4),
        ),
        (
            {
                "input_tokens": 1,
                "output_tokens": 2,
                "cache_creation_input_tokens": 30,
                "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
                "cache_read_input_tokens": None,
            },
            Usage(1, 2, 10, 20, 0),
        ),
        (
            {"input_tokens": 1, "output_tokens": 2, "cache_creation_input_tokens": 9, "cache_creation": None},
            Usage(1, 2, 9),
        ),
        ({"prompt_tokens": 10, "completion_tokens": 3}, Usage(10, 3)),
        (
            {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 7}},
            Usage(3, 3, 0, 0, 7),
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 3,
                "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 4},
            },
            Usage(1, 3, 4, 0, 5),
        ),
        # figures that are none: no usage at all, never a crash and never a guess
        (None, None),
        ({}, None),
        ([], None),
        ("12", None),
        ({"input_tokens": 1}, None),
        ({"input_tokens": None, "output_tokens": 2}, None),
        ({"input_tokens": -1, "output_tokens": 2}, None),
        ({"input_tokens": "1", "output_tokens": 2}, None),
        ({"input_tokens": 1.5, "output_tokens": 2}, None),
        ({"input_tokens": True, "output_tokens": 2}, None),
        ({"input_tokens": 10**15, "output_tokens": 2}, None),
        ({"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": "many"}, None),
        ({"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 70}}, None),
        ({"prompt_tokens": 10}, None),
    ],
)
def test_usage(found: Any, usage: Usage | None) -> None:
    assert read(native(usage=found)).usage == usage
    assert read(openai_like(usage=found)).usage == usage


@pytest.mark.parametrize(
    ("spent", "header", "nanos"),
    [
        (0.000788, None, 788_000),
        ("0.000788", None, 788_000),
        (0.000788, "9.99", 788_000),
        (None, "0.000788", 788_000),
        (None, "0.0000000014", 1),
        (3, None, 3_000_000_000),
        (0.1, None, 100_000_000),
        (0, None, 0),
        (-1, None, None),
        (None, "free", None),
        (None, "", None),
        (None, "NaN", None),
        (None, "1e99", None),
        (True, None, None),
        ([], None, None),
        (None, None, None),
    ],
)
def test_the_cost_that_a_server_reports_is_exact(spent: Any, header: str | None, nanos: int | None) -> None:
    headers = {} if header is None else {"x-aimlapi-usd-spent": header}
    answer = native(meta={"usage": {"credits_used": 1576, "usd_spent": spent}})
    assert read(answer, headers).reported_nanos == nanos


@pytest.mark.parametrize("meta", [None, [], {}, {"usage": None}, {"usage": 3}])
def test_a_strange_meta_is_no_cost(meta: Any) -> None:
    assert read(native(meta=meta)).reported_nanos is None


@pytest.mark.parametrize("name", ["request-id", "X-Request-ID", "x-inference-id"])
def test_request_ids(name: str) -> None:
    assert read(native(), {name: "req_7"}).request_id == "req_7"


UNUSABLE = [
    (b"", "an empty body"),
    (b" \n", "an empty body"),
    (b"<!doctype html><html>busy</html>", "an HTML page"),
    (b'{"type":"message","content":[{"ty', "33 bytes that are not JSON: "),
    (b'{"type":"message","content":"caf\xe9"}', "not JSON: str is not valid UTF-8"),
    (b'{"type":"message","content":[{"type":"text","text":"\\ud83d"}]}', "not JSON: "),
    (b"[" * 100_000, "not JSON: "),
    (b"null", "JSON that is no object"),
    (b"[]", "JSON that is no object"),
    (b'"done"', "JSON that is no object"),
    (b"{}", "neither `content` nor `choices`"),
    (b'{"content":"x"}', "neither `content` nor `choices`"),
    (b'{"type":"message"}', "a message without content"),
    (b'{"type":"message","content":{"type":"text"},"stop_reason":"end_turn"}', "a message without content"),
    (b'{"choices":[]}', "`choices` without a message"),
    (b'{"choices":[{}]}', "`choices` without a message"),
    (b'{"choices":{"0":1}}', "`choices` without a message"),
]


@pytest.mark.parametrize(("raw", "why"), UNUSABLE)
def test_an_answer_that_cannot_be_used_is_worth_another_attempt_and_may_have_been_billed(raw: bytes, why: str) -> None:
    with pytest.raises(Busy) as caught:
        decode(200, {"request-id": "req_1"}, raw)
    error = caught.value
    assert why in str(error)
    assert (error.error_type, error.maybe_billed, error.shared) == ("server_error", True, False)
    assert (error.http_status, error.request_id) == (200, "req_1")


def test_answers_are_utf8_whatever_the_header_claims() -> None:
    raw = '\ufeff{"type":"message","content":[{"type":"text","text":"68°F 日本 \U0001f600"}]}'.encode()
    response = decode(200, {"content-type": "application/json; charset=iso-8859-1"}, raw)
    assert response.text == "68°F 日本 \U0001f600"
    assert orjson.loads(response.raw)


NAMES = [
    *("type", "content", "choices", "message", "error", "usage", "input_tokens", "prompt_tokens", "code", "details"),
    *("prompt_tokens_details", "text", "meta", "statusCode", "output_tokens", "usd_spent", "x"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner | st.sampled_from(["message", "text", "error", "400 {}", "503", 401]),
            max_size=6,
        )
    ),
    max_leaves=25,
)
STATUSES = st.sampled_from([200, 201, 204, 301, 400, 401, 413, 429, 500, 503, 529, 999]) | st.integers(100, 1000)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "x-should-retry", "request-id", "x-aimlapi-usd-spent", "date"]),
    st.text(max_size=12) | st.sampled_from(["1", "-1", "nan", "true", "false", "Sun, 06 Nov 1994 08:49:37 GMT"]),
)


def only_ours(status: int, headers: dict[str, str], raw: bytes) -> None:
    try:
        response = decode(status, headers, raw)
    except (Refused, Busy, RunRejected) as error:
        words = str(error)
        assert words
        assert len(words) <= 300
        assert words.isprintable()
    else:
        assert 200 <= status < 300
        assert isinstance(response.text, str)


@given(STATUSES, HEADERS, JSON)
def test_any_json_is_a_response_or_an_error_of_ours(status: int, headers: dict[str, str], found: Any) -> None:
    """H10."""
    only_ours(status, headers, orjson.dumps(found))


@given(STATUSES, HEADERS, st.binary() | st.binary().map(lambda noise: b'{"type":"message","content":"' + noise))
def test_any_bytes_are_a_response_or_an_error_of_ours(status: int, headers: dict[str, str], raw: bytes) -> None:
    """H10."""
    only_ours(status, headers, raw)


@given(st.integers(0, 400))
def test_an_answer_cut_anywhere_is_never_taken_for_a_whole_one(cut: int) -> None:
    raw = orjson.dumps(native())
    if cut < len(raw):
        with pytest.raises(PipelineError):
            decode(200, {}, raw[:cut])

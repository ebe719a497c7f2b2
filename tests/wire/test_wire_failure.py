"""The table of refusals: messages-api §5.1, §5.2, §5.3, §11."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from pipeline.errors import Busy, PipelineError, Refused, RunRejected, TransportError
from pipeline.wire import Asked, decode
from pipeline.wire.failure import named_wait

ASKED = Asked("api.example.com", "claude-sonnet-4-5", "$ANTHROPIC_API_KEY", frozenset({"sk-ant-canary/0123456789=="}))


def refusal(status: int, found: Any, headers: dict[str, str] | None = None, prompt: bytes = b"") -> PipelineError:
    raw = found if isinstance(found, bytes) else orjson.dumps(found)
    with pytest.raises((TransportError, RunRejected)) as caught:
        decode(status, headers or {}, raw, asked=ASKED, prompt=prompt)
    return caught.value


def envelope(name: str, message: str = "words", **details: Any) -> dict[str, Any]:
    error = {"type": name, "message": message} | ({"details": details} if details else {})
    return {"type": "error", "error": error, "request_id": "req_body"}


def aimlapi(status: int | str, message: str) -> dict[str, Any]:
    return {"message": message, "path": "/v1/messages", "requestId": "uuid-1", "statusCode": status}


def llamacpp(code: int, name: str, message: str = "words") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "type": name}}


UPSTREAM = '400 {"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 > 8"}}'
BROKE = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing."
CAP = "You have reached your specified API usage limits. You will regain access on 2026-12-01."

ROWS = [
    (400, envelope("invalid_request_error"), "bad_request"),
    (400, envelope("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"), "too_long"),
    (400, envelope("invalid_request_error", "image exceeds 10 MB maximum"), "image_too_large"),
    (400, envelope("invalid_request_error", "x", error_code="image_dimensions_too_large"), "image_too_large"),
    (400, envelope("invalid_request_error", "Could not process image"), "image_corrupt"),
    (400, llamacpp(400, "exceed_context_size_error"), "too_long"),
    (400, {"error": {"message": "maximum context length is 8", "type": "BadRequestError", "code": 400}}, "too_long"),
    (400, {"error": {"message": "m", "code": "context_length_exceeded"}}, "too_long"),
    (400, aimlapi(400, "Body validation error!"), "bad_request"),
    (400, aimlapi("400", "Body validation error!"), "bad_request"),
    (500, aimlapi(500, UPSTREAM), "too_long"),
    (200, aimlapi("400", UPSTREAM), "too_long"),
    (200, envelope("invalid_request_error"), "bad_request"),
    (200, {"error": "bad thing", "statusCode": 400}, "bad_request"),
    (413, envelope("request_too_large"), "too_long"),
    (413, b"<html>413 Request Entity Too Large</html>", "too_long"),
    (422, {"detail": [{"loc": ["body", "x"], "msg": "field required"}]}, "bad_request"),
    (418, b"", "bad_request"),
    (501, llamacpp(501, "not_supported_error"), "bad_request"),
    # a row that talks about credit does not stop the run
    (400, envelope("invalid_request_error", f"messages.0: unexpected '{BROKE}'"), "bad_request"),
]

ATTEMPTS = [
    (408, b"", "timeout", False),
    (409, envelope("conflict_error"), "server_error", False),
    (429, envelope("rate_limit_error"), "rate_limit", True),
    (429, envelope("rate_limit_error", error_code="ramp_limit_exceeded"), "rate_limit", True),
    (429, aimlapi(429, "Too Many Requests"), "rate_limit", True),
    (429, b"slow down", "rate_limit", True),
    (500, envelope("api_error"), "server_error", False),
    (500, b"<html>oops</html>", "server_error", False),
    (500, b"", "server_error", False),
    (502, b"Bad Gateway", "server_error", False),
    (503, llamacpp(503, "unavailable_error", "Loading model"), "server_error", False),
    (503, envelope("overloaded_error"), "overloaded", True),
    (504, envelope("timeout_error"), "timeout", False),
    (529, envelope("overloaded_error", "Overloaded"), "overloaded", True),
    (529, b"", "overloaded", True),
    (520, b"", "server_error", False),
    (999, b"", "server_error", False),
    (200, envelope("overloaded_error"), "overloaded", True),
    (200, envelope("rate_limit_error"), "rate_limit", True),
    (200, envelope("api_error"), "server_error", False),
    (200, {"type": "error"}, "server_error", False),
    (200, aimlapi("503", "Service Unavailable"), "server_error", False),
    (400, aimlapi(400, '529 {"type":"error","error":{"type":"overloaded_error","message":"m"}}'), "overloaded", True),
    # the reseller's own key at the provider is no trouble of ours
    (500, aimlapi(500, '401 {"type":"error","error":{"type":"authentication_error"}}'), "server_error", False),
]

RUNS = [
    (401, envelope("authentication_error", "invalid x-api-key"), "$ANTHROPIC_API_KEY"),
    (401, llamacpp(401, "authentication_error", "Invalid API Key"), "$ANTHROPIC_API_KEY"),
    (401, b"", "$ANTHROPIC_API_KEY"),
    (402, envelope("billing_error"), "add credit"),
    (403, envelope("permission_error"), "rights of the key"),
    (403, aimlapi("403", "You've run out of credits. Please top up."), "add credit"),
    (403, b"<html>no</html>", "claude-sonnet-4-5"),
    (404, envelope("not_found_error", "model: claude-3-opus"), "check request.model ('claude-sonnet-4-5')"),
    (404, b"404 page not found", "endpoint.url"),
    (405, b"", "endpoint.url"),
    (407, b"", "HTTPS_PROXY"),
    (400, envelope("invalid_request_error", BROKE), "add credit"),
    (400, envelope("invalid_request_error", CAP), "add credit"),
    (400, envelope("invalid_request_error", CAP.replace("API", "workspace API")), "add credit"),
    (400, aimlapi(400, f'400 {{"type":"error","error":{{"message":"{BROKE}"}}}}'), "add credit"),
    (429, envelope("rate_limit_error", "x", error_code="enforced_spend_limit_reached"), "spend limit"),
    (429, envelope("rate_limit_error", "x", error_code="contract_spend_limit_reached"), "spend limit"),
    (429, {"error": {"message": "x", "type": "insufficient_quota", "code": "insufficient_quota"}}, "add credit"),
    (400, {"error": {"message": "x", "code": "model_not_found"}}, "request.model"),
    (200, envelope("authentication_error"), "$ANTHROPIC_API_KEY"),
    (200, llamacpp(404, "whatever"), "request.model"),
    (301, b"", "redirects are not followed"),
    (307, b"", "redirects are not followed"),
    (304, b"", "redirects are not followed"),
]


@pytest.mark.parametrize(("status", "found", "error_type"), ROWS)
def test_what_ends_a_row(status: int, found: Any, error_type: str) -> None:
    error = refusal(status, found)
    assert isinstance(error, Refused)
    assert error.error_type == error_type
    assert not error.maybe_billed


@pytest.mark.parametrize(("status", "found", "error_type", "shared"), ATTEMPTS)
def test_what_is_worth_another_attempt(status: int, found: Any, error_type: str, shared: bool) -> None:
    error = refusal(status, found)
    assert isinstance(error, Busy)
    assert (error.error_type, error.shared) == (error_type, shared)
    assert not error.maybe_billed


@pytest.mark.parametrize(("status", "found", "words"), RUNS)
def test_what_ends_the_run_says_what_to_do(status: int, found: Any, words: str) -> None:
    error = refusal(status, found)
    assert isinstance(error, RunRejected)
    assert words in str(error)
    assert len(str(error)) <= 300


@pytest.mark.parametrize("status", [504, 524])
def test_a_gateway_that_gave_up_waiting_does_not_know_whether_the_call_is_billed(status: int) -> None:
    error = refusal(status, b"<html>Gateway Timeout</html>")
    assert isinstance(error, Busy)
    assert (error.error_type, error.maybe_billed) == ("timeout", True)


@pytest.mark.parametrize(
    ("status", "says", "kind"),
    [
        (500, "false", Refused),
        (503, "False ", Refused),
        (429, "false", RunRejected),  # about the account, so for every row
        (529, "false", RunRejected),
        (500, "true", Busy),
        (400, "true", Busy),
        (413, "true", Busy),
        (422, "true", Busy),
        (401, "true", RunRejected),
        (404, "true", RunRejected),
        (400, "perhaps", Refused),
    ],
)
def test_x_should_retry_overrules_the_table(status: int, says: str, kind: type[PipelineError]) -> None:
    assert type(refusal(status, b"", {"x-should-retry": says})) is kind


@pytest.mark.parametrize(
    ("headers", "secs"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "86400"}, 86_400.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500.5", "retry-after": "9"}, 1.5005),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:01:30 GMT"}, 90.0),
        ({"retry-after": "Sun, 22 Nov 2026 12:01:30 GMT", "date": "Sun, 22 Nov 2026 12:01:00 GMT"}, 30.0),
        ({"retry-after": "Sun, 22 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_the_wait_that_a_server_names(headers: dict[str, str], secs: float | None) -> None:
    assert named_wait(headers, datetime(2026, 11, 22, 12, 0, tzinfo=UTC)) == secs


def test_the_named_wait_reaches_the_error() -> None:
    error = refusal(429, b"", {"Retry-After": "12"})
    assert isinstance(error, Busy)
    assert error.wait_secs == 12.0


@pytest.mark.parametrize(
    ("headers", "found", "request_id"),
    [
        ({"request-id": "req_head"}, envelope("api_error"), "req_head"),
        ({}, envelope("api_error"), "req_body"),
        ({}, aimlapi(500, "m"), "uuid-1"),
        ({"x-inference-id": "inf_1"}, aimlapi(500, "m"), "inf_1"),
        ({}, b"", None),
        ({"request-id": "a\x1b[31mb"}, b"", "a [31mb"),
    ],
)
def test_the_request_id_of_a_refusal(headers: dict[str, str], found: Any, request_id: str | None) -> None:
    error = refusal(500, found, headers)
    assert isinstance(error, TransportError)
    assert error.request_id == request_id


KEY = "sk-ant-canary/0123456789=="


@pytest.mark.parametrize(
    "echo", [KEY, "sk-ant-canary%2F0123456789%3D%3D", "c2stYW50LWNhbmFyeS8wMTIzNDU2Nzg5PT0", f"x{KEY}y {KEY}"]
)
@pytest.mark.parametrize("status", [400, 401, 429, 500, 302])
def test_no_message_holds_the_key_however_the_server_spells_it(status: int, echo: str) -> None:
    headers = {"location": f"https://evil.example/{echo}?k={echo}", "request-id": echo}
    error = refusal(status, envelope(f"odd_{echo}", f"bad key: {echo} " * 3), headers)
    assert echo not in str(error)
    assert "canary" not in str(error)
    assert "canary" not in str(getattr(error, "request_id", ""))


@pytest.mark.parametrize(
    "secret",
    ["the patient's name is Ada Lovelace", 'quoted "words" and\nlines of text', "日本語の長い文章がここにあります"],
)
def test_no_message_repeats_the_prompt(secret: str) -> None:
    prompt = b'"messages":' + orjson.dumps([{"role": "user", "content": f"Look: {secret}. Done."}])
    message = f"messages.0.content: input should be a list, found: {secret} (str)"
    error = refusal(422, envelope("invalid_request_error", message), prompt=prompt)
    assert str(error).startswith(
        "api.example.com answered 422 (invalid_request_error): messages.0.content: input should"
    )
    assert "[…]" in str(error)
    shown = str(error)
    assert not any(secret[at : at + 12] in shown for at in range(len(secret) - 12))


def test_messages_are_one_printable_line() -> None:
    error = refusal(400, envelope("invalid_request_error", "a\nb\x1b[2J\u202ec\x00" + "x" * 10_000))
    assert str(error).isprintable()
    assert len(str(error)) <= 300


def test_a_message_reads_well() -> None:
    assert str(refusal(401, envelope("authentication_error", "invalid x-api-key"))) == (
        "api.example.com answered 401 (authentication_error): invalid x-api-key; "
        "check the key in $ANTHROPIC_API_KEY and endpoint.auth"
    )
    assert str(refusal(307, b"", {"location": "https://other.example/v1/messages?token=x"})) == (
        "api.example.com answered 307: redirect to https://other.example/v1/messages; redirects are not followed, "
        "so that the key does not travel; set endpoint.url to the final address"
    )


@pytest.mark.parametrize(
    "place", ['"message":%s', '"error":{"message":%s}', '"error":{"code":%s,"details":{}}', '"detail":%s']
)
def test_words_nested_too_deeply_to_repeat_are_left_out(place: str) -> None:
    deep = "[" * 300 + "]" * 300
    with pytest.raises(Busy, match="answered 503"):
        decode(503, {}, ("{" + place % deep + "}").encode())

"""A row's conversation follows from its answers: what is asked next, what is decided, what it cost."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from pipeline.answer import Contract, Reading
from pipeline.cost import Pricer
from pipeline.journal import Claim, Turn, attempt_id
from pipeline.limits import WorstCase
from pipeline.records import Attempt, Outcome, Request, Response, Usage
from pipeline.run.conversation import MAX_PAUSES, Conversation, Settling
from pipeline.wire import decode

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
KEY = bytes(range(16))
PROMPT = b'"system":"s","messages":[{"role":"user","content":"u"}]'
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
ASKED_BACK = (
    'This answer cannot be used: $: "n" is a required property. Answer again with the corrected JSON object and '
    "nothing else: no words around it, no code fence."
)


def conversation(repair: int = 1, schema: dict[str, Any] | None = SCHEMA) -> Conversation:
    contract = Contract({}, None, Reading(schema), repair)
    return Conversation(
        Request(KEY, "row", PROMPT), Settling(contract, Pricer({}), "claude-haiku-4-5", WorstCase(lambda _in, _out: 0))
    )


def body(*texts: str, stop: str = "end_turn") -> bytes:
    content = [{"type": "text", "text": text} for text in texts]
    usage = {"input_tokens": 10, "output_tokens": 2}
    return orjson.dumps(
        {"type": "message", "model": "claude-haiku-4-5", "content": content, "stop_reason": stop, "usage": usage}
    )


def answered(*texts: str, stop: str = "end_turn") -> tuple[Attempt, ...]:
    return (Attempt(NOW, 5, decode(200, {}, body(*texts, stop=stop)), http_status=200),)


def settle(talk: Conversation, claim: int, *texts: str, stop: str = "end_turn") -> Outcome:
    return talk.settle(Claim(claim, KEY), answered(*texts, stop=stop))


def turns_of(talk: Conversation) -> list[Any]:
    messages: list[Any] = orjson.loads(b"{" + talk.request.prompt + b"}")["messages"]
    return messages


def test_an_answer_that_fits_decides_at_once() -> None:
    talk = conversation()
    assert talk.request == Request(KEY, "row", PROMPT)
    outcome = settle(talk, 1, '{"n": 3}')
    assert (outcome.status, outcome.asked, outcome.continues) == ("ok", None, None)
    assert outcome.rules == Reading(SCHEMA).verdict_hash
    assert outcome.attempts[0][1].nanos == 10 * 1000 + 2 * 5000


def test_an_invalid_answer_is_sent_back_with_its_error_and_the_repaired_one_decides() -> None:
    talk = conversation()
    first = settle(talk, 1, '{"m": 3}')
    assert (first.status, first.error_type, first.asked) == (None, None, None)
    assert turns_of(talk) == [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": [{"type": "text", "text": '{"m": 3}'}]},
        {"role": "user", "content": ASKED_BACK},
    ]
    assert talk.request.key == KEY
    second = settle(talk, 2, '{"n": 4}')
    assert (second.status, second.key) == ("ok", KEY)
    assert second.asked is not None
    assert second.asked != KEY


@pytest.mark.parametrize("repair", [0, 1, 3])
def test_an_answer_that_never_fits_is_invalid_after_just_so_many_repairs(repair: int) -> None:
    talk = conversation(repair)
    outcomes = [settle(talk, claim, "no") for claim in range(repair + 1)]
    assert [outcome.status for outcome in outcomes] == [None] * repair + ["invalid"]
    assert (outcomes[-1].error_type, outcomes[-1].error_message) == (
        "schema_mismatch",
        "the answer holds no JSON object",
    )
    assert len({outcome.asked for outcome in outcomes}) == repair + 1


def test_a_paused_answer_goes_on_and_its_text_is_the_beginning_of_the_whole() -> None:
    talk = conversation()
    paused = settle(talk, 7, '{"n":', stop="pause_turn")
    assert (paused.status, paused.continues) == (None, None)
    assert turns_of(talk)[1:] == [{"role": "assistant", "content": [{"type": "text", "text": '{"n":'}]}]
    again = settle(talk, 8, " 1", stop="pause_turn")
    assert (again.status, again.continues) == (None, attempt_id(7, 0))
    ended = settle(talk, 9, "2}")
    assert (ended.status, ended.continues) == ("ok", attempt_id(8, 0))


def test_what_paused_before_a_repair_is_no_part_of_the_repaired_answer() -> None:
    talk = conversation()
    settle(talk, 1, '{"m":', stop="pause_turn")
    assert settle(talk, 2, "1}").status is None
    repaired = settle(talk, 3, '{"n": 2}')
    assert (repaired.status, repaired.continues) == ("ok", None)


def test_an_answer_that_only_ever_pauses_is_truncated_in_the_end() -> None:
    talk = conversation(schema=None)
    outcomes = [settle(talk, claim, "more", stop="pause_turn") for claim in range(MAX_PAUSES + 1)]
    assert [outcome.status for outcome in outcomes] == [None] * MAX_PAUSES + ["truncated"]


def test_a_pause_without_content_has_nothing_to_go_on_from() -> None:
    assert settle(conversation(), 1, stop="pause_turn").status == "truncated"


@pytest.mark.parametrize(("stop", "status"), [("max_tokens", "truncated"), ("refusal", "refused")])
def test_a_repair_that_does_not_end_by_itself_keeps_its_status(stop: str, status: str) -> None:
    talk = conversation()
    settle(talk, 1, "no")
    assert settle(talk, 2, '{"n": 1}', stop=stop).status == status


def test_a_call_without_an_answer_fails_the_row_in_whatever_turn() -> None:
    talk = conversation()
    settle(talk, 1, "no")
    lost = Attempt(NOW, 5, None, "server_error", "answered 500", 500)
    outcome = talk.settle(Claim(2, KEY), (lost,))
    assert (outcome.status, outcome.error_type, outcome.error_message) == ("failed", "server_error", "answered 500")
    assert outcome.asked is not None


def test_a_conversation_that_was_broken_off_goes_on_from_the_answers_that_are_kept() -> None:
    told = conversation(repair=2)
    kept = [Turn(attempt_id(1, 0), settle(told, 1, "one").asked, body("one"))]
    kept.append(Turn(attempt_id(2, 0), settle(told, 2, "two").asked, body("two")))
    resumed = conversation(repair=2)
    assert resumed.go_on(Claim(9, KEY), kept) is None
    assert resumed.request == told.request
    assert settle(resumed, 9, '{"n": 1}') == settle(told, 9, '{"n": 1}')


def test_answers_that_come_to_a_verdict_by_now_decide_without_a_call() -> None:
    told = conversation(repair=1)
    kept = [Turn(attempt_id(1, 0), settle(told, 1, "one").asked, body("one"))]
    outcome = conversation(repair=0).go_on(Claim(9, KEY), kept)
    assert outcome is not None
    assert (outcome.claim, outcome.key, outcome.status, outcome.attempts) == (9, KEY, "invalid", ())
    assert outcome.decided == attempt_id(1, 0)


def test_an_answer_to_another_turn_than_the_one_that_is_due_is_passed_over() -> None:
    talk = conversation()
    stray = Turn(attempt_id(1, 0), b"x" * 16, body('{"n": 1}'))
    broken = Turn(attempt_id(2, 0), None, b"{}")
    assert talk.go_on(Claim(9, KEY), [stray, broken]) is None
    assert talk.request == Request(KEY, "row", PROMPT)


def test_a_refusal_before_any_output_costs_nothing() -> None:
    response = Response(body(stop="refusal"), "", "refusal", "claude-haiku-4-5", Usage(10, 1))
    outcome = conversation().settle(Claim(1, KEY), (Attempt(NOW, 5, response),))
    assert (outcome.status, outcome.attempts[0][1].nanos) == ("refused", 0)


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"message": {"content": "no", "tool_calls": [{"function": {"name": "f"}}]}}]},
        {"choices": [{"message": {"content": "no", "tool_calls": [None]}}]},
        {"choices": [{"message": {"content": "no", "tool_calls": {"id": "x"}}}]},
    ],
)
def test_an_invalid_answer_that_cannot_be_sent_back_is_judged_as_it_stands(answer: dict[str, Any]) -> None:
    response = decode(200, {}, orjson.dumps(answer))
    outcome = conversation().settle(Claim(1, KEY), (Attempt(NOW, 5, response, http_status=200),))
    assert (outcome.status, outcome.error_type) == ("invalid", "schema_mismatch")

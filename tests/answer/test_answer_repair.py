"""The turns that send an invalid answer back."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from pipeline.answer import repair_turns

ERROR = '$.a: "x" is not of type "integer"'


def turns(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return repair_turns(orjson.dumps(answer), ERROR)


def test_the_answer_goes_back_as_received_with_its_thinking() -> None:
    content = [
        {"type": "thinking", "thinking": "", "signature": "s=="},
        {"type": "redacted_thinking", "data": "d=="},
        {"type": "text", "text": '{"a":"x"}', "citations": None},
    ]
    assistant, user = turns({"type": "message", "content": content})
    assert assistant == {"role": "assistant", "content": content}
    assert user["role"] == "user"
    assert ERROR in user["content"]


def test_a_called_tool_gets_the_error_as_its_result() -> None:
    content = [
        {"type": "text", "text": "Let me answer."},
        {"type": "tool_use", "id": "t1", "name": "answer", "input": {}},
        {"type": "tool_use", "id": "t2", "name": "answer", "input": {"a": "x"}},
    ]
    assistant, user = turns({"content": content})
    assert assistant["content"] == content
    results = user["content"]
    assert [(found["type"], found["tool_use_id"], found["is_error"]) for found in results] == [
        ("tool_result", "t1", True),
        ("tool_result", "t2", True),
    ]
    assert ERROR in results[1]["content"]


def test_blank_text_which_the_api_refuses_is_left_out() -> None:
    tool = {"type": "tool_use", "id": "t", "name": "answer", "input": {}}
    assert turns({"content": [{"type": "text", "text": "\n"}, tool]})[0]["content"] == [tool]


@pytest.mark.parametrize(
    "answer",
    [
        {"content": []},
        {"content": None, "stop_reason": "end_turn"},
        {"choices": [{"message": {"content": ""}}]},
    ],
)
def test_an_answer_without_content_is_answered_by_the_user_alone(answer: dict[str, Any]) -> None:
    (user,) = turns(answer)
    assert user["role"] == "user"


def test_an_openai_like_answer_goes_back_in_its_own_shape() -> None:
    assistant, user = turns({"choices": [{"message": {"role": "assistant", "content": "{}"}}]})
    assert assistant == {"role": "assistant", "content": "{}"}
    assert ERROR in user["content"]


def test_an_openai_like_call_gets_a_turn_of_the_tool() -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "answer", "arguments": "{"}}]
    assistant, result = turns({"choices": [{"message": {"content": None, "tool_calls": calls}}]})
    assert assistant == {"role": "assistant", "content": None, "tool_calls": calls}
    assert (result["role"], result["tool_call_id"]) == ("tool", "c1")
    assert ERROR in result["content"]

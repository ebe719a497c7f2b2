"""The turns that go on from an answer: one that paused, or an invalid one that is sent back with its error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

NOT_RUN = "not run: only the answer is wanted"


def paused_turns(raw: bytes) -> list[dict[str, Any]]:
    """The turn to append to the conversation whose answer stopped with `pause_turn`: the content as received.

    Empty where the answer has no content: there is nothing to go on from (messages-api §3.1).
    """
    content = orjson.loads(raw).get("content")
    return [{"role": "assistant", "content": content}] if content and isinstance(content, list) else []


def repair_turns(raw: bytes, error: str) -> list[dict[str, Any]]:
    """The turns to append to the conversation that got an answer.

    First the assistant's own, as received: thinking with its signature and calls of tools stay as they are, only text
    blocks that are blank go, since the API refuses them. Then the error: as the result of the tool that was
    called (messages-api §1.2; OpenAI-like: a turn of the role `tool`), otherwise as the user's text. An answer without
    any content is answered by the user's text alone, which the API merges with the turn before.

    Args:
        raw: the response's body, native or OpenAI-like.
        error: one line, as `Read.error_message` has it.
    """
    answer = orjson.loads(raw)
    if "choices" in answer and not isinstance(answer.get("content"), list):
        return _openai_like(answer["choices"][0]["message"], error)
    content = answer.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    blocks = [block for block in content or () if not _blank(block)]
    if not blocks:
        return [_user(_asked(error))]
    called = [block["id"] for block in blocks if block.get("type") == "tool_use" and "id" in block]
    if not called:
        return [{"role": "assistant", "content": blocks}, _user(_asked(error))]
    results = [
        {"type": "tool_result", "tool_use_id": id_, "is_error": True, "content": _called(error) if last else NOT_RUN}
        for id_, last in _marked_last(called)
    ]
    return [{"role": "assistant", "content": blocks}, _user(results)]


def _openai_like(message: Mapping[str, Any], error: str) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") or []
    kept = {"role": "assistant", "content": message.get("content")}
    if not calls:
        return [*([kept] if kept["content"] else []), _user(_asked(error))]
    results = [
        {"role": "tool", "tool_call_id": id_, "content": _called(error) if last else NOT_RUN}
        for id_, last in _marked_last([call["id"] for call in calls])
    ]
    return [{**kept, "tool_calls": calls}, *results]


def _marked_last(ids: list[str]) -> list[tuple[str, bool]]:
    return [(id_, nth == len(ids)) for nth, id_ in enumerate(ids, 1)]


def _blank(block: Any) -> bool:
    return not isinstance(block, dict) or (block.get("type") == "text" and not str(block.get("text") or "").strip())


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _asked(error: str) -> str:
    return (
        f"This answer cannot be used: {error}. Answer again with the corrected JSON object and nothing else: no words "
        "around it, no code fence."
    )


def _called(error: str) -> str:
    return f"This input cannot be used: {error}. Call the tool again with the corrected input."

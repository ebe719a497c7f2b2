"""A stream of an OpenAI-like server's chunks, put together into a completion (messages-api §4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.wire.pieces import keep_first, overlay, whole, written

NOT_OF_THE_HEAD = frozenset({"object", "choices", "usage", "meta", "type", "content", "error", "statusCode"})
"""What a chunk has that is put together in another way, or would make the whole look like something else."""


class Call:
    """A tool call that is still growing."""

    __slots__ = ("arguments", "call", "function")

    def __init__(self) -> None:
        self.call: dict[str, Any] = {"id": None, "type": "function"}
        self.function: dict[str, Any] = {"name": None}
        self.arguments: list[str | dict[str, Any]] = []

    def take(self, entry: Mapping[str, Any]) -> None:
        """Take in a piece of the call; names and ids are whole in the first that has them."""
        keep_first(self.call, {k: v for k, v in entry.items() if k not in {"index", "function"}})
        function = entry.get("function")
        if isinstance(function, dict):
            keep_first(self.function, {k: v for k, v in function.items() if k != "arguments"})
            arguments = function.get("arguments")
            if isinstance(arguments, str | dict):
                self.arguments.append(arguments)

    def body(self) -> dict[str, Any]:
        """The whole call.

        Raises:
            Unusable: its arguments cannot be written as JSON.
        """
        texts = [part if isinstance(part, str) else written(part).decode() for part in self.arguments]
        return self.call | {"function": self.function | {"arguments": whole(texts)}}


class Choice:
    """A choice that is still growing."""

    def __init__(self) -> None:
        self._choice: dict[str, Any] = {}
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._pieces: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._logprobs: dict[str, list[Any]] = {}
        self._calls: list[Call] = []
        self._call_at: dict[int, Call] = {}
        self._function: Call | None = None

    @property
    def begun(self) -> bool:
        """Whether something of the answer itself has come."""
        return bool(self._calls or self._lists or self._function) or any(map(any, self._pieces.values()))

    @property
    def finished(self) -> bool:
        """Whether the server has said why it stopped."""
        return bool(self._choice.get("finish_reason"))

    def take(self, found: Mapping[str, Any]) -> None:
        """Take in a chunk's part of this choice."""
        for field, value in found.items():
            if field == "delta":
                if isinstance(value, dict):
                    self._delta(value)
            elif field == "logprobs" and isinstance(value, dict):
                for kind, entries in value.items():
                    if isinstance(entries, list):
                        self._logprobs.setdefault(kind, []).extend(entries)
            elif field != "message" and (value is not None or field not in self._choice):
                self._choice[field] = value

    def body(self, index: int) -> dict[str, Any]:
        """The whole choice."""
        message = self._message | self._lists
        for field, pieces in self._pieces.items():
            if any(pieces) or not message.get(field):
                message[field] = whole(pieces)
        if self._calls:
            message["tool_calls"] = [call.body() for call in self._calls]
        if self._function is not None:
            message["function_call"] = self._function.body()["function"]
        logprobs = {"logprobs": self._logprobs} if self._logprobs else {}
        return {"index": index, "message": message} | self._choice | logprobs

    def _delta(self, delta: Mapping[str, Any]) -> None:
        for field, value in delta.items():
            if field == "role":
                keep_first(self._message, {} if value is None else {"role": value})
            elif field == "tool_calls":
                if isinstance(value, list):
                    for entry in value:
                        self._tool_call(entry)
            elif field == "function_call":
                if isinstance(value, dict):
                    self._function = self._function or Call()
                    self._function.take({"function": value})
            elif isinstance(value, str):
                self._pieces.setdefault(field, []).append(value)
            elif isinstance(value, list):
                self._lists.setdefault(field, []).extend(value)
            else:
                overlay(self._message, {field: value})

    def _tool_call(self, entry: Any) -> None:
        if not isinstance(entry, dict):
            return
        index, call_id = entry.get("index"), entry.get("id")
        call = self._call_at.get(index) if isinstance(index, int) else self._last()
        # Servers that send calls whole may give all of them the same index, or none.
        if call is None or (call_id and call.call["id"] and call_id != call.call["id"]):
            call = Call()
            self._calls.append(call)
            if isinstance(index, int):
                self._call_at[index] = call
        call.take(entry)

    def _last(self) -> Call | None:
        return self._calls[-1] if self._calls else None


class Chunks:
    """Chunks of an OpenAI-like server (§4.2)."""

    def __init__(self) -> None:
        self.complete = False
        self._head: dict[str, Any] = {}
        self._choices: dict[int, Choice] = {}
        self._usage: dict[str, Any] | None = None

    @property
    def begun(self) -> bool:
        """Whether something of the answer itself has come."""
        return any(choice.begun for choice in self._choices.values())

    def done(self) -> None:
        """Take in `[DONE]`, the last word."""
        self.complete = True

    def take(self, name: str, found: Mapping[str, Any]) -> None:  # noqa: ARG002 - chunks have no names
        """Take in a chunk."""
        choices = found.get("choices")
        for entry in choices if isinstance(choices, list) else ():
            if isinstance(entry, dict):
                index = entry.get("index")
                index = index if isinstance(index, int) else 0
                self._choices.setdefault(index, Choice()).take(entry)
                if entry.get("finish_reason"):
                    self.complete = all(choice.finished for choice in self._choices.values())
        usage = found.get("usage")
        if isinstance(usage, dict):
            self._usage = overlay(self._usage or {}, usage)
        if isinstance(meta := found.get("meta"), dict):
            self._head["meta"] = meta
        # The first chunk of some servers has an empty id and model.
        for field, value in found.items():
            if not self._head.get(field) and field not in NOT_OF_THE_HEAD:
                self._head[field] = value

    def body(self) -> dict[str, Any]:
        """The completion."""
        body = self._head | {"object": "chat.completion"}
        body["choices"] = [self._choices[index].body(index) for index in sorted(self._choices)]
        return body if self._usage is None else body | {"usage": self._usage}

"""Content as blocks: what `prompt.system` and a turn's content may be besides text (messages-api §1.2, §1.3).

The text of text blocks is a template; any other block goes as it is written, once its kind and members are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from pipeline.job.fields import Choice, Free, FreeRows, Place, ProblemError, PromptText, Schema
from pipeline.job.nodes import Scalar
from pipeline.job.request import CacheControl
from pipeline.job.section import Section, as_sent, none_if_nothing
from pipeline.job.words import did_you_mean, found, listed

MAX_IMAGE_CHARS = 10 * 1024 * 1024
"""What a picture may have at most, as base64 text (messages-api §6)."""

MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")


class TextBlock(Section):
    """A text that stands in a list of blocks."""

    WAYS_OUT: ClassVar[Mapping[str, str]] = {"file": "write text: {file: path}", "content": "write text"}

    type: Annotated[Literal["text"], Choice(words=("text",), literal=True)] = Field(
        description="text. Required; no default. Example: text."
    )
    text: Annotated[str, PromptText(literal=True)] = Field(
        description="The text: a template, or {file: path}. Required; no default. Example: You are a careful reader."
    )
    cache_control: Annotated[CacheControl | None, BeforeValidator(none_if_nothing)] = Field(
        None,
        description="Keep the prefix up to this block in the API's cache; see also prompt.cache. Default: not sent. "
        "Example: {type: ephemeral}.",
    )
    citations: Annotated[
        tuple[dict[str, Any], ...] | None, FreeRows(optional=True, json=True, noun="citations", literal=True)
    ] = Field(
        None,
        description="What the text cites, in an answer that is sent back. Default: not sent. Example: [{type: "
        "char_location, cited_text: a, document_index: 0, start_char_index: 0, end_char_index: 1}].",
    )

    def wire(self) -> dict[str, Any]:
        """Give the block as an object, its text still a template."""
        return dict(as_sent(self))


Check = Callable[[Any], str | None]
"""Says what is wrong with a member, or None."""


def _text(value: Any) -> str | None:
    if isinstance(value, str) and value:
        return None
    quotes = "; put it in quotes" if isinstance(value, bool | int | float) else ""
    return f"must be text, found {found(value)}{quotes}"


def _object(value: Any) -> str | None:
    return None if isinstance(value, Mapping) else f"must be a mapping, such as {{name: value}}; found {found(value)}"


def _rows(value: Any) -> str | None:
    return None if isinstance(value, list) else f"must be a list of blocks, found {found(value)}"


def _anything(_: Any) -> None:
    return None


def _word(*words: str) -> Check:
    def check(value: Any) -> str | None:
        return None if value in words else f"must be one of {listed(words)}; found {found(value)}"

    return check


def _picture(value: Any) -> str | None:
    if wrong := _text(value):
        return wrong
    if len(value) > MAX_IMAGE_CHARS:
        return f"has {len(value):,} characters of base64, and the API takes at most {MAX_IMAGE_CHARS:,}"
    return None


Members = Mapping[str, Check]

_BY_URL: Members = {"url": _text}
_BY_FILE: Members = {"file_id": _text}
SOURCES: Mapping[str, Mapping[str, Members]] = {
    "image": {
        "base64": {"media_type": _word(*MEDIA_TYPES), "data": _picture},
        "url": _BY_URL,
        "file": _BY_FILE,
    },
    "document": {
        "base64": {"media_type": _word("application/pdf"), "data": _text},
        "text": {"media_type": _word("text/plain"), "data": _text},
        "content": {"content": _anything},
        "url": _BY_URL,
        "file": _BY_FILE,
    },
}
"""What the member `source` of a block holds, by the block's type and its own (messages-api §1.3)."""

BLOCKS: Mapping[str, Members] = {
    "image": {"source": _object},
    "document": {"source": _object},
    "search_result": {"source": _text, "title": _text, "content": _rows},
    "tool_use": {"id": _text, "name": _text, "input": _object},
    "tool_result": {"tool_use_id": _text},
    "thinking": {"thinking": _anything, "signature": _text},
    "redacted_thinking": {"data": _text},
    "server_tool_use": {"id": _text, "name": _text, "input": _object},
    "container_upload": {"file_id": _text},
}
"""What a block must have besides its type (messages-api §1.2); a server's tool results are `_SERVERS`."""

_SERVERS = "_tool_result"
OF_THE_ASSISTANT = frozenset({"tool_use", "server_tool_use", "thinking", "redacted_thinking"})
OF_THE_USER = frozenset({"image", "tool_result", "search_result", "container_upload"})
UNMARKED = frozenset({"thinking", "redacted_thinking"})
"""Blocks that bear no cache mark."""


class OtherBlock(Free):
    """A block that is no text; it goes as it is written."""

    def read(self, value: Any) -> dict[str, Any]:
        """Give the block as a dict, as it is sent."""
        block = super().read(value)
        kind = block.get("type")
        if not isinstance(kind, str) or (kind not in BLOCKS and not kind.endswith(_SERVERS)):
            known = ("text", *BLOCKS)
            hint = did_you_mean(kind, known) if isinstance(kind, str) else ""
            raise ProblemError(f"must be one of {', '.join(known)}; found {found(kind)}{hint}", ("type",))
        wrong: list[tuple[Place, str | None]] = []
        wrong += [((name,), words) for name, words in _wrong(block, BLOCKS.get(kind, {"tool_use_id": _text}))]
        if kind in SOURCES and isinstance(block.get("source"), dict):
            wrong += [(("source", name), words) for name, words in _wrong_source(block["source"], SOURCES[kind])]
        if block.get("cache_control") is not None and (mistake := _wrong_mark(block["cache_control"], kind)):
            wrong.append((("cache_control",), mistake))
        if wrong:
            problem = ProblemError(None)
            problem.problems = wrong
            raise problem
        return block

    def shape(self) -> Schema:
        """Any object that has a type, and is no text."""
        return {"type": "object", "required": ["type"], "not": {"required": ["text"]}}


def _wrong(holder: Mapping[str, Any], members: Members) -> Iterator[tuple[str, str]]:
    for name, check in members.items():
        if name not in holder:
            yield name, "is missing"
        elif words := check(holder[name]):
            yield name, words


def _wrong_source(source: Mapping[str, Any], kinds: Mapping[str, Members]) -> Iterator[tuple[str, str]]:
    kind = source.get("type")
    members = kinds.get(kind) if isinstance(kind, str) else None
    if members is None:
        yield "type", f"must be one of {listed(tuple(kinds))}; found {found(kind)}"
    else:
        yield from _wrong(source, members)


def _wrong_mark(mark: Any, kind: str) -> str | None:
    if kind in UNMARKED:
        return f"cannot stand at a block of type {kind}; put it at another block"
    right = isinstance(mark, dict) and mark.get("type") == "ephemeral" and mark.get("ttl", "5m") in {"5m", "1h"}
    if right and set(mark) <= {"type", "ttl"}:
        return None
    return f"must be {{type: ephemeral}} or {{type: ephemeral, ttl: 1h}}; found {found(mark)}"


def _block_kind(value: Any) -> str:
    """Tell text from the rest; a block without a type is told what text lacks."""
    kind = value.get("type") if isinstance(value, dict) else None
    text = kind.text if isinstance(kind, Scalar) and not kind.is_null and not kind.broken else kind
    return "<block>" if isinstance(text, str) and text != "text" else "<text>"


AnyBlock = Annotated[
    Annotated[TextBlock, Tag("<text>")]
    | Annotated[dict[str, Any], OtherBlock(json=True, literal=True), Tag("<block>")],
    Discriminator(_block_kind),
]


def _content_kind(value: Any) -> str:
    return "<blocks>" if isinstance(value, list | tuple) else "<text>"


Content = Annotated[
    Annotated[str, PromptText(literal=True), Tag("<text>")] | Annotated[tuple[AnyBlock, ...], Tag("<blocks>")],
    Discriminator(_content_kind),
]
"""What a turn says: a text, or a list of blocks."""

SystemContent = Annotated[
    Annotated[str | None, PromptText(optional=True, literal=True), Tag("<text>")]
    | Annotated[tuple[TextBlock, ...], Tag("<blocks>")],
    Discriminator(_content_kind),
]
"""The system prompt: a text, a list of text blocks, or nothing."""

Block = TextBlock | dict[str, Any]


def blocks_of(content: str | Sequence[Block] | None) -> tuple[Block, ...]:
    """Give the blocks of a content; a text has none."""
    return () if content is None or isinstance(content, str) else tuple(content)


def member(block: Block, name: str) -> Any:
    """Give what a block has under a name, None where it has nothing."""
    return getattr(block, name, None) if isinstance(block, TextBlock) else block.get(name)


def check_content(content: str | Sequence[Block], path: str, role: str, opening: str) -> Iterator[tuple[str, str]]:
    """Find blocks that cannot be meant.

    Args:
        content: of the system prompt or of a turn.
        path: its dotted place.
        role: `system`, or whose turn it is.
        opening: what starts a value in templates.

    Yields:
        Places with words.
    """
    if isinstance(content, str):
        return
    if not content:
        yield path, "holds no block; write a text, or a list such as [{type: text, text: Hello}]"
    for index, block in enumerate(content):
        kind = member(block, "type")
        if role == "user" and kind in OF_THE_ASSISTANT:
            yield f"{path}.{index}.type", f"{kind} stands in turns of the assistant alone, found it in one of the user"
        elif role == "assistant" and kind in OF_THE_USER:
            yield f"{path}.{index}.type", f"{kind} stands in turns of the user alone, found it in one of the assistant"
        source = member(block, "source")
        for part in ("url", "file_id") if isinstance(source, dict) else ():
            if opening in str(source.get(part, "")):
                yield (
                    f"{path}.{index}.source.{part}",
                    f"holds {opening}, but it is sent as it is written: values of rows are filled into texts alone",
                )

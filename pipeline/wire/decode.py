"""A server's answer to a response or an error of ours; its shape is told from the body, never from the URL.

Shapes: messages-api §3.1 (native), §3.2 (OpenAI-like), §11 (which server answers how), §12 (traps).
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
from multidict import CIMultiDict, CIMultiDictProxy

from pipeline.errors import Busy
from pipeline.records import NANOS_PER_USD, Response, Terms, Usage
from pipeline.wire.asked import Asked
from pipeline.wire.failure import failure, named, understand

STOP_REASONS: Mapping[str, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""`finish_reason` in native words (§3.2); a word that is not here stays as it is."""

COST_HEADER = "x-aimlapi-usd-spent"
MAX_TOKENS = 10**12
MAX_USD = 10**6
"""Beyond these a figure is a mistake and no bill of one call."""

ANY_CASE = (CIMultiDict, CIMultiDictProxy)
BOM = b"\xef\xbb\xbf"
NOBODY = Asked()


class Unusable(Exception):
    """Why a body is no answer; the words follow "answered 200 with"."""


def decode(
    status: int,
    headers: Mapping[str, str],
    raw: bytes,
    *,
    asked: Asked = NOBODY,
    prompt: bytes = b"",
    begun: bool = False,
) -> Response:
    """Read an answer, in UTF-8 whatever its headers claim.

    Args:
        status: the HTTP status.
        headers: the answer's headers; their case does not matter.
        raw: the body, decompressed.
        asked: who was asked, for messages.
        prompt: what was asked (`Request.prompt`), so that no message repeats it.
        begun: the answer had begun to come, so the call may have been billed even if the body is an error.

    Raises:
        Refused: the server would say it again.
        Busy: worth another attempt; an unusable body under a 2xx too, and that call may have been billed.
        RunRejected: the API rejects every row alike.
    """
    if not isinstance(headers, ANY_CASE):
        headers = CIMultiDict(headers)
    raw = raw.removeprefix(BOM)
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if 200 <= status < 300:
            raise unusable(_not_json(raw, error), status, headers, asked) from error
        found = None
    if not 200 <= status < 300 or is_error(found):
        raise failure(understand(status, headers, raw, found), headers, asked, prompt, begun=begun)
    try:
        return answer(found, headers, raw, asked)
    except Unusable as why:
        raise unusable(str(why), status, headers, asked) from why


def is_error(found: Any) -> bool:
    """Whether a body under a 2xx is an error all the same (§11)."""
    if not isinstance(found, dict):
        return False
    # aimlapi's envelope has no `error`, but `message` and `statusCode` side by side.
    return bool(found.get("error")) or found.get("type") == "error" or ("statusCode" in found and "message" in found)


def answer(found: Any, headers: Mapping[str, str], raw: bytes, asked: Asked = NOBODY) -> Response:
    """Read a body that is an answer, native or OpenAI-like.

    Raises:
        Unusable: it is neither.
    """
    if not isinstance(found, dict):
        raise Unusable(f"JSON that is no object: {type(found).__name__}")
    content = found.get("content")
    if found.get("type") == "message" or isinstance(content, list):
        text, stop_reason = native(content, found)
    elif "choices" in found:
        text, stop_reason = openai_like(found["choices"])
    else:
        raise Unusable("JSON that is no answer: neither `content` nor `choices`")
    return Response(
        raw=raw,
        text=text,
        stop_reason=stop_reason,
        model=_word(found.get("model")),
        usage=usage(found.get("usage")),
        request_id=named(headers, asked),
        reported_nanos=reported_nanos(found, headers),
        terms=Terms.of(found.get("usage")),
    )


def native(content: Any, found: Mapping[str, Any]) -> tuple[str, str | None]:
    """Text and stop reason of a native answer.

    Text stands wherever its blocks stand: thinking comes first on newer models, and unknown blocks are passed over.
    """
    stop_reason = _word(found.get("stop_reason"))
    if isinstance(content, str):
        return content, stop_reason
    # `content: null` says nothing at all, unless the server says why it stopped.
    if not isinstance(content, list) and (content is not None or stop_reason is None):
        raise Unusable("a message without content")
    return joined(content or ()), stop_reason


def openai_like(choices: Any) -> tuple[str, str | None]:
    """Text and stop reason, in native words, of an OpenAI-like answer."""
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Unusable("`choices` without a message")
    reason = _word(choice.get("finish_reason"))
    reason = None if reason is None else STOP_REASONS.get(reason, reason)
    content = message.get("content")
    if not content and _word(message.get("refusal")):
        reason = "refusal"
    if isinstance(content, list):
        return joined(content), reason
    return (content if isinstance(content, str) else ""), reason


def joined(blocks: Any) -> str:
    """The join of all text blocks."""
    texts = [block.get("text") for block in blocks if isinstance(block, dict) and block.get("type") == "text"]
    return "".join([text for text in texts if isinstance(text, str)])


def usage(found: Any) -> Usage | None:
    """Tokens as we count them, or None where one of the figures is missing or no count (§3.3).

    `prompt_tokens` includes what came from the cache and what went into it; `input_tokens` does neither.
    """
    if not isinstance(found, dict):
        return None
    try:
        if "prompt_tokens" in found and "input_tokens" not in found:
            return _openai_usage(found)
        return _native_usage(found)
    except ValueError:
        return None


def _native_usage(found: Mapping[str, Any]) -> Usage:
    written = _count(found.get("cache_creation_input_tokens") or 0)
    split = found.get("cache_creation")
    split = split if isinstance(split, dict) else {}
    lasting = _count(split.get("ephemeral_1h_input_tokens") or 0)
    brief = _count(split.get("ephemeral_5m_input_tokens") or 0)
    return Usage(
        input_tokens=_count(found.get("input_tokens")),
        output_tokens=_count(found.get("output_tokens")),
        cache_write_5m_tokens=max(brief, written - lasting),
        cache_write_1h_tokens=lasting,
        cache_read_tokens=_count(found.get("cache_read_input_tokens") or 0),
    )


def _openai_usage(found: Mapping[str, Any]) -> Usage:
    details = found.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    read = _count(details.get("cached_tokens") or 0)
    written = _count(details.get("cache_write_tokens") or 0)
    return Usage(
        input_tokens=_count(_count(found["prompt_tokens"]) - read - written),
        output_tokens=_count(found.get("completion_tokens")),
        cache_write_5m_tokens=written,
        cache_read_tokens=read,
    )


def _count(value: Any) -> int:
    """A count of tokens.

    Raises:
        ValueError: it is anything else than a whole number from 0 on.
    """
    if type(value) is not int or not 0 <= value <= MAX_TOKENS:
        raise ValueError(f"no count: {value!r}")
    return value


def reported_nanos(found: Mapping[str, Any], headers: Mapping[str, str]) -> int | None:
    """What the server says the call cost, in whole nano-dollars; None where it says nothing usable (§3.1, §2)."""
    meta = found.get("meta")
    spent = meta.get("usage") if isinstance(meta, dict) else None
    said = spent.get("usd_spent") if isinstance(spent, dict) else None
    if said is None or isinstance(said, bool):
        said = headers.get(COST_HEADER)
        if said is None:
            return None
    if not isinstance(said, str | int | float):
        return None
    try:
        # By way of text, which is what the server wrote: 0.000788 and not the binary fraction next to it.
        usd = Decimal(str(said).strip())
    except InvalidOperation:
        return None
    return round(usd * NANOS_PER_USD) if usd.is_finite() and 0 <= usd <= MAX_USD else None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _not_json(raw: bytes, error: orjson.JSONDecodeError) -> str:
    if not raw.strip():
        return "an empty body"
    if raw.lstrip()[:1] == b"<":
        return "an HTML page"
    # Only the reason and the place: the document would be quoted by `doc`, and may hold anything.
    return f"{len(raw)} bytes that are not JSON: {error.msg} (byte {error.pos})"


def unusable(why: str, status: int, headers: Mapping[str, str], asked: Asked) -> Busy:
    """The error for a body under a 2xx that is no answer: worth another attempt, and this one may have been billed."""
    return Busy(
        "server_error",
        asked.clean(f"{asked.host} answered {status} with {why}"),
        http_status=status,
        request_id=named(headers, asked),
        maybe_billed=True,
    )

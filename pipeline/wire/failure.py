"""What a server's refusal means: one table from status, type and words to what ends, the attempt, the row or the run.

Sources: messages-api §5.1 (Anthropic), §5.2 (aimlapi), §5.3 (what the SDKs obey), §11 (local servers).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any, Literal

import orjson

from pipeline.errors import Busy, ErrorType, PipelineError, Refused, RunRejected
from pipeline.wire.asked import MAX_ID_CHARS, MAX_MESSAGE_CHARS, Asked, one_line


@dataclass(frozen=True, slots=True)
class Said:
    """What a server said when it refused.

    Attributes:
        status: the HTTP status that it amounts to, which may stand in the body of a 200.
        name: the error's `type`, in whatever words the server's dialect has.
        code: its finer code, where there is one.
        text: its message.
        request_id: the server's name of the call.
        in_json: the body was an error in JSON, so the API itself spoke and not a gateway before it.
    """

    status: int
    name: str = ""
    code: str = ""
    text: str = ""
    request_id: str | None = None
    in_json: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: which refusals it is about, and what they end.

    A refusal matches by one of `statuses` or of `names` (its type or code), any where both are empty, and by
    `words`, a pattern searched in its message, where given.

    Attributes:
        advice: for what ends the run, what the person can do; `{key}` and `{model}` are filled in.
        shared: everybody slows down, not this row alone.
    """

    ends: Literal["attempt", "row", "run"]
    error_type: ErrorType = "bad_request"
    statuses: frozenset[int] = frozenset()
    names: frozenset[str] = frozenset()
    words: re.Pattern[str] | None = None
    advice: str = ""
    shared: bool = False

    def matches(self, said: Said) -> bool:
        """Whether the refusal is one of these."""
        if (self.statuses or self.names) and not (
            said.status in self.statuses or said.name in self.names or said.code in self.names
        ):
            return False
        return self.words is None or self.words.search(said.text) is not None


def of(*statuses: int | range) -> frozenset[int]:
    """A set of statuses, some of them given as ranges."""
    return frozenset(s for given in statuses for s in ((given,) if isinstance(given, int) else given))


# The API's own sentences are anchored at their beginning: a message that quotes a row must not stop the run.
NO_CREDIT = re.compile(
    r"^(your credit balance is too low|you have reached your specified (workspace )?api usage limits"
    r"|you(['\u2019]ve| have) run out of credits|you exceeded your current quota)",
    re.IGNORECASE,
)
TOO_LONG = re.compile(
    r"(prompt|input|request) is too (long|large)|context (length|window|size|limit)",
    re.IGNORECASE,
)
IMAGE_TOO_LARGE = re.compile(r"image (exceeds|dimensions exceed)|dimensions exceed max", re.IGNORECASE)
IMAGE_CORRUPT = re.compile(r"could not process image", re.IGNORECASE)

CREDIT = "add credit or raise the spend limit where the key in {key} comes from, then run again"
MODEL = "check request.model ('{model}') and endpoint.url; asked was {url}"
NOT_THERE = (
    "asked was {url}; endpoint.url is what stands before /messages, such as {like}; or check request.model ('{model}')"
)
ABOUT_MODEL = re.compile(r"\bmodels?\b", re.IGNORECASE)
OTHER_PATHS = frozenset(
    {"chat", "completions", "complete", "responses", "embeddings", "generate", "models", "messages"}
)
"""Ends of paths that belong to other APIs: what stands before them is where /messages is, if anywhere."""

TLS_WANTED = re.compile(
    r"^(an HTML page: )?(\d+ )?(the plain http request was sent to https port|client sent an http request to an https)",
    re.IGNORECASE,
)
"""What nginx and servers written in Go answer, with 400, to http on their https port."""
TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)

RULES: tuple[Rule, ...] = (
    # What rejects every row alike ends the run, before anything that a status alone would say.
    Rule("run", names=frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"}), advice=CREDIT),
    Rule("run", names=frozenset({"insufficient_quota", "billing_hard_limit_reached"}), advice=CREDIT),
    Rule("run", statuses=of(range(400, 430)), words=NO_CREDIT, advice=CREDIT),
    Rule("run", names=frozenset({"model_not_found"}), advice=MODEL),
    Rule("run", statuses=of(401), advice="check the key in {key} and endpoint.auth"),
    Rule("run", statuses=of(402), advice=CREDIT),
    Rule("run", statuses=of(403), advice="check the credit and the rights of the key in {key} for the model '{model}'"),
    Rule("run", statuses=of(404), words=ABOUT_MODEL, advice=MODEL),
    Rule("run", statuses=of(404, 405, 410), advice=NOT_THERE),
    Rule("run", statuses=of(400), words=TLS_WANTED, advice="the server speaks TLS; write https:// in endpoint.url"),
    Rule("run", statuses=of(407), advice="check the proxy in HTTPS_PROXY"),
    Rule(
        "run",
        statuses=of(range(300, 400)),
        advice="redirects are not followed, so that the key does not travel; set endpoint.url to the final address",
    ),
    # What another attempt of the same row would hear again ends the row.
    Rule("row", "too_long", names=frozenset({"exceed_context_size_error", "context_length_exceeded"})),
    Rule("row", "image_too_large", names=frozenset({"image_dimensions_too_large"})),
    Rule("row", "image_too_large", statuses=of(400, 413, 422), words=IMAGE_TOO_LARGE),
    Rule("row", "image_corrupt", statuses=of(400, 422), words=IMAGE_CORRUPT),
    Rule("row", "too_long", statuses=of(400, 422), words=TOO_LONG),
    Rule("row", "too_long", statuses=of(413)),
    # The rest is worth another attempt.
    Rule("attempt", "rate_limit", statuses=of(429), names=frozenset({"rate_limit_error"}), shared=True),
    Rule("attempt", "overloaded", statuses=of(529), names=frozenset({"overloaded_error"}), shared=True),
    Rule("attempt", "timeout", statuses=of(408, 504, 524)),
    Rule("attempt", "server_error", statuses=of(409, 425)),
    Rule("row", "bad_request", statuses=of(range(400, 500), 501)),
    Rule("attempt", "server_error"),
)

STATUS_OF_TYPE: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""What an error in the body of a 200 would have been (messages-api §5.1)."""

LEAST_TEXT = 20
"""Of the server's own words at least so many characters are kept beside long advice."""
VERSION = re.compile(r"v\d+\w*")
OF_THE_KEY = of(401, 402, 403)
GATEWAY_TIMEOUTS = of(504, 524)
UPSTREAM = re.compile(r"^\s*([45]\d\d)\s+(\{.*\})\s*$", re.DOTALL)


def understand(status: int, headers: Mapping[str, str], raw: bytes, found: Any) -> Said:
    """Read a refusal in any dialect.

    Args:
        status: the HTTP status.
        headers: the answer's headers, in lower case or a case-insensitive mapping.
        raw: the body as received.
        found: the body as parsed; None where it is not JSON.
    """
    said = in_envelope(status, found) if isinstance(found, dict) else None
    if 300 <= status < 400:
        # Without the query, where such addresses carry what is secret.
        said = Said(status, text="redirect to " + headers.get("location", "nowhere").partition("?")[0])
    if said is None:
        text = raw[: 4 * MAX_MESSAGE_CHARS].decode("utf-8", "replace").strip()
        said = Said(status, text=_page(text) if text[:1] == "<" else text)
    return replace(said, request_id=request_id(headers) or said.request_id)


def in_envelope(status: int, found: Mapping[str, Any]) -> Said:
    """Read an error object: Anthropic's, llama.cpp's and OpenAI's `error`, or aimlapi's top-level message."""
    inner = found.get("error")
    if isinstance(inner, dict):
        error: Mapping[str, Any] = inner
    elif isinstance(inner, str) and inner:
        error = {"message": inner}
    else:
        error = found
    details = error.get("details")
    name = _text(error.get("type"))
    numbers = (_status(found.get("statusCode")), _status(error.get("code")), STATUS_OF_TYPE.get(name))
    actual = status if status >= 300 else next((n for n in numbers if n), 500)
    said = Said(
        status=actual,
        name=name,
        code=(_text(details.get("error_code")) if isinstance(details, dict) else "") or _text(error.get("code")),
        text=_text(error.get("message")) or _text(found.get("message")) or _text(found.get("detail")),
        request_id=_id(found.get("request_id")) or _id(found.get("requestId")),
        in_json=True,
    )
    return from_upstream(said)


def from_upstream(said: Said) -> Said:
    """A reseller's error that quotes the provider's (``400 {"type":"error",…}``, §5.2) means what the provider said.

    Except that the reseller's own trouble with its key, under a 5xx, is not ours: it stays worth another attempt.
    """
    quoted = UPSTREAM.match(said.text)
    if quoted is None:
        return said
    try:
        found = orjson.loads(quoted[2])
    except orjson.JSONDecodeError:
        return said
    status = int(quoted[1])
    if not isinstance(found, dict) or (status in OF_THE_KEY and said.status >= 500):
        return said
    inner = in_envelope(status, found)
    return replace(inner, request_id=said.request_id or inner.request_id)


def failure(
    said: Said,
    headers: Mapping[str, str],
    asked: Asked,
    prompt: bytes = b"",
    now: datetime | None = None,
    *,
    begun: bool = False,
) -> PipelineError:
    """The error of ours that a refusal amounts to, by the first rule that matches.

    `x-should-retry` overrules the table in both directions (§5.3), but never turns what rejects every row alike into
    retries. "Do not retry" on a refusal that everybody shares (429, 529) can only be about the account, so it ends
    the run rather than every row, one after the other.

    `begun`: a part of the answer had come before the refusal, so the call may have been billed.
    """
    rule = next(rule for rule in RULES if rule.matches(said))
    wait_secs = named_wait(headers, now)
    retry = headers.get("x-should-retry", "").strip().lower()
    ends, error_type = rule.ends, rule.error_type
    if ends == "attempt" and retry == "false":
        ends = "run" if rule.shared else "row"
    elif ends == "row" and retry == "true":
        ends, error_type = "attempt", "server_error"

    kind = f" ({asked.clean(said.name, prompt, 60)})" if said.name else ""
    start = one_line(f"{asked.host} answered {said.status}{kind}", 130)
    advice = rule.advice or (
        f"it says not to try again{f' before {wait_secs:g} s' if wait_secs else ''}" if ends == "run" else ""
    )
    url = asked.clean(asked.url) or "not known"
    told = advice.format(key=asked.key_name, model=asked.model, url=url, like=base_of(url))
    advice = one_line(told, 150 if "{url}" not in advice else MAX_MESSAGE_CHARS - len(start) - LEAST_TEXT - 4)
    room = MAX_MESSAGE_CHARS - len(start) - len(advice) - 4
    text = asked.clean(said.text, prompt, max(room, LEAST_TEXT))
    message = start + (f": {text}" if text else "") + (f"; {advice}" if advice else "")
    request_id = None if said.request_id is None else asked.clean(said.request_id, max_chars=MAX_ID_CHARS)
    if ends == "run":
        return RunRejected(message, http_status=said.status, request_id=request_id)
    if ends == "row":
        return Refused(error_type, message, http_status=said.status, request_id=request_id, maybe_billed=begun)
    return Busy(
        error_type,
        message,
        http_status=said.status,
        request_id=request_id,
        # A gateway that gave up waiting does not know what became of the call.
        maybe_billed=begun or (said.status in GATEWAY_TIMEOUTS and not said.in_json),
        wait_secs=wait_secs,
        shared=rule.shared,
    )


def base_of(url: str) -> str:
    """What `endpoint.url` would likely be for the server of this URL: nothing of another API's path in it.

    ``http://h/v1/chat/completions/messages`` gives ``http://h/v1``, ``http://h/api/messages`` ``http://h/api/v1``.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        return "https://api.anthropic.com/v1"
    parts = rest.rstrip("/").split("/")
    while len(parts) > 1 and parts[-1] in OTHER_PATHS:
        parts.pop()
    if VERSION.fullmatch(parts[-1]) is None:
        parts.append("v1")
    return f"{scheme}://{'/'.join(parts)}"


def named_wait(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the server asked to wait: `retry-after-ms`, or `retry-after` as seconds or as an HTTP date; no cap.

    A date is taken against the server's own `date`, so that a wrong clock here does not shorten the wait; else
    against `now`.
    """
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            secs = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if math.isfinite(secs) and secs >= 0:
            return secs
    until = _date(headers.get("retry-after", ""))
    if until is None:
        return None
    return max(0.0, (until - (_date(headers.get("date", "")) or now or datetime.now(UTC))).total_seconds())


def named(headers: Mapping[str, str], asked: Asked) -> str | None:
    """The server's name of the call, as people may see it."""
    found = request_id(headers)
    return None if found is None else asked.clean(found, max_chars=MAX_ID_CHARS)


def request_id(headers: Mapping[str, str]) -> str | None:
    """The server's name of the call, where a header gives it (§2)."""
    for name in ("request-id", "x-request-id", "x-inference-id"):
        if (found := _id(headers.get(name))) is not None:
            return found
    return None


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _page(text: str) -> str:
    """A page for a browser by its title: the rest of it says nothing that a line could hold."""
    title = TITLE.search(text)
    words = "" if title is None else unescape(title[1]).strip()
    return f"an HTML page: {words}" if words else "an HTML page"


def _status(value: Any) -> int | None:
    """A status of 4xx or 5xx, written as a number or as text."""
    if isinstance(value, str) and len(value) == 3 and value.isascii() and value.isdigit():
        value = int(value)
    return value if isinstance(value, int) and 400 <= value <= 599 else None


def _text(value: Any) -> str:
    """A value as words: text as it is, lists and objects (FastAPI's `detail`) as JSON, nothing for the rest."""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode() if isinstance(value, list | dict) and value else ""
    except TypeError:
        return ""  # nested more deeply than can be written, though it could be read


def _id(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    return one_line(value, MAX_ID_CHARS) or None

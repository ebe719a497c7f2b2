"""Which requests of a rehearsal go wrong, and how: decided by arithmetic, so that a seed replays it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate

from pipeline.serve.refusals import REFUSALS

CONNECTION: Mapping[str, str] = {
    "reset": "the connection is reset without an answer, or in the middle of a stream",
    "reset-body": "the connection is reset after the headers and a part of the body",
    "stall": "the request is read and never answered, or its stream stops in the middle",
    "stall-body": "the headers and a part of the body come, and then nothing",
    "html": "status 200 with a page of HTML",
    "cut": "status 200 with JSON that breaks off in the middle, or a stream that ends before its last word",
    "no-stop": "a stream without its last word; cut JSON where no stream was asked for",
    "error-event": "an error after the first delta of a stream; 529 where no stream was asked for",
    "pings": "a ping or comment between all events of a stream; nothing where no stream was asked for",
    "error-200": "status 200 with the body of an error",
}
INVALID: Mapping[str, str] = {
    "invalid": "the first answer breaks the schema that it should fit; when it is sent back, a right one comes",
    "invalid-missing": "likewise, by a missing property",
    "invalid-type": "likewise, by a wrong type",
    "invalid-prose": "likewise, by words without JSON",
    "invalid-cut": "likewise, by a code fence that is cut off",
    "invalid-always": "no answer ever fits",
}
LASTING: Mapping[str, str] = {
    **INVALID,
    "invalid-fenced": "the JSON is right, but stands in a code fence with words around",
    "pause_turn": "the answer pauses at a tool of the server's; sent back, it is ended",
    "refusal": "the model refuses: no content",
    "max_tokens": "half of the text, stopped by max_tokens",
    "thinking-only": "all of max_tokens is spent on thinking",
}
"""Faults of the answer itself: they are decided by the conversation alone, however often it is sent."""

OF_ANSWERS = frozenset({*LASTING, "empty"})

NAMED_KINDS: Mapping[str, str] = {
    **CONNECTION,
    "empty": "status 200 with an answer without content",
    **{name: refusal.says for name, refusal in REFUSALS.items()},
    **LASTING,
}
"""Faults that are no HTTP status, and what the client sees."""

OK = "ok"
"""In a script: answered as if there were no faults."""

_FORM = "NAME=RATE, where NAME is a status from 400 to 599 or one of " + ", ".join(NAMED_KINDS)


@dataclass(frozen=True, slots=True)
class Fault:
    """A share of the requests that goes wrong in one way.

    Attributes:
        kind: an HTTP status as text, such as ``529``, or one of `NAMED_KINDS`.
        rate: the share of requests, 0 to 1.
    """

    kind: str
    rate: float


@dataclass(frozen=True, slots=True)
class FaultWhen:
    """What befalls each request whose prompt contains `text`, by how often it was sent.

    Attributes:
        text: is looked for in every text of the prompt.
        kind: one kind, each time; or several with commas between: for the first time, the second and so on, the last
            one for every further time. ``ok`` stands for an answer.
    """

    text: str
    kind: str

    def at(self, nth: int) -> str | None:
        """Say what befalls such a request the `nth` time, counted from 1: a kind, or None for an answer."""
        kinds = self.kinds
        kind = kinds[min(nth, len(kinds)) - 1]
        return None if kind == OK else kind

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds in their order."""
        return self.kind.split(",")


def parse_fault(text: str) -> Fault:
    """Read ``529=0.02`` or ``reset=0.01``.

    Raises:
        ValueError: the text has another form, or the rate is not a number from 0 to 1.
    """
    kind, equals, rate_text = text.partition("=")
    if not equals:
        raise ValueError(f"fault {text!r} has no '=': expected {_FORM}")
    try:
        rate = float(rate_text)
    except ValueError as error:
        raise ValueError(f"fault {text!r}: the rate {rate_text!r} is not a number from 0 to 1") from error
    if not 0 <= rate <= 1:
        raise ValueError(f"fault {text!r}: the rate {rate_text} is not from 0 to 1")
    return Fault(_kind(kind.strip(), text), rate)


def parse_fault_when(text: str) -> FaultWhen:
    """Read ``poison row=400`` or ``row-17=529,529,ok``: what stands before the last ``=`` is looked for in the prompt.

    Raises:
        ValueError: the text has another form, or looks for nothing.
    """
    looked_for, equals, kinds = text.rpartition("=")
    if not equals or not looked_for:
        raise ValueError(f"fault {text!r}: expected TEXT=NAME, where TEXT is found in the prompt")
    words = [word.strip() for word in kinds.split(",")]
    return FaultWhen(looked_for, ",".join(word if word == OK else _kind(word, text) for word in words))


def _kind(kind: str, text: str) -> str:
    if kind in NAMED_KINDS or (kind.isascii() and kind.isdigit() and 400 <= int(kind) <= 599):
        return kind
    raise ValueError(f"fault {text!r}: {kind!r} is unknown, expected {_FORM}")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt, or the beginning of one that an earlier answer replied to: its hash and its texts."""

    digest: bytes
    texts: Sequence[str]


class FaultPlan:
    """The faults of one rehearsal.

    Raises:
        ValueError: the rates add up to more than 1.
    """

    def __init__(self, faults: Iterable[Fault], whens: Iterable[FaultWhen], seed: int) -> None:
        faults = tuple(faults)
        if (total := sum(fault.rate for fault in faults)) > 1 + 1e-9:
            raise ValueError(f"the rates of all faults add up to {total:g}, more than 1")
        self._whens = tuple(whens)
        self._passing = _edges(fault for fault in faults if fault.kind not in LASTING)
        self._lasting = _edges(fault for fault in faults if fault.kind in LASTING)
        self._key = blake2b(str(seed).encode()).digest()

    @property
    def draws(self) -> bool:
        """Whether `draw` can ever give a fault."""
        return bool(self._passing)

    @property
    def lasts(self) -> bool:
        """Whether `lasting` can ever give a fault."""
        return bool(self._lasting) or any(kind in LASTING for when in self._whens for kind in when.kinds)

    def script(self, texts: Iterable[str]) -> FaultWhen | None:
        """Find the first script that is for a prompt of these texts."""
        if self._whens:
            texts = tuple(texts)
            for when in self._whens:
                if any(when.text in text for text in texts):
                    return when
        return None

    def draw(self, digest: bytes, nth: int) -> str | None:
        """Say what befalls the request of this digest when it arrives for the `nth` time: a kind, or None.

        Each arrival draws anew, so a request that failed can pass when it is sent again.
        """
        return _at(self._passing, self._point(digest + nth.to_bytes(8, "big")))

    def lasting(self, now: Conversation, before: Iterable[Conversation], scripted: str | None) -> str | None:
        """Say what befalls the answer to a conversation, however often it is sent: one of `LASTING`, or None.

        Args:
            now: the whole of it.
            before: what each of its earlier answers replied to. Where one of these was answered invalidly, this
                conversation repairs it, and is answered rightly.
            scripted: what a script says of it; None without one.
        """
        kind = scripted or _at(self._lasting, self._point(now.digest))
        earlier = {
            kind
            for conversation in before
            for kind in (_at(self._lasting, self._point(conversation.digest)), *self._scripted(conversation))
        }
        if "invalid-always" in earlier:
            return "invalid-always"
        if kind in INVALID and kind != "invalid-always" and earlier & INVALID.keys():
            return None
        return kind

    def _scripted(self, conversation: Conversation) -> Sequence[str]:
        when = self.script(conversation.texts)
        return () if when is None else when.kinds

    def _point(self, drawn_for: bytes) -> float:
        drawn = blake2b(drawn_for, digest_size=8, key=self._key).digest()
        return int.from_bytes(drawn, "big") / 2**64


def _edges(faults: Iterable[Fault]) -> tuple[tuple[str, float], ...]:
    faults = tuple(faults)
    return tuple(zip((f.kind for f in faults), accumulate(f.rate for f in faults), strict=True))


def _at(edges: Sequence[tuple[str, float]], point: float) -> str | None:
    return next((kind for kind, edge in edges if point < edge), None)

"""Which requests of a rehearsal go wrong, and how: decided by arithmetic, so that a seed replays it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import accumulate

NAMED_KINDS = {
    "reset": "the connection is reset without an answer, or in the middle of a stream",
    "stall": "the request is read and never answered, or its stream stops in the middle",
    "html": "status 200 with a page of HTML",
    "cut": "status 200 with JSON that breaks off in the middle, or a stream that ends before its last word",
    "empty": "status 200 with an answer without content",
    "error-event": "an error after the first delta of a stream; 529 where no stream was asked for",
}
"""Faults that are no HTTP status, and what the client sees."""

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
    """Every request whose prompt contains `text` goes wrong in this way, each time it is sent."""

    text: str
    kind: str


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
    """Read ``poison row=400``: what stands before the last ``=`` is looked for in the prompt.

    Raises:
        ValueError: the text has another form, or looks for nothing.
    """
    looked_for, equals, kind = text.rpartition("=")
    if not equals or not looked_for:
        raise ValueError(f"fault {text!r}: expected TEXT=NAME, where TEXT is found in the prompt")
    return FaultWhen(looked_for, _kind(kind.strip(), text))


def _kind(kind: str, text: str) -> str:
    if kind in NAMED_KINDS or (kind.isascii() and kind.isdigit() and 400 <= int(kind) <= 599):
        return kind
    raise ValueError(f"fault {text!r}: {kind!r} is unknown, expected {_FORM}")


class FaultPlan:
    """The faults of one rehearsal.

    Raises:
        ValueError: the rates add up to more than 1.
    """

    def __init__(self, faults: Iterable[Fault], whens: Iterable[FaultWhen], seed: int) -> None:
        faults = tuple(faults)
        self._whens = tuple(whens)
        self._kinds = tuple(fault.kind for fault in faults)
        self._edges = tuple(accumulate(fault.rate for fault in faults))
        if self._edges and self._edges[-1] > 1 + 1e-9:
            raise ValueError(f"the rates of all faults add up to {self._edges[-1]:g}, more than 1")
        self._seed = str(seed).encode()

    @property
    def draws(self) -> bool:
        """Whether `draw` can ever give a fault."""
        return bool(self._kinds)

    def always(self, texts: Iterable[str]) -> str | None:
        """Say what befalls a prompt of these texts each time it is sent: a kind, or None."""
        if self._whens:
            texts = tuple(texts)
            for when in self._whens:
                if any(when.text in text for text in texts):
                    return when.kind
        return None

    def draw(self, digest: bytes, nth: int) -> str | None:
        """Say what befalls the request of this digest when it arrives for the `nth` time: a kind, or None.

        Each arrival draws anew, so a request that failed can pass when it is sent again.
        """
        drawn = blake2b(digest + nth.to_bytes(8, "big"), digest_size=8, key=blake2b(self._seed).digest()).digest()
        point = int.from_bytes(drawn, "big") / 2**64
        for kind, edge in zip(self._kinds, self._edges, strict=True):
            if point < edge:
                return kind
        return None

"""The budget: what is spent and what is promised, held against caps before a call and settled by its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

CapName = Literal["run_usd", "month_usd"]


@dataclass(slots=True)
class Cap:
    """A sum of money that is not to be passed.

    Attributes:
        name: the key of the job file that sets it.
        nanos: the sum, in nano-dollars.
        spent: of it, what is paid, or may have been paid by calls that ended without an answer.
    """

    name: CapName
    nanos: int
    spent: int = 0


class Budget:
    """Caps, and the worst case of the calls that are under way, which counts as spent until they are settled.

    As long as no call costs more than was reserved for it, what is paid never passes a cap, however many calls are
    under way. One that did cost more raises what is reserved for later ones in the same proportion.
    """

    def __init__(self, caps: Sequence[Cap] = ()) -> None:
        self.caps = tuple(caps)
        self.reserved = 0
        self._under_way = 0
        self._scale = 1.0

    @property
    def idle(self) -> bool:
        """Whether nothing is reserved, so that no answer can make room."""
        return self._under_way == 0

    def scaled(self, nanos: int) -> int:
        """What is to be reserved for a call that the price list puts at so much, at worst."""
        return nanos if self._scale == 1.0 else int(nanos * self._scale) + 1

    def reserve(self, nanos: int) -> Cap | None:
        """Reserve so much; the cap that stands against it, or None where it is reserved."""
        for cap in self.caps:
            if cap.spent + self.reserved + nanos > cap.nanos:
                return cap
        self.reserved += nanos
        self._under_way += 1
        return None

    def more(self, nanos: int) -> Cap | None:
        """Reserve so much beside what is reserved for a call already: it is made again, and may be paid twice."""
        cap = self.reserve(nanos)
        if cap is None:
            self._under_way -= 1
        return cap

    def settle(self, reserved: int, spent: int) -> None:
        """A call is over: what was reserved for it goes, what it cost, or may have cost, stays."""
        self.reserved -= reserved
        self._under_way -= 1
        for cap in self.caps:
            cap.spent += spent

    def learn(self, worst: int, cost: int) -> None:
        """An answer cost so much, where at worst so much was expected of it by the price list."""
        if worst and cost > worst * self._scale:
            self._scale = cost / worst


def _no_pictures(_: bytes) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class WorstCase:
    """What a call may cost at most.

    Attributes:
        price: nano-dollars for so many input and output tokens, cache writes included; None where no price is known.
        output_tokens: `max_tokens`.
        envelope_bytes: of what every request sends beside its prompt.
        tokens_per_byte: of text, at most: digits and rare scripts come to about a token in two bytes.
        picture_tokens: of the pictures that a prompt refers to.
    """

    price: Callable[[int, int], int | None]
    output_tokens: int = 0
    envelope_bytes: int = 0
    tokens_per_byte: float = 0.5
    picture_tokens: Callable[[bytes], int] = _no_pictures

    def nanos(self, prompt: bytes) -> int:
        """Of a request with this prompt; 0 where no price is known."""
        text = int((len(prompt) + self.envelope_bytes) * self.tokens_per_byte)
        tokens = text + self.picture_tokens(prompt) + OVERHEAD_TOKENS
        return self.price(tokens, self.output_tokens) or 0


OVERHEAD_TOKENS = 20
"""Of the roles and marks around texts. Tools add a hidden system prompt, which `envelope_bytes` of theirs cover."""

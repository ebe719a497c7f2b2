"""How long to wait before another attempt, as arithmetic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double, each drawn anew from nothing up to its ceiling, so that those who failed together part.

    Attributes:
        base_secs: the first wait's ceiling.
        cap_secs: no ceiling is above this.
    """

    base_secs: float = 0.5
    cap_secs: float = 60.0

    def wait_secs(self, attempt: int, named: float | None, spread: float) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            attempt: how many have failed in a row, from 1.
            named: the seconds the server asked for; never shortened, and never capped.
            spread: a random number from 0 to 1.
        """
        # Beyond 2^63 the ceiling is the cap whatever the base, and a float would overflow.
        ceiling = min(self.cap_secs, self.base_secs * 2.0 ** min(max(attempt, 1) - 1, 63))
        return max(named or 0.0, spread * ceiling)

"""A text that matches a regular expression; None where the expression holds more than is read here."""

from __future__ import annotations

import re
from random import Random

_DIGITS, _LETTERS = "0123456789", "abcdefghijklmnopqrstuvwxyz"
_CLASSES = {"d": _DIGITS, "w": _LETTERS + _DIGITS + "_", "s": " ", "D": _LETTERS, "W": "-", "S": _LETTERS}
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
_MORE = 3
"""How much longer than it must be a repetition without an upper bound may come out."""
_REPEAT = re.compile(r"\{(\d+)(,?)(\d*)\}")


class _UnreadError(Exception):
    """The expression holds what is not read here."""


def text_for(pattern: str, chance: Random) -> str | None:
    """Draw a text that the pattern should be found in: whoever needs to be sure looks for it there."""
    reader = _Reader(pattern, chance)
    try:
        text = reader.alternatives()
    except (_UnreadError, IndexError, RecursionError):
        return None
    return text if reader.at == len(pattern) else None


class _Reader:
    """Reads an expression from left to right and writes a text that it matches."""

    def __init__(self, pattern: str, chance: Random) -> None:
        self._pattern = pattern
        self._chance = chance
        self.at = 0

    def alternatives(self) -> str:
        made = [self._sequence()]
        while self._next("|"):
            made.append(self._sequence())
        return self._chance.choice(made)

    def _sequence(self) -> str:
        made = ""
        while self.at < len(self._pattern) and self._pattern[self.at] not in "|)":
            begun = self.at
            piece = self._atom()
            low, high = self._times()
            end = self.at
            count = self._chance.randint(low, high)
            made += piece if count else ""
            for _ in range(count - 1):
                self.at = begun
                made += self._atom()
            self.at = end
        return made

    def _next(self, word: str) -> bool:
        found = self._pattern.startswith(word, self.at)
        self.at += len(word) * found
        return found

    def _atom(self) -> str:
        sign = self._pattern[self.at]
        self.at += 1
        if sign in "^$":
            return ""
        if sign == ".":
            return self._chance.choice(_LETTERS)
        if sign == "[":
            return self._chance.choice(self._set())
        if sign == "\\":
            return self._chance.choice(self._escape())
        if sign == "(":
            if self._next("?") and not self._next(":"):
                raise _UnreadError
            made = self.alternatives()
            if not self._next(")"):
                raise _UnreadError
            return made
        if sign in "*+?{":
            raise _UnreadError
        return sign

    def _escape(self) -> str:
        sign = self._pattern[self.at]
        self.at += 1
        if sign in _CLASSES:
            return _CLASSES[sign]
        if sign in _ESCAPED:
            return _ESCAPED[sign]
        if sign.isalnum():
            raise _UnreadError
        return sign

    def _set(self) -> str:
        negated = self._next("^")
        found = ""
        while not self._next("]"):
            sign = self._pattern[self.at]
            self.at += 1
            if sign == "\\":
                found += self._escape()
            elif self._pattern[self.at] == "-" and self._pattern[self.at + 1] != "]":
                last = self._pattern[self.at + 1]
                self.at += 2
                found += "".join(map(chr, range(ord(sign), min(ord(last), ord(sign) + 128) + 1)))
            else:
                found += sign
        if negated:
            found = "".join(sign for sign in _LETTERS + _DIGITS + "-_ " if sign not in found)
        if not found:
            raise _UnreadError
        return found

    def _times(self) -> tuple[int, int]:
        if self._next("*"):
            times = 0, _MORE
        elif self._next("+"):
            times = 1, 1 + _MORE
        elif self._next("?"):
            times = 0, 1
        elif found := _REPEAT.match(self._pattern, self.at):
            self.at = found.end()
            low = int(found[1])
            times = low, max(low, int(found[3])) if found[3] else low + _MORE if found[2] else low
        else:
            return 1, 1
        self._next("?")  # a lazy repetition matches the same
        return min(times[0], 1000), min(times[1], 1000)

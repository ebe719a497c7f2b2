"""Stored responses: zstd by a dictionary that the journal holds, beside a checksum of what went in."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from functools import cache
from importlib import resources

import zstandard

LEVEL = 1
MAGIC = bytes.fromhex("37a430ec")
"""How a dictionary begins (RFC 8878, section 5)."""
DAMAGE = (zstandard.ZstdError, ValueError, TypeError, MemoryError)
"""What decompressing damaged bytes raises: the size that they claim to have may be any."""


def checksum(body: bytes) -> bytes:
    """Eight bytes that change when a stored response is damaged."""
    return hashlib.blake2b(body, digest_size=8).digest()


@cache
def dictionary() -> bytes:
    """What new responses are compressed by; `benchmarks/dictionary.py` trained it."""
    return resources.files(__package__).joinpath("response.zdict").read_bytes()


def dictionary_id(words: bytes) -> int:
    """The number by which a compressed response names its dictionary (RFC 8878, section 5)."""
    return int.from_bytes(words[4:8], "little")


def keep_dictionary(connection: sqlite3.Connection) -> None:
    """See that the journal holds the dictionary of new responses, whole, so that other programs can read them too."""
    words = dictionary()
    known = connection.execute("SELECT words FROM dictionary WHERE id = ?", (dictionary_id(words),)).fetchone()
    if known != (words,):
        connection.execute("INSERT OR REPLACE INTO dictionary (id, words) VALUES (?, ?)", (dictionary_id(words), words))


def damaged_dictionaries(connection: sqlite3.Connection) -> list[int]:
    """The numbers of those that are not what they were, as far as that shows: a foreign one by its head alone."""
    own = dictionary()
    return [
        number
        for number, words in connection.execute("SELECT id, words FROM dictionary ORDER BY id")
        if (words != own if number == dictionary_id(own) else not _is_dictionary(words, number))
    ]


def _is_dictionary(words: object, number: int) -> bool:
    return isinstance(words, bytes) and words.startswith(MAGIC) and dictionary_id(words) == number


class Bodies:
    """Packs responses, and unpacks those of any time.

    Args:
        stored: the dictionaries that the journal holds, by number; of earlier or later programs, beside this one's.
    """

    def __init__(self, stored: Mapping[int, bytes]) -> None:
        usual = zstandard.ZstdCompressionDict(dictionary())
        self._stored = {number: words for number, words in stored.items() if number != usual.dict_id()}
        self._compress = zstandard.ZstdCompressor(level=LEVEL, dict_data=usual).compress
        self._decompress = zstandard.ZstdDecompressor(dict_data=usual).decompress

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> Bodies:
        """With the dictionaries of this journal."""
        return cls(dict(connection.execute("SELECT id, words FROM dictionary")))

    def pack(self, body: bytes) -> tuple[bytes, bytes]:
        """The response as it is stored, and its checksum."""
        return self._compress(body), checksum(body)

    def unpack(self, packed: bytes, stored: bytes | None) -> bytes | None:
        """The response that was stored, or None where it is damaged."""
        try:
            body: bytes = self._decompress(packed)
        except DAMAGE:
            return self._by_another(packed, stored)
        return body if checksum(body) == stored else self._by_another(packed, stored)

    def _by_another(self, packed: bytes, stored: bytes | None) -> bytes | None:
        """Unpack what was packed by another dictionary, or by none."""
        try:
            number = zstandard.get_frame_parameters(packed).dict_id
            words = self._stored.get(number)
            known = zstandard.ZstdCompressionDict(words) if words else None
            body: bytes = zstandard.ZstdDecompressor(dict_data=known).decompress(packed)
        except DAMAGE:
            return None
        return body if checksum(body) == stored else None

"""References: what stands in a planned prompt where a picture goes, and how they are found again.

A reference holds the hash of the picture's bytes and how it is to be prepared, and never where it lies: the request key
hashes the prompt as planned, and a picture that was renamed or copied is still the same. Its JSON spelling is fixed; it
cannot be found inside of a string, where every quote has a backslash before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

RECIPE = 1
"""Changes when prepared pictures come to look otherwise, so that other answers are to be expected."""

Kind = Literal["image", "document"]

_REFERENCE = re.compile(
    rb'\{"type":"(image|document)","source":\{"type":"picture","digest":"([0-9a-f]{32})","prepared":"([0-9a-z,:-]*)"\}\}'
)


@dataclass(frozen=True, slots=True)
class Settings:
    """`prompt.image`, as far as it shapes what is sent.

    Attributes:
        max_side: pixels of the longer side; None for the model's own limit.
        format: `jpeg`, `png` or `webp` for every picture; None to keep what the API takes.
        quality: 1 to 100, of JPEG and WebP; None for the program's own choice.
    """

    max_side: int | None = None
    format: str | None = None
    quality: int | None = None

    @property
    def word(self) -> str:
        """All of it as it stands in a reference."""
        parts = [str(RECIPE)]
        parts += [f"side:{self.max_side}"] if self.max_side is not None else []
        parts += [self.format] if self.format is not None else []
        parts += [f"q:{self.quality}"] if self.quality is not None else []
        return ",".join(parts)


@dataclass(frozen=True, slots=True)
class Reference:
    """One picture in a planned prompt, at bytes `start` to `end`."""

    kind: Kind
    digest: bytes
    start: int
    end: int


def digest_of(content: bytes) -> bytes:
    """Name a picture by its bytes: 16 bytes."""
    return blake2b(content, digest_size=16, person=b"pipeline image").digest()


def written(kind: Kind, digest: bytes, settings: Settings) -> bytes:
    """Write a block that refers to a picture."""
    prepared = settings.word if kind == "image" else str(RECIPE)
    return b'{"type":"%b","source":{"type":"picture","digest":"%b","prepared":"%b"}}' % (
        kind.encode(),
        digest.hex().encode(),
        prepared.encode(),
    )


def references(prompt: bytes) -> list[Reference]:
    """Find the references of a prompt, in order."""
    if b'"picture"' not in prompt:
        return []
    return [
        Reference(
            "image" if found[1] == b"image" else "document",
            bytes.fromhex(found[2].decode()),
            found.start(),
            found.end(),
        )
        for found in _REFERENCE.finditer(prompt)
    ]


def replaced(prompt: bytes, found: Sequence[Reference], blocks: Sequence[bytes]) -> bytes:
    """Put blocks in the places of references."""
    parts = []
    at = 0
    for reference, block in zip(found, blocks, strict=True):
        parts += [prompt[at : reference.start], block]
        at = reference.end
    return b"".join([*parts, prompt[at:]])

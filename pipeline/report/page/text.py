"""Text of others on a page: what a terminal or a browser would obey is shown instead, and long text is cut."""

from __future__ import annotations

_KEPT = frozenset("\n\t")


def shown(text: str, most: int | None = None) -> str:
    r"""Show control characters, writing direction marks and lone surrogates as ``\x1b``; keep line ends and tabs.

    Escaping for HTML is the template's. Of text longer than `most` characters the beginning is given, and how much
    is left out.
    """
    left = 0 if most is None else len(text) - most
    if left > 0:
        text = text[:most]
    text = text.replace("\r\n", "\n")
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in _KEPT else _escape(ord(c)) for c in text)
    return f"{text} … and {left:,} more characters" if left > 0 else text


def line(text: str, most: int | None = None) -> str:
    """Give the same in one line."""
    return " ".join(shown(text, most).split())


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

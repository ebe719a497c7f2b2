"""The common case of publishing, in one query: keys that this run asked once and that were answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import zstandard

from pipeline.journal.journal import KEYS_PER_QUERY, Journal, checksum, storage
from pipeline.records import Key


class Settled(NamedTuple):
    """The only attempt of a key, with what it was answered and cost; None where that is unknown.

    `completed_at` is in microseconds since 1970, UTC.
    """

    attempt: int
    start: int
    status: str
    stop_reason: str | None
    model: str
    input_tokens: int | None
    output_tokens: int | None
    cache_write_tokens: int | None
    cache_read_tokens: int | None
    cost_nanos: int | None
    priced_by: str | None
    latency_ms: int
    request_id: str | None
    endpoint: str
    completed_at: int
    error_type: str | None
    error_message: str | None
    rules: bytes | None
    body: bytes


_QUERY = """
SELECT a.request_key, a.run = ? AND a.answered AND a.key IS NULL AND a.continues IS NULL AND a.status IS NOT NULL,
  r.checksum, r.body, a.id, a.start, a.status, a.stop_reason, a.model, a.input_tokens, a.output_tokens,
  a.cache_write_5m_tokens + a.cache_write_1h_tokens, a.cache_read_tokens, a.cost_nanos, a.priced_by, a.latency_ms,
  a.request_id, a.endpoint, a.started_at + a.latency_ms * 1000, a.error_type, a.error_message, a.rules
FROM attempt a LEFT JOIN response r ON r.attempt = a.id WHERE a.request_key IN ({marks})
"""


def settled(journal: Journal, run: int, keys: Sequence[Key]) -> dict[Key, Settled]:
    """Those of the keys that have one attempt in all, of this run, with an answer that is whole.

    What is left out is not therefore open: it was retried, or came from another run, or is damaged, and takes the way
    of `Journal.find`, `answers` and `bills`.

    Args:
        journal: where to look.
        run: id of the run.
        keys: at most 900, different ones.

    Raises:
        StorageError: the journal cannot be read.
    """
    with storage(journal.path):
        query = _QUERY.format(marks=",".join("?" * len(keys)))
        rows = journal._db.execute(query, [run, *keys]).fetchall()  # noqa: SLF001 - of this room
    found: dict[Key, Settled] = {}
    seen: set[Key] = set()
    decompress = zstandard.ZstdDecompressor().decompress
    for key, plain, stored, compressed, *rest in rows:
        if key in seen:
            found.pop(key, None)
        elif plain and compressed is not None:
            body = _whole(decompress, compressed, stored)
            if body is not None:
                found[key] = Settled._make((*rest, body))
        seen.add(key)
    return found


def _whole(decompress: Any, compressed: bytes, stored: bytes) -> bytes | None:
    try:
        body: bytes = decompress(compressed)
    except zstandard.ZstdError:
        return None
    return body if checksum(body) == stored else None


_STATUSES = """
SELECT request_key, run = ? AND id > ? AND status IN ('ok', 'refused', 'invalid') AND (? OR rules IS ?), status
FROM attempt WHERE request_key IN ({marks}) AND status IS NOT NULL
"""


def statuses(
    journal: Journal, run: int, keys: Sequence[Key], *, after: int, rules: bytes | None, any_rules: bool
) -> dict[Key, str]:
    """The statuses of those of the keys that have one outcome in all, of this run, which stands whatever is asked with.

    Args:
        journal: where to look.
        run: id of the run.
        keys: different ones.
        after: only outcomes of later attempts than this.
        rules: only outcomes that were judged by these rules …
        any_rules: … or by whatever rules.

    Raises:
        StorageError: the journal cannot be read.
    """
    found: dict[Key, str | None] = {}
    with storage(journal.path):
        for at in range(0, len(keys), KEYS_PER_QUERY):
            part = keys[at : at + KEYS_PER_QUERY]
            query = _STATUSES.format(marks=",".join("?" * len(part)))
            for key, stands, status in journal._db.execute(query, [run, after, any_rules, rules, *part]):  # noqa: SLF001 - of this room
                found[key] = status if stands and key not in found else None
    return {key: status for key, status in found.items() if status is not None}

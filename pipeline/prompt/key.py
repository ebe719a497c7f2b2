"""Request keys, recipe k1: a content hash of what is asked.

    key = blake2b-128(person "pipeline k1", len(envelope) as 8 bytes, big-endian ‖ envelope ‖ prompt)

The envelope is canonical JSON (sorted members, no blanks, UTF-8) of three members: `scope`, the endpoint's scope word;
`version`, the API version or null; `request`, what the job sends apart from the prompt, without what cannot change the
answer: `max_tokens` (which answer is good enough for it is judged by answer), `stream`, `service_tier`, `metadata`, and
every `cache_control` mark, at any depth. Where the header `anthropic-beta` switches on what may change answers, there
is a fourth, `betas`: its names, sorted. The prompt is the members ``"system":…,"messages":[…]`` as built. The length
before the envelope keeps two pairs of envelope and prompt from ever giving the same bytes. Equal rendered text thus
means equal keys, wherever a row stands and whatever its other columns hold.

A salted key (`reuse: false`) is

    blake2b-128(person "pipeline k1 salt", key ‖ len(run id) ‖ run id ‖ len(row hash) ‖ row hash ‖ nth)

with lengths and nth as 8 bytes, big-endian. A later turn of a conversation, which sends an answer back or goes on from
one that paused, has the key blake2b-128(person "pipeline k1 turn", first key ‖ the appended turns as JSON).

A change of any of this is a new recipe, with a new `KEY_PREFIX`.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import orjson

from pipeline.prompt.shape import KeyedJob
from pipeline.prompt.values import text
from pipeline.records import Key, Row

_BYTES = 16
_LEFT_OUT = frozenset({"max_tokens", "stream", "service_tier", "metadata", "cache_control"})


class KeyRecipe:
    """Makes the keys of one job's requests: a copy of the envelope's hash, continued over the prompt."""

    def __init__(self, job: KeyedJob, fields: Mapping[str, Any] | None = None) -> None:
        """Hash what every request of a job shares.

        Args:
            job: whose endpoint, and request where `fields` is None, are read.
            fields: the members sent apart from the prompt, with what `answer.schema` adds; by default the job's own.
        """
        sent = job.request.wire() if fields is None else fields
        request = {name: value for name, value in sent.items() if name not in _LEFT_OUT}
        shared = {"scope": job.endpoint.scope, "version": job.endpoint.version, "request": _unmarked(request)}
        if betas := _betas(job.endpoint.headers):
            shared["betas"] = betas
        envelope = orjson.dumps(shared, option=orjson.OPT_SORT_KEYS)
        self._envelope = blake2b(_counted(envelope), digest_size=_BYTES, person=b"pipeline k1")

    def key(self, prompt: bytes) -> Key:
        """Give the key of a prompt as `Prompts.build` writes it."""
        digest = self._envelope.copy()
        digest.update(prompt)
        return digest.digest()

    def salted(self, key: Key, run_id: str, row_hash: bytes, nth: int) -> Key:
        """Make a key that no other run, and no equal row of this run, shares.

        Args:
            key: the content key.
            run_id: the run that asks.
            row_hash: `row_hash` of the row.
            nth: how many equal rows stand before it.
        """
        salted = blake2b(key, digest_size=_BYTES, person=b"pipeline k1 salt")
        salted.update(_counted(run_id.encode()) + _counted(row_hash) + nth.to_bytes(8, "big"))
        return salted.digest()

    @staticmethod
    def turn(first: Key, turns: bytes) -> Key:
        """Make the key of a later turn of a conversation.

        Args:
            first: the key of its first request.
            turns: the turns that were appended to it so far, as a JSON array.
        """
        return blake2b(first + turns, digest_size=_BYTES, person=b"pipeline k1 turn").digest()


def row_hash(row: Row) -> bytes:
    """Hash the values of a row, or of a group's rows in order; 16 bytes. The order of columns does not count."""
    rows = [dict(values) for values in row.rows]
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
    try:
        canonical = orjson.dumps(rows, _hashable, options)
    except orjson.JSONEncodeError:  # half a surrogate pair, or a number of more than 64 bits
        canonical = repr([sorted(values.items()) for values in rows]).encode("utf-8", "surrogatepass")
    return blake2b(canonical, digest_size=_BYTES, person=b"pipeline row").digest()


def _hashable(value: Any) -> Any:
    return {"bytes": value.hex()} if isinstance(value, (bytes, bytearray, memoryview)) else {"text": text(value)}


def _betas(headers: Mapping[str, str]) -> list[str]:
    told = ",".join(value for name, value in headers.items() if name.lower() == "anthropic-beta")
    return sorted({beta for name in told.split(",") if (beta := name.strip())})


def _counted(part: bytes) -> bytes:
    return len(part).to_bytes(8, "big") + part


def _unmarked(value: Any) -> Any:
    """Drop cache marks. A mark is ``{"type": "ephemeral", …}`` or null; a property of that name in a schema stays."""
    if isinstance(value, Mapping):
        return {name: _unmarked(item) for name, item in value.items() if not _is_mark(name, item)}
    if isinstance(value, (list, tuple)):
        return [_unmarked(item) for item in value]
    return value


def _is_mark(name: str, value: Any) -> bool:
    if name != "cache_control":
        return False
    return value is None or (isinstance(value, Mapping) and value.get("type") == "ephemeral")

"""Price books: prices that people write down, in the job or in a file of their own, each with the days it holds for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from pipeline.cost.rates import Bands, ModelPrice, decimal, stated
from pipeline.cost.terms import BATCH_FACTOR
from pipeline.errors import Complaint, JobError

FOLDER = "messages-pipeline"
FILE = "prices.yaml"
PRICES = ("input", "output", "cache_write", "cache_write_1h", "cache_read")
NAMES = (*PRICES, "above", "batch", "from", "until")
MAX_BYTES = 1024 * 1024
_DAY_NAMES = ("from", "until")


@dataclass(frozen=True, slots=True)
class Dated:
    """A model's prices over some days.

    Attributes:
        bands: what a call costs.
        source: identity of the prices, such as ``job my-model`` or ``prices.yaml#3f2a9c1e my-model from 2026-07-01``.
        start: the first UTC day they hold for; None for all before `until`.
        until: the last one; None for all from `start` on.
        batch: what a batch call's price is of the usual one.
    """

    bands: Bands
    source: str
    start: date | None = None
    until: date | None = None
    batch: Decimal = BATCH_FACTOR

    def holds(self, at: datetime) -> bool:
        """Whether these are the prices of a call made at this moment (UTC where it names no zone)."""
        day = (at if at.tzinfo is None else at.astimezone(UTC)).date()
        return (self.start is None or self.start <= day) and (self.until is None or day <= self.until)


Book = Mapping[str, Sequence[Dated]]
"""By model, exactly as it is spelled in answers and requests; no two entries of a model hold for the same day."""


class StatedPrice(ModelPrice, Protocol):
    """A model's prices as a job states them, with the days they hold for."""

    @property
    def from_(self) -> date | None:
        """The first UTC day; None for all before `until`."""

    @property
    def until(self) -> date | None:
        """The last one; None for all from `from_` on."""

    @property
    def batch(self) -> float | None:
        """What a batch call's price is of the usual one; None for half of it."""

    @property
    def longer(self) -> Mapping[int, ModelPrice]:
        """Prices of calls whose prompt has more tokens than so many."""


def job_book(prices: Mapping[str, StatedPrice | Sequence[StatedPrice]]) -> Book:
    """Take the prices that a job states."""
    return {
        model: [_stated(entry, model) for entry in (price if isinstance(price, Sequence) else (price,))]
        for model, price in prices.items()
    }


def _stated(price: StatedPrice, model: str) -> Dated:
    return Dated(
        Bands(stated(price), tuple((bound, stated(longer)) for bound, longer in sorted(price.longer.items()))),
        f"job {model}{_days(price.from_, price.until)}",
        price.from_,
        price.until,
        BATCH_FACTOR if price.batch is None else decimal(price.batch),
    )


def _days(start: date | None, until: date | None) -> str:
    return (f" from {start}" if start else "") + (f" until {until}" if until else "")


def user_file(environ: Mapping[str, str]) -> Path:
    """Name the user's own price file: ``$XDG_CONFIG_HOME/messages-pipeline/prices.yaml``, by default in ~/.config."""
    root = environ.get("XDG_CONFIG_HOME", "")
    # A relative XDG path is to be ignored, says the XDG base directory specification.
    home = Path(root) if root and Path(root).is_absolute() else Path(environ.get("HOME") or Path.home()) / ".config"
    return home / FOLDER / FILE


def user_book(environ: Mapping[str, str]) -> Book:
    """Read the user's own price file; empty where there is none.

    Raises:
        JobError: it is broken; carries every complaint.
    """
    path = user_file(environ)
    return read_book(path) if path.exists() else {}


def read_book(path: Path) -> Book:
    """Read a price file: by model, one set of prices or a list of them with the days they hold for.

    Raises:
        JobError: it cannot be read or is broken; carries every complaint.
    """
    import yaml

    try:
        raw = path.read_bytes()
    except OSError as error:
        raise JobError(f"{path}: cannot read the price file: {(error.strerror or 'error').lower()}") from error
    if len(raw) > MAX_BYTES:
        raise JobError(f"{path}: larger than {MAX_BYTES:,} bytes, which no price file is")
    try:
        # Nodes, not data: they know their lines, keep numbers as they were written, and show a key that stands twice.
        root = yaml.compose(raw.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise JobError(f"{path}: not UTF-8; save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise JobError(f"{where}: this is not YAML: {getattr(error, 'problem', None) or 'unreadable'}") from error
    reader = _Reader(path)
    book = {} if root is None else reader.book(root)
    if reader.complaints:
        raise JobError(*reader.complaints)
    return book


@dataclass(frozen=True, slots=True)
class _Prices:
    """A set of prices as it was written, and so a `ModelPrice`."""

    input: Decimal
    output: Decimal
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    cache_read: Decimal | None = None


class _Reader:
    """Reads the nodes of a price file and gathers what is wrong with them.

    Nodes are PyYAML's, whose stubs leave out `id`, the word for a node's kind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.complaints: list[Complaint] = []

    def book(self, root: Any) -> Book:
        """By model, its prices in the order of their days."""
        found: dict[str, Sequence[Dated]] = {}
        for name, node in self._entries(root, "", "models and their prices, such as my-model: {input: 3, output: 15}"):
            parts = node.value if node.id == "sequence" else [node]
            dated = [entry for part in parts if (entry := self._dated(part, name)) is not None]
            dated.sort(key=lambda entry: entry.start or date.min)
            for before, after in pairwise(dated):
                if before.until is None or after.start is None or before.until >= after.start:
                    self._complain(node, name, "two of its prices hold for the same day; bound them by from and until")
            found[name] = tuple(dated)
        return found

    def _dated(self, node: Any, name: str) -> Dated | None:
        fields = dict(self._entries(node, name, "prices, such as {input: 3, output: 15}"))
        before = len(self.complaints)
        for unknown in fields.keys() - set(NAMES):
            self._complain(fields[unknown], f"{name}.{unknown}", f"is not known; known are {', '.join(NAMES)}")
        base = self._prices(node, fields, name)
        above = self._above(fields["above"], name) if "above" in fields else ()
        start, until = (self._day(fields[word], f"{name}.{word}") if word in fields else None for word in _DAY_NAMES)
        batch = self._amount(fields["batch"], f"{name}.batch") if "batch" in fields else None
        if len(self.complaints) > before or base is None:
            return None
        if start and until and until < start:
            self._complain(node, name, f"until {until} is before from {start}")
            return None
        text = repr((base, above, start, until, batch))
        mark = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
        return Dated(
            Bands(stated(base), tuple((bound, stated(prices)) for bound, prices in above)),
            f"{self._path.name}#{mark} {name}{_days(start, until)}",
            start,
            until,
            BATCH_FACTOR if batch is None else batch,
        )

    def _prices(self, node: Any, fields: Mapping[str, Any], name: str) -> _Prices | None:
        for wanted in ("input", "output"):
            if wanted not in fields:
                self._complain(node, name, f"lacks {wanted}, in USD per million tokens")
        found = {price: self._amount(fields[price], f"{name}.{price}") for price in PRICES if price in fields}
        entered, left = found.get("input"), found.get("output")
        if entered is None or left is None:
            return None
        cached = {price: found.get(price) for price in PRICES[2:]}
        return _Prices(entered, left, **cached)

    def _above(self, node: Any, name: str) -> tuple[tuple[int, _Prices], ...]:
        """Prices of longer prompts: ``above: {100000: {input: …, output: …}}``."""
        bands: list[tuple[int, _Prices]] = []
        example = "prices by prompt tokens, such as {200000: {input: 6, output: 22.5}}"
        for text, inner in self._entries(node, f"{name}.above", example):
            path = f"{name}.above.{text}"
            if not text.replace("_", "").isdecimal():
                self._complain(inner, path, "must be a number of prompt tokens, such as 200000")
                continue
            fields = dict(self._entries(inner, path, "prices, such as {input: 6, output: 22.5}"))
            for unknown in fields.keys() - set(PRICES):
                self._complain(fields[unknown], f"{path}.{unknown}", f"is not known; known are {', '.join(PRICES)}")
            prices = self._prices(inner, fields, path)
            if prices is not None:
                bands.append((int(text.replace("_", "")), prices))
        return tuple(sorted(bands, key=lambda band: band[0]))

    def _entries(self, node: Any, path: str, example: str) -> Iterable[tuple[str, Any]]:
        if node.id != "mapping":
            self._complain(node, path, f"must hold {example}")
            return
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                self._complain(key, path, f'the key "{name}" stands twice; keep one of them')
            elif key.id != "scalar":
                self._complain(key, path, "a name must be text")
            else:
                seen.add(name)
                yield name, value

    def _amount(self, node: Any, path: str) -> Decimal | None:
        try:
            amount = Decimal(node.value) if node.id == "scalar" else None
        except InvalidOperation:
            amount = None
        if amount is None or not amount.is_finite() or amount < 0:
            self._complain(node, path, f"must be a number from 0 on, such as 3.75; found {_shown(node)}")
            return None
        return decimal(amount)

    def _day(self, node: Any, path: str) -> date | None:
        try:
            return date.fromisoformat(node.value if node.id == "scalar" else "")
        except ValueError:
            self._complain(node, path, f"must be a date such as 2026-07-01; found {_shown(node)}")
            return None

    def _complain(self, node: Any, path: str, words: str) -> None:
        mark = node.start_mark
        where = f"{self._path}:{mark.line + 1}:{mark.column + 1}"
        self.complaints.append(Complaint(where, path, words))


def _shown(node: Any) -> str:
    return repr(node.value[:40]) if node.id == "scalar" else f"a {node.id}"

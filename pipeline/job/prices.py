"""The prices that a job states: by model, for all days or by the days they hold for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from pipeline.job.fields import PROBLEM, Checked, Number, Place, ProblemError
from pipeline.job.section import Section, unless_nothing
from pipeline.job.words import quoted


def day(text: str) -> date:
    """Let an ISO date pass."""
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ProblemError(f"must be a date such as 2026-07-01, found {quoted(text)}") from error


class TokenPrices(Section):
    """Prices of tokens, in USD per million."""

    input: Annotated[float, Number(at_least=0)] = Field(
        description="Input tokens that no cache is involved in, USD per million. Required; no default. Example: 3."
    )
    output: Annotated[float, Number(at_least=0)] = Field(
        description="Output tokens, thinking included, USD per million. Required; no default. Example: 15."
    )
    cache_write: Annotated[float | None, Number(optional=True, at_least=0)] = Field(
        None,
        description="Tokens written to the cache for 5 minutes, USD per million. Default: 1.25 times input. Example: "
        "3.75.",
    )
    cache_write_1h: Annotated[float | None, Number(optional=True, at_least=0)] = Field(
        None, description="Tokens written to the cache for an hour, USD per million. Default: twice input. Example: 6."
    )
    cache_read: Annotated[float | None, Number(optional=True, at_least=0)] = Field(
        None, description="Tokens read from the cache, USD per million. Default: a tenth of input. Example: 0.3."
    )


def _bounds_are_numbers(above: dict[str, TokenPrices]) -> dict[str, TokenPrices]:
    problems: list[tuple[Place, str]] = []
    seen: set[int] = set()
    for text in above:
        if not text.isascii() or not text.replace("_", "").isdecimal():
            problems.append(((text,), "must be a number of prompt tokens, such as 200000"))
        elif int(text) in seen:
            problems.append(((text,), "is a number of prompt tokens that stands here twice; keep one of them"))
        else:
            seen.add(int(text))
    if problems:
        raise PydanticCustomError(PROBLEM, "not as it should be", {"problems": problems})
    return above


class ModelPrice(TokenPrices):
    """Prices of one model, in USD per million tokens."""

    from_: Annotated[date | None, Checked(optional=True, by=day, wanted="a date such as 2026-07-01")] = Field(
        None,
        alias="from",
        description="The first UTC day they hold for. Default: all days up to until. Example: 2026-07-01.",
    )
    until: Annotated[date | None, Checked(optional=True, by=day, wanted="a date such as 2026-12-31")] = Field(
        None, description="The last UTC day they hold for. Default: all days from `from` on. Example: 2026-12-31."
    )
    batch: Annotated[float | None, Number(optional=True, at_least=0)] = Field(
        None, description="What a batch call costs of this, as a factor. Default: 0.5. Example: 0.5."
    )
    above: Annotated[dict[str, TokenPrices], BeforeValidator(unless_nothing), AfterValidator(_bounds_are_numbers)] = (
        Field(
            {},
            description="Prices of calls with a longer prompt, cached tokens counted, by the number of tokens that it "
            "must pass; they are those of the whole call. Default: {}. Example: {200000: {input: 6, output: 22.5}}.",
            json_schema_extra={"propertyNames": {"pattern": "^[0-9][0-9_]*$"}},
        )
    )

    @property
    def longer(self) -> Mapping[int, TokenPrices]:
        """The prices of longer prompts, by the number of tokens that they must pass."""
        return {int(bound): prices for bound, prices in self.above.items()}


def _days_are_apart(price: ModelPrice | tuple[ModelPrice, ...]) -> ModelPrice | tuple[ModelPrice, ...]:
    """Complain about days that end before they start, and about days that two prices of a model hold for."""
    several = isinstance(price, tuple)
    entries = [price] if isinstance(price, ModelPrice) else list(price)
    problems: list[tuple[Place, str]] = [] if entries else [((), "must hold at least one set of prices")]
    for index, entry in enumerate(entries):
        if entry.from_ and entry.until and entry.until < entry.from_:
            at = (index, "until") if several else ("until",)
            problems.append((at, f"is {entry.until}, before from, which is {entry.from_}"))
    ordered = sorted(enumerate(entries), key=lambda pair: pair[1].from_ or date.min)
    for (earlier, before), (later, after) in pairwise(ordered) if not problems else ():
        if before.until is None or after.from_ is None or before.until >= after.from_:
            common = "for all days" if after.from_ is None and before.until is None else f"for {_common(before, after)}"
            words = f"holds, as item {earlier} does, {common}; bound them by from and until"
            problems.append(((later,), words))
    if problems:
        raise PydanticCustomError(PROBLEM, "not as it should be", {"problems": problems})
    return price


def _common(before: ModelPrice, after: ModelPrice) -> str:
    """A day that both hold for, where not all days are."""
    ends = [end for end in (before.until, after.until) if end is not None]
    return str(after.from_ or min(ends))


def _price_kind(value: Any) -> str:
    return "<dated>" if isinstance(value, list | tuple) else "<price>"


Prices = Annotated[
    dict[
        str,
        Annotated[
            Annotated[
                Annotated[ModelPrice, Tag("<price>")] | Annotated[tuple[ModelPrice, ...], Tag("<dated>")],
                Discriminator(_price_kind),
            ],
            AfterValidator(_days_are_apart),
        ],
    ],
    BeforeValidator(unless_nothing),
]
"""By model: its prices, or a list of them with the days they hold for."""

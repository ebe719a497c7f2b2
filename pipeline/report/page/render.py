"""Filling the page: tiles, charts and tables in one template, every value escaped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from pipeline.report.page.charts import Chart

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure on top of the page: what it is, the figure, a word on it."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Attributes:
        heads: of the columns.
        rows: cells, as they are to be read.
        numbers: places of the columns of figures, which stand flush right.
        texts: places of the columns of sentences, which wrap.
        total: cells of a row apart; empty for none.
        caption: under the table.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[int]
    total: Sequence[str] = ()
    caption: str = ""
    texts: Collection[int] = ()


@dataclass(frozen=True, slots=True)
class Text:
    """Text to be read as it was written, line by line, in a frame of its own; folded away until it is clicked."""

    label: str
    text: str
    folded: bool = True


@dataclass(frozen=True, slots=True)
class Card:
    """One thing among many alike, such as an answer.

    Attributes:
        heading: what it is.
        badge: a word beside the heading.
        facts: name and value, one below the other.
        text: as it was written, below them.
        note: small, at the end.
    """

    heading: str
    badge: str = ""
    facts: Sequence[tuple[str, str]] = ()
    text: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a page, or the words that stand in its place.

    Attributes:
        uri: `data:`, with base64; empty for none.
        width: in pixels.
        height: likewise.
        alt: what it shows, for those who do not see it.
        words: why there is none.
    """

    uri: str = ""
    width: int = 0
    height: int = 0
    alt: str = ""
    words: str = ""


@dataclass(frozen=True, slots=True)
class SheetCard:
    """A card of a contact sheet, which opens.

    Attributes:
        name: what it is of.
        status: by which cards are chosen; a word of letters.
        badge: the status as it is to be read.
        pictures: at least one.
        more: how many more there are, in words.
        caption: a line or two.
        reason: likewise, of what went wrong.
        cost: in words.
        facts: name and value, one below the other, in the open card.
        text: as it was written, below them.
    """

    name: str
    status: str
    badge: str
    pictures: Sequence[Picture]
    more: str = ""
    caption: str = ""
    reason: str = ""
    cost: str = ""
    facts: Sequence[tuple[str, str]] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Cards with pictures, of which those of one status can be chosen; one on a page.

    Attributes:
        cards: in their order.
        choices: value (a status, or `all`, which comes first), words and number of each; empty for no choice.
    """

    cards: Sequence[SheetCard]
    choices: Sequence[tuple[str, str, str]] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """A part of the page: a heading, and below it, in this order, whatever of the rest there is.

    Attributes:
        text: a sentence.
        facts: name and value, one below the other.
        chart: a chart.
        table: its data, or a table by itself.
        folded: the table is closed until it is clicked; on paper a closed one is left out.
        tables: more tables, each under a heading of its own.
        texts: text as it was written.
        cards: things alike, side by side where there is room.
        sheet: cards with pictures.
    """

    heading: str
    text: str = ""
    chart: Chart | None = None
    table: Table | None = None
    folded: bool = False
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[tuple[str, Table]] = ()
    texts: Sequence[Text] = ()
    cards: Sequence[Card] = ()
    sheet: Sheet | None = None


def render(
    *, title: str, subtitle: str, tiles: Sequence[Tile], figures: Sequence[Figure], notes: Sequence[str], made: str
) -> str:
    """Give the whole page as HTML."""
    style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template("page.html.j2")
        .render(title=title, subtitle=subtitle, tiles=tiles, figures=figures, notes=notes, made=made, style=style)
    )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("pipeline.report.page", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

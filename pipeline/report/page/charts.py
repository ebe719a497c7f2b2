"""Charts as SVG, drawn where the page is made; their colours are the page's, so that light and dark both work."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import altair as alt

SERIES = 8
"""How many series have a colour of their own; the last of them is for all the others."""

WIDE, NARROW = 1040, 330
"""Widths in CSS pixels: on a desk or on paper, and on a phone."""

LETTER = 7.6
"""Room for a letter of a label: the reader's font is not known here, and some are wide."""

STEPS = 60
"""How many steps a chart over time has at most: a bar has a few pixels of its own on a phone too."""

FONT = "system-ui, -apple-system, Segoe UI, Roboto, sans-serif"
OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart in two widths, each an SVG of its own; style.css shows the one that fits."""

    wide: str
    narrow: str


def colour(nth: int) -> str:
    """Give the CSS colour of the nth series."""
    return f"var(--series-{min(nth, SERIES - 1) + 1})"


def stacked_days(
    records: Sequence[Mapping[str, Any]], series: Sequence[str], *, first: date, last: date, title: str
) -> Chart:
    """Draw amounts by day as stacked bars.

    Args:
        records: `day` (ISO), `series`, `amount` in USD.
        series: names in the order of the stack and the legend.
        first: the first day on the axis.
        last: the last one.
        title: what the chart shows, for those who hear it.
    """
    import altair as alt

    highest = _highest(records, "day")

    def draw(width: int) -> Any:
        days = (last - first).days + 1
        return (
            _chart(records)
            .mark_bar(size=max(1.0, min(26.0, width / days * 0.72)))
            .encode(
                x=_days_axis(first, last, width, alt),
                y=alt.Y("amount:Q", stack="zero", axis=_usd_axis(highest, alt), title=None),
                color=_colours(series, width, alt),
                order=alt.Order("rank:Q"),
                tooltip=alt.value(None),
            )
        )

    return _both(draw, 260, title)


def line(records: Sequence[Mapping[str, Any]], *, first: date, last: date, limit: float | None, title: str) -> Chart:
    """Draw a sum that grows by day, its forecast dashed, and a limit as a rule.

    Args:
        records: `day` (ISO), `amount` in USD, `kind` (spent or forecast).
        first: the first day on the axis.
        last: the last one.
        limit: in USD.
        title: what the chart shows, for those who hear it.
    """
    import altair as alt

    def draw(width: int) -> Any:
        highest = max((record["amount"] for record in records), default=0.0)
        axis = _usd_axis(max(highest, limit or 0.0), alt)
        y = alt.Y("amount:Q", axis=axis, title=None, scale=alt.Scale(zero=True))
        base = _chart(records).encode(x=_days_axis(first, last, width, alt), y=y)
        layers: list[Any] = [
            base.transform_filter("datum.kind == 'spent'").mark_area(color=colour(0), opacity=0.15),
            base.transform_filter("datum.kind == 'spent'").mark_line(color=colour(0), strokeWidth=2.5),
            base.transform_filter("datum.kind == 'forecast'").mark_line(
                color=colour(0), strokeWidth=2, strokeDash=[5, 4]
            ),
        ]
        if limit is not None:
            layers += _limit(limit, f"budget ${limit:,.2f}" if limit >= 1 else f"budget ${limit:g}", y, alt)
        return alt.layer(*layers)

    return _both(draw, 220, title)


def bars(
    records: Sequence[Mapping[str, Any]],
    series: Sequence[str],
    names: Sequence[str],
    *,
    title: str,
    palette: Sequence[int] | None = None,
) -> Chart:
    """Draw counts as stacked bars that lie, one a name.

    Args:
        records: `name`, `series`, `amount`.
        series: in the order of the stack and the legend.
        names: from top to bottom.
        title: what the chart shows, for those who hear it.
        palette: which colour each series has, from 0; one after the other by default.
    """
    import altair as alt

    def draw(width: int) -> Any:
        most = 120 if width == NARROW else 260
        room = min(most, LETTER * max(map(len, names)))
        axis = alt.Axis(labelLimit=0.85 * room, minExtent=room, title=None, ticks=False, domain=False, labelPadding=8)
        return (
            _chart(records)
            .mark_bar(size=18)
            .encode(
                y=alt.Y("name:N", sort=list(names), axis=axis),
                x=alt.X(
                    "amount:Q",
                    stack="zero",
                    title=None,
                    axis=alt.Axis(
                        # A format alone would write all in one unit: 0k, 0.2k.
                        labelExpr="format(datum.value, '.4~s')",
                        tickCount=4 if width == NARROW else 8,
                        tickMinStep=1,
                        domain=False,
                        ticks=False,
                        labelFlush=False,
                    ),
                ),
                color=_colours(series, width, alt, palette),
                order=alt.Order("rank:Q"),
                tooltip=alt.value(None),
            )
        )

    return _both(draw, max(60, 34 * len(names)), title)


@dataclass(frozen=True, slots=True)
class Span:
    """The axis of a chart over time.

    Attributes:
        end: where it ends, from 0, in units of `words`.
        words: what it counts, such as ``minutes since the first call``.
        marks: places to mark with a line, such as where work went on after a break.
    """

    end: float
    words: str
    marks: Sequence[float] = ()


def steps(
    records: Sequence[Mapping[str, Any]],
    series: Sequence[str],
    span: Span,
    *,
    title: str,
    palette: Sequence[int] | None = None,
    limit: tuple[float, str] | None = None,
) -> Chart:
    """Draw amounts by stretch of time as stacked bars.

    Args:
        records: `start` and `end` of the stretch in the span's units, `series`, `rank` in the stack, `amount`.
        series: in the order of the stack and the legend.
        span: the axis.
        title: what the chart shows, for those who hear it.
        palette: which colour each series has, from 0; one after the other by default.
        limit: drawn as a line: where, and its words.
    """
    import altair as alt

    def draw(width: int) -> Any:
        # With a limit at the top there is room for its words above it.
        scale = alt.Undefined if limit is None else alt.Scale(domainMax=1.12 * max(limit[0], _highest(records)))
        y = alt.Y("amount:Q", stack="zero", axis=_amount_axis(alt), title=None, scale=scale)
        drawn = (
            _chart(records)
            .mark_bar(binSpacing=0.6)
            .encode(
                x=_span_axis(span, width, alt, "start:Q", binned=True),
                x2="end:Q",
                y=y,
                color=_colours(series, width, alt, palette),
                order=alt.Order("rank:Q"),
                tooltip=alt.value(None),
            )
        )
        level = [] if limit is None else _limit(*limit, alt.Y("amount:Q"), alt)
        return alt.layer(drawn, *_breaks(span, alt), *level)

    return _both(draw, 220, title)


def lines(records: Sequence[Mapping[str, Any]], series: Sequence[str], span: Span, *, title: str) -> Chart:
    """Draw amounts over time as lines.

    Args:
        records: `at` in the span's units, `series`, `amount`; a gap where there is none.
        series: in the order of the legend.
        span: the axis.
        title: what the chart shows, for those who hear it.
    """
    import altair as alt

    def draw(width: int) -> Any:
        drawn = (
            _chart(records)
            # A dot shows where a value stands alone between gaps.
            .mark_line(strokeWidth=2, point=alt.OverlayMarkDef(size=9))
            .encode(
                x=_span_axis(span, width, alt, "at:Q"),
                y=alt.Y("amount:Q", axis=_amount_axis(alt), title=None, scale=alt.Scale(zero=True)),
                color=_colours(series, width, alt),
                tooltip=alt.value(None),
            )
        )
        return alt.layer(drawn, *_breaks(span, alt))

    return _both(draw, 220, title)


def _chart(records: Sequence[Mapping[str, Any]]) -> alt.Chart:
    import altair as alt

    return alt.Chart(alt.InlineData(values=[dict(record) for record in records]))


def _highest(records: Sequence[Mapping[str, Any]], place: str = "start") -> float:
    stacks: dict[Any, float] = {}
    for record in records:
        stacks[record[place]] = stacks.get(record[place], 0.0) + record["amount"]
    return max(stacks.values(), default=0.0)


def _limit(amount: float, words: str, y: Any, alt: Any) -> list[Any]:
    rule = _chart([{"amount": amount, "text": words}])
    text = rule.mark_text(color="var(--alarm)", align="left", baseline="bottom", dx=4, dy=-3)
    return [
        rule.mark_rule(color="var(--alarm)", strokeDash=[2, 3], size=1.5).encode(y=y),
        text.encode(y=y, x=alt.value(0), text="text:N"),
    ]


def _span_axis(span: Span, width: int, alt: Any, field: str, *, binned: bool = False) -> Any:
    count = 6 if width == NARROW else 12
    return alt.X(
        field,
        bin="binned" if binned else alt.Undefined,
        scale=alt.Scale(domain=[0, span.end], nice=False),
        axis=alt.Axis(format=",~r", tickCount=count, grid=False, labelOverlap=True, labelFlush=False),
        title=span.words,
    )


def _breaks(span: Span, alt: Any) -> list[Any]:
    if not span.marks:
        return []
    rule = _chart([{"at": mark} for mark in span.marks])
    return [rule.mark_rule(color="var(--text-soft)", strokeDash=[4, 3]).encode(x=alt.X("at:Q"))]


def _days_axis(first: date, last: date, width: int, alt: Any) -> Any:
    days = (last - first).days + 1
    most = 6 if width == NARROW else 14
    form = "%-d %b" if days <= 200 else "%b %Y"
    return alt.X(
        "day:T",
        # Vega reads a date alone as UTC, and writes it in the zone of the scale.
        scale=alt.Scale(type="utc", domain=[_utc(first, -0.6), _utc(last, 0.6)], nice=False),
        axis=alt.Axis(format=form, tickCount=min(days, most), grid=False, labelOverlap=True, labelFlush=False),
        title=None,
    )


def _utc(day: date, shift: float) -> float:
    return (day.toordinal() - date(1970, 1, 1).toordinal() + shift) * 86_400_000.0


def _usd_axis(highest: float, alt: Any) -> Any:
    # Small amounts need digits, large ones none: what d3 calls significant trims zeros. The labels of small ones are
    # long, and the reader's font may be wider than the one that the picture is laid out with.
    digits = max(0, -math.floor(math.log10(highest / 5))) if highest > 0 else 0
    extent = LETTER * (digits + 3) if digits > 2 else alt.Undefined
    return alt.Axis(format="$,~r", tickCount=5, domain=False, ticks=False, minExtent=extent)


def _amount_axis(alt: Any) -> Any:
    return alt.Axis(format=",~r", tickCount=5, domain=False, ticks=False)


def _colours(series: Sequence[str], width: int, alt: Any, palette: Sequence[int] | None = None) -> Any:
    legend = alt.Legend(
        title=None,
        orient="top",
        columns=2 if width == NARROW else 5,
        columnPadding=22,
        labelLimit=120 if width == NARROW else 180,
    )
    return alt.Color(
        "series:N",
        scale=alt.Scale(domain=list(series), range=[colour(nth) for nth in palette or range(len(series))]),
        legend=legend if len(series) > 1 else None,
    )


def _both(draw: Callable[[int], Any], height: int, title: str) -> Chart:
    return Chart(_svg(draw(WIDE), WIDE, height, title), _svg(draw(NARROW), NARROW, height, title))


def _svg(chart: Any, width: int, height: int, title: str) -> str:
    """Draw one chart; its width is that of the whole picture, labels included."""
    import vl_convert

    text = "var(--text-soft)"
    styled = (
        chart.properties(
            width=width, height=height, background="transparent", autosize={"type": "fit-x", "contains": "padding"}
        )
        .configure(font=FONT, padding={"left": 2, "top": 4, "right": 18, "bottom": 2})
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=text,
            gridColor="var(--rule)",
            domainColor="var(--rule)",
            tickColor="var(--rule)",
            labelFontSize=12,
            titleColor=text,
            titleFontSize=12,
            titleFontWeight="normal",
        )
        .configure_legend(labelColor="var(--text)", labelFontSize=12, symbolType="square", symbolSize=120)
        .configure_text(fontSize=12)
    )
    svg = vl_convert.vegalite_to_svg(styled.to_dict())
    return _tidy(svg, title)


def _tidy(svg: str, title: str) -> str:
    """Make one picture of it for those who hear the page, and let it shrink with the page."""
    from markupsafe import escape

    head, _, rest = svg.partition(">")
    size = re.search(r'viewBox="[^"]*"', head)
    assert size is not None
    # Names of every mark would be read out one by one; the table beside the chart is what they are for.
    rest = re.sub(r' (?:aria-[a-z]+|role)="[^"]*"', "", rest)
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size[0]} role="img"'
    return f'{opening} aria-label="{escape(title)}">{rest}'

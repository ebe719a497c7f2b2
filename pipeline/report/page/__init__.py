"""A self-contained HTML page: one file that opens offline, light and dark, on paper and on a phone.

`Chart` draws SVG by Vega-Lite where the page is made, so the page needs no script; `render` fills a template. Every
text that is filled in is escaped, and the page's own policy lets no script run and nothing be fetched.
"""

from pipeline.report.page.charts import Chart, Span, bars, line, lines, stacked_days, steps
from pipeline.report.page.render import Card, Figure, Picture, Sheet, SheetCard, Table, Text, Tile, render

__all__ = [
    "Card",
    "Chart",
    "Figure",
    "Picture",
    "Sheet",
    "SheetCard",
    "Span",
    "Table",
    "Text",
    "Tile",
    "bars",
    "line",
    "lines",
    "render",
    "stacked_days",
    "steps",
]

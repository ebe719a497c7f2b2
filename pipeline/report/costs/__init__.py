"""The cost report: what outputs and journals say was paid, grouped, compared with a bill, as text, data or a page."""

from pipeline.report.costs.bills import Comparison, compare, read_bill
from pipeline.report.costs.formats import FORMATS, write_report
from pipeline.report.costs.journals import read_journals, tags_of
from pipeline.report.costs.outputs import read_outputs
from pipeline.report.costs.report import Query, Report, Totals, make_report

__all__ = [
    "FORMATS",
    "Comparison",
    "Query",
    "Report",
    "Totals",
    "compare",
    "make_report",
    "read_bill",
    "read_journals",
    "read_outputs",
    "tags_of",
    "write_report",
]

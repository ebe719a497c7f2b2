"""The report of one run, as a self-contained page.

`run_page` is given what a run was asked and its plan's rows (`Told`), and looks up the rest in the journal.
"""

from pipeline.report.run.ledger import run_params
from pipeline.report.run.page import run_page
from pipeline.report.run.told import Asked, Limit, Line, Read, Reader, Stretch, Told

__all__ = ["Asked", "Limit", "Line", "Read", "Reader", "Stretch", "Told", "run_page", "run_params"]

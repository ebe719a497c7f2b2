"""Response to typed columns: how an answer is asked for, found, judged, repaired and read."""

from pipeline.answer.ask import Additions, Dialect, Way, additions, dialect_of, how, merged
from pipeline.answer.columns import Columns, Unfit
from pipeline.answer.paths import ColumnRule, Rule
from pipeline.answer.reading import Read, Reading
from pipeline.answer.repair import repair_turns
from pipeline.answer.sendable import Sendable, sendable
from pipeline.answer.validate import Validator
from pipeline.answer.verdict import Verdict, verdict

__all__ = [
    "Additions",
    "ColumnRule",
    "Columns",
    "Dialect",
    "Read",
    "Reading",
    "Rule",
    "Sendable",
    "Unfit",
    "Validator",
    "Verdict",
    "Way",
    "additions",
    "dialect_of",
    "how",
    "merged",
    "repair_turns",
    "sendable",
    "verdict",
]

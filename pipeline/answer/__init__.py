"""Response to typed columns: how an answer is asked for, found, judged, repaired and read."""

from pipeline.answer.ask import Additions, Dialect, Way, additions, dialect_of, how, merged
from pipeline.answer.columns import Columns, Unfit
from pipeline.answer.contract import Contract, contract
from pipeline.answer.paths import ColumnRule, Rule
from pipeline.answer.reading import Read, Reading
from pipeline.answer.repair import paused_turns, repair_turns
from pipeline.answer.sendable import Sendable, sendable
from pipeline.answer.validate import Validator
from pipeline.answer.verdict import Verdict, verdict

__all__ = [
    "Additions",
    "ColumnRule",
    "Columns",
    "Contract",
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
    "contract",
    "dialect_of",
    "how",
    "merged",
    "paused_turns",
    "repair_turns",
    "sendable",
    "verdict",
]

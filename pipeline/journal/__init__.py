"""The journal: SQLite that keeps every paid response, every attempt and what it cost."""

from pipeline.journal.journal import (
    Answer,
    Bill,
    Claim,
    JobStamp,
    Journal,
    Judgement,
    Known,
    Pulse,
    RunRecord,
    RunTotals,
    Turn,
    attempt_id,
)
from pipeline.journal.lock import JournalLock

__all__ = [
    "Answer",
    "Bill",
    "Claim",
    "JobStamp",
    "Journal",
    "JournalLock",
    "Judgement",
    "Known",
    "Pulse",
    "RunRecord",
    "RunTotals",
    "Turn",
    "attempt_id",
]

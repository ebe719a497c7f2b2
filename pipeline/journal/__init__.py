"""The journal: SQLite that keeps every paid response, every attempt and what it cost."""

from pipeline.journal.journal import (
    Answer,
    Bill,
    Claim,
    JobStamp,
    Journal,
    Known,
    RunRecord,
    RunTotals,
)
from pipeline.journal.lock import JournalLock

__all__ = ["Answer", "Bill", "Claim", "JobStamp", "Journal", "JournalLock", "Known", "RunRecord", "RunTotals"]

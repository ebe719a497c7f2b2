"""Response to verdict: what an answer is worth to its row."""

from pipeline.answer.verdict import Verdict, verdict

__all__ = ["Verdict", "verdict"]

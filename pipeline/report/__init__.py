"""What a person sees: progress while a run works, the summary when it ends."""

from pipeline.report.progress import Counters, Progress
from pipeline.report.summary import PUBLISHING, Calls, Summary, summary_text

__all__ = ["PUBLISHING", "Calls", "Counters", "Progress", "Summary", "summary_text"]

"""The limits: how many calls at once and per minute, who waits for whom, and when to try again or give up."""

from pipeline.limits.backoff import Backoff
from pipeline.limits.bound import Bound, Cause
from pipeline.limits.budget import Budget, Cap, WorstCase
from pipeline.limits.finish import FinishBy, next_time
from pipeline.limits.growing import Growing
from pipeline.limits.limited import Flight, Limited, prompt_chars
from pipeline.limits.outage import Outage, Trouble
from pipeline.limits.pace import Pace
from pipeline.limits.pause import Pause
from pipeline.limits.retrying import Retrying
from pipeline.limits.window import Window

__all__ = [
    "Backoff",
    "Bound",
    "Budget",
    "Cap",
    "Cause",
    "FinishBy",
    "Flight",
    "Growing",
    "Limited",
    "Outage",
    "Pace",
    "Pause",
    "Retrying",
    "Trouble",
    "Window",
    "WorstCase",
    "next_time",
    "prompt_chars",
]

"""The limits: how many calls at once and per minute, who waits for whom, and when to try again or give up."""

from pipeline.limits.backoff import Backoff
from pipeline.limits.limited import Flight, Limited
from pipeline.limits.outage import Outage
from pipeline.limits.pause import Pause
from pipeline.limits.retrying import Retrying
from pipeline.limits.window import Window

__all__ = ["Backoff", "Flight", "Limited", "Outage", "Pause", "Retrying", "Window"]

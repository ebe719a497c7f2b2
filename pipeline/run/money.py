"""What a run may cost: its caps, what is spent of them, and the worst that the rows to ask can come to."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pipeline.cost import Pricer
from pipeline.errors import JobError
from pipeline.job import Job
from pipeline.journal import Journal, RunRecord
from pipeline.limits import Budget, Cap
from pipeline.records import NANOS_PER_USD, Terms, Usage
from pipeline.run.plan import Facts

CHARACTERS_PER_TOKEN = 3.5
REPAIR_TOKENS = 300
"""Of the words that send an answer back."""


def check_price(job: Job, pricer: Pricer, at: datetime) -> None:
    """A budget needs to know what a call may cost.

    Raises:
        JobError: it does not.
    """
    caps = {"run_usd": job.budget.run_usd, "month_usd": job.budget.month_usd}
    named = [name for name, usd in caps.items() if usd is not None]
    model, terms = job.request.model, terms_asked(job)
    price = pricer.price(Usage(1, 1), answered=None, asked=model, at=at, reported_nanos=None, terms=terms)
    if named and price.nanos is None:
        # What fast calls cost is known of some models alone, whatever the job's own prices say.
        if terms.fast:
            why = f"of {model} in fast mode; leave request.speed or the budget out"
        else:
            why = f"for {model}; set prices: in the job, or leave the budget out"
        raise JobError(job.complain(f"budget.{named[0]}", f"cannot be held: no price is known {why}"))


def terms_asked(job: Job) -> Terms:
    """The terms that the job's calls ask for, which they are charged on at worst."""
    return Terms.asked(speed=job.request.speed, inference_geo=job.request.inference_geo)


def budget_of(job: Job, journal: Journal, run: RunRecord, pricer: Pricer, at: datetime) -> Budget:
    """The caps of the job, what is spent of them, and what servers so far reported beyond list prices.

    Args:
        job: the job.
        journal: with what was paid.
        run: the run.
        pricer: for list prices.
        at: the present, UTC; its calendar month is the one that `month_usd` speaks of.
    """
    caps = []
    if job.budget.run_usd is not None:
        caps.append(Cap("run_usd", nanos_of(job.budget.run_usd), journal.spent(run)))
    if job.budget.month_usd is not None:
        month = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        caps.append(Cap("month_usd", nanos_of(job.budget.month_usd), journal.spent_since(run.scope, month)))
    budget = Budget(caps)
    for answered, usage, when, cost in journal.reported(run.scope) if caps else ():
        listed = pricer.price(usage, answered=answered, asked=job.request.model, at=when, reported_nanos=None).nanos
        budget.learn(listed or 0, cost)
    return budget


def worst_case(job: Job, facts: Facts, rows: int, pricer: Pricer, at: datetime, *, repairs: int) -> int | None:
    """Nano-dollars if each row's call takes its estimated input and all of max_tokens, and so does each repair.

    None where no price is known.
    """
    model, answer, terms = job.request.model, job.request.max_tokens, terms_asked(job)
    sendable = max(1, facts.requests - facts.unsendable)
    tokens = round((facts.prompt_bytes / CHARACTERS_PER_TOKEN + facts.picture_tokens) / sendable) + 1
    nanos = 0
    for turn in range(1 + repairs):
        # A repair sends the answers so far along, each with what was wrong with it.
        usage = Usage(input_tokens=tokens + turn * (answer + REPAIR_TOKENS), output_tokens=answer)
        price = pricer.price(usage, answered=None, asked=model, at=at, reported_nanos=None, terms=terms)
        if price.nanos is None:
            return None
        nanos += price.nanos
    return nanos * rows


def nanos_of(usd: float) -> int:
    """Nano-dollars, by way of the text that people wrote: 0.1 is exact."""
    return int(Decimal(str(usd)) * NANOS_PER_USD)

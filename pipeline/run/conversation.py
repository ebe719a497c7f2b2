"""A row's conversation: its request, and the turns that go on from a paused answer or send an invalid one back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import orjson

from pipeline.answer import Contract, Read, paused_turns, repair_turns, verdict
from pipeline.cost import Pricer
from pipeline.errors import TransportError
from pipeline.journal import Claim, Turn, attempt_id
from pipeline.limits import WorstCase
from pipeline.prompt import KeyRecipe
from pipeline.records import Attempt, Key, Outcome, Price, Request, Response
from pipeline.wire import decode

PAUSED = "pause_turn"
MAX_PAUSES = 10
"""How often a paused answer is gone on from; one that still pauses then is truncated."""


@dataclass(frozen=True, slots=True)
class Settling:
    """What the conversations of a run share.

    Attributes:
        contract: how answers are read, and how often an invalid one is sent back.
        pricer: prices each answer.
        model: the one that is asked.
        worst: what a call may cost at most.
    """

    contract: Contract
    pricer: Pricer
    model: str
    worst: WorstCase


class Conversation:
    """One row's. `request` is what to send next; `settle` takes what came of it.

    Every turn is a request of its own, with a key made from the row's first and the turns so far. The conversation
    follows from the answers alone, so that one that was broken off goes on from those that are kept.
    """

    def __init__(self, request: Request, settling: Settling) -> None:
        self.request = request
        self._settling = settling
        self._first = request
        self._turns: list[dict[str, Any]] = []
        self._asked: Key | None = None
        self._continues: int | None = None
        self._text_before = ""
        self._pauses = self._repairs = 0

    def settle(self, claim: Claim, attempts: tuple[Attempt, ...]) -> Outcome:
        """The outcome of the turn from its attempts, of which the last one decides.

        With the status None another turn is due: `request` is that.
        """
        asked, continues, key = self._asked, self._continues, self._first.key
        priced = tuple((attempt, self._price(attempt)) for attempt in attempts)
        last = attempts[-1]
        if last.response is None:
            return Outcome(
                *(claim.id, key, "failed", priced, last.error_type, last.error_message),
                asked=asked,
                continues=continues,
                worst_nanos=claim.reserved,
            )
        read = self._take(last.response, attempt_id(claim.id, len(attempts) - 1))
        if read is None:
            return Outcome(claim.id, key, None, priced, asked=asked, continues=continues, worst_nanos=claim.reserved)
        return Outcome(
            *(claim.id, key, read.status, priced, read.error_type, read.error_message),
            asked=asked,
            continues=continues,
            rules=self._settling.contract.reading.verdict_hash,
            worst_nanos=claim.reserved,
        )

    def give_up(self, claim: Claim, attempts: Iterable[Attempt]) -> Outcome:
        """The outcome of a turn that was given up: what was tried is kept, the key stays open."""
        priced = tuple((attempt, self._price(attempt)) for attempt in attempts)
        return Outcome(
            *(claim.id, self._first.key, None, priced),
            asked=self._asked,
            continues=self._continues,
            worst_nanos=claim.reserved,
        )

    def go_on(self, claim: Claim, turns: Iterable[Turn]) -> Outcome | None:
        """Go through the answered turns of an earlier start; their outcome, where they come to a verdict by now."""
        for turn in turns:
            if turn.asked != self._asked:
                continue
            try:
                response = decode(200, {}, turn.body)
            except TransportError:
                # It was readable when it was kept; for a stricter reader of today it is asked again.
                continue
            read = self._take(response, turn.attempt)
            if read is not None:
                return Outcome(
                    *(claim.id, self._first.key, read.status, (), read.error_type, read.error_message),
                    decided=turn.attempt,
                    rules=self._settling.contract.reading.verdict_hash,
                )
        return None

    def _take(self, response: Response, attempt: int) -> Read | None:
        """Read the answer to `request`; None where `request` is now another turn."""
        if response.stop_reason == PAUSED and self._pauses < MAX_PAUSES and (turns := paused_turns(response.raw)):
            self._pauses += 1
            self._text_before += response.text
            self._continues = attempt
            self._append(turns)
            return None
        contract = self._settling.contract
        whole = replace(response, text=self._text_before + response.text) if self._text_before else response
        read = contract.reading.read(whole)
        if read.status != "invalid" or read.error_message is None or self._repairs == contract.repair:
            return read
        try:
            turns = repair_turns(response.raw, read.error_message)
            orjson.dumps(turns)
        except (orjson.JSONEncodeError, LookupError, TypeError, AttributeError):
            # Answers may have any shape; one that cannot be sent back is judged as it stands.
            return read
        self._repairs += 1
        self._text_before = ""
        self._continues = None
        self._append(turns)
        return None

    def _append(self, turns: list[dict[str, Any]]) -> None:
        self._turns += turns
        appended = orjson.dumps(self._turns)
        self._asked = KeyRecipe.turn(self._first.key, appended)
        # A prompt ends with the bracket that closes its messages.
        prompt = b"%b,%b" % (self._first.prompt[:-1], appended[1:])
        self.request = Request(self._first.key, self._first.row_id, prompt)

    def _price(self, attempt: Attempt) -> Price:
        """What an attempt cost: nothing where it was not answered, or where the answer is not billed."""
        response, settling = attempt.response, self._settling
        if response is None:
            return Price(0, None)
        if not verdict(response).billed and response.reported_nanos is None:
            return Price(0, "table", "refused before any output")
        return settling.pricer.price(
            response.usage,
            answered=response.model,
            asked=settling.model,
            at=attempt.started_at,
            reported_nanos=response.reported_nanos,
            terms=response.terms,
        )

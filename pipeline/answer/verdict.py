"""The status that a response earns its row, by its stop reason."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.records import Response, Status

TRUNCATING = frozenset({"max_tokens", "model_context_window_exceeded", "pause_turn"})
"""Stop reasons after which the model would have gone on (messages-api §3.1)."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response is worth.

    Attributes:
        status: `ok`, `truncated` or `refused`.
        billed: False for a refusal before any output, which the API does not bill though it counts its tokens.
    """

    status: Status
    billed: bool = True


OK = Verdict("ok")


def verdict(response: Response) -> Verdict:
    """Judge a response by its stop reason; a missing or unknown one keeps the text as `ok`.

    Local servers leave the stop reason out, and the list of reasons is open-ended, so only the reasons that
    are known to mean less than a whole answer are marked.
    """
    if response.stop_reason in TRUNCATING:
        return Verdict("truncated")
    if response.stop_reason == "refusal":
        return Verdict("refused", billed=bool(response.text))
    return OK

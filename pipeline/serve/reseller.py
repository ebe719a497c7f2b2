"""What aimlapi adds to the Messages API: costs, and errors in a body of its own (messages-api §3.1, §5.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.serve.answers import Answer
from pipeline.serve.refusals import REFUSALS, Refusal

MARKUP = 1.3
CREDITS_PER_USD = 2_000_000
AT = "2026-11-22T12:00:00.000Z"
"""An answer is a function of the request alone, so its time stands still."""

PRICES: Mapping[str, tuple[float, float]] = {"haiku": (1.0, 5.0), "sonnet": (3.0, 15.0), "opus": (5.0, 25.0)}
"""USD per million tokens, input and output, by the line that a model's name holds."""
OTHER_PRICES = (3.0, 15.0)

NO_CREDIT = Refusal(
    403, "403 without credit", "You've run out of credits. Please top up your balance or update your payment method."
)
REFUSALS_HERE: Mapping[str, Refusal] = {**REFUSALS, "credit": NO_CREDIT}
"""Without credit the reseller answers 403, where the Messages API has a 400."""


def usd_spent(answer: Answer) -> float:
    """What an answer costs, in whole millionths of a USD; a refusal before any output costs nothing."""
    if answer.stop_reason == "refusal":
        return 0.0
    name = answer.model.lower()
    into, out = next((price for line, price in PRICES.items() if line in name), OTHER_PRICES)
    return round((answer.input_tokens * into + answer.output_tokens * out) * MARKUP) / 1_000_000


def meta(answer: Answer) -> dict[str, Any]:
    """Give the member that tells the cost."""
    spent = usd_spent(answer)
    return {"usage": {"credits_used": round(spent * CREDITS_PER_USD), "usd_spent": spent}}


def cost_headers(answer: Answer) -> dict[str, str]:
    """Give the headers that tell the cost of a plain answer."""
    spent = usd_spent(answer)
    return {
        "x-aimlapi-credits-used": str(round(spent * CREDITS_PER_USD)),
        "x-aimlapi-usd-spent": f"{spent:.6f}",
    }


def error(status: int, message: str, request_id: str, _error_code: str | None = None) -> dict[str, Any]:
    """Write an error down; the reasons of a refused body follow the words that it has for all of them."""
    return {
        "message": f"Body validation error! {message}" if status == 400 else message,
        "path": "/v1/messages",
        "requestId": request_id,
        "statusCode": status,
        "timestamp": AT,
    }

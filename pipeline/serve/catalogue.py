"""The models that the simulator lists (messages-api §8)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.serve.fields import ApiError
from pipeline.serve.models import rules_of

LISTED = (
    *("claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5", "claude-opus-5", "claude-sonnet-5"),
    *("claude-opus-4-8", "claude-opus-4-7", "claude-opus-4-6", "claude-sonnet-4-6"),
    *("claude-opus-4-5", "claude-sonnet-4-5", "claude-haiku-4-5"),
)
"""What is listed where the rehearsal names no models."""

_CREATED = "2025-01-01T00:00:00Z"
_MOST, _USUAL = 1000, 20


def item(models: tuple[str, ...], name: str) -> dict[str, Any]:
    """Describe a model.

    Raises:
        ApiError: 404, it is not served.
    """
    rules = rules_of(name)
    if (models and name not in models) or rules.retired:
        raise ApiError(404, f"model: {name}")
    return {
        "id": name,
        "type": "model",
        "display_name": name.replace("-", " ").title(),
        "created_at": _CREATED,
        "lifecycle": "active",
        "deprecated_at": None,
        "retires_at": None,
        "line": None,
        "max_input_tokens": 1_000_000 if rules.geo else 200_000,
        "max_tokens": rules.max_output_tokens,
        "capabilities": None,
    }


def page(models: tuple[str, ...], query: Mapping[str, str]) -> dict[str, Any]:
    """List models: `limit` of them, after `after_id` or before `before_id`.

    Raises:
        ApiError: 400 for a limit that is none.
    """
    names = list(models or LISTED)
    limit = query.get("limit", str(_USUAL))
    if not limit.isdigit() or not 1 <= int(limit) <= _MOST:
        raise ApiError(400, "limit: Input should be greater than or equal to 1 and less than or equal to 1000")
    if (after := query.get("after_id")) in names:
        names = names[names.index(after) + 1 :]
    if (before := query.get("before_id")) in names:
        names = names[: names.index(before)]
    shown = [item((), name) for name in names[: int(limit)]]
    return {
        "data": shown,
        "has_more": len(names) > len(shown),
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
    }

"""What each Claude model accepts, by its name (messages-api §1.6, §6, §9); other names accept everything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

THINKING_TYPES = frozenset({"enabled", "adaptive", "disabled", "between_tools"})

_NAME = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos)-(\d{1,2})(?:-(\d{1,2}))?(?:-\d{8}|-latest)?")
_RETIRED_GENERATION = re.compile(r"claude-(?:instant|[123])(?:[-.]|$)")
_LAST_RETIRED = (4, 1)


@dataclass(frozen=True, slots=True)
class ModelRules:
    """What one model accepts.

    Attributes:
        retired: it is no longer served.
        max_output_tokens: the largest `max_tokens`; None where none is known.
        prefill: the messages may end with an assistant turn.
        sampling: `temperature`, `top_p`, `top_k` may differ from their defaults.
        thinking: the types of `thinking` it takes.
        thinks_unasked: it thinks when the request does not mention `thinking`.
        forced_tools: `tool_choice` may force a tool.
        geo: `inference_geo` may be given.
        shows_thoughts: a thinking block has words unless `display` says otherwise.
        least_cached_tokens: the shortest prefix that the prompt cache keeps.
        picture_side: pixels of the longer side above which a picture is scaled down.
        picture_tokens: what one picture counts for at most, likewise.
        most_pictures: in a request.
    """

    retired: bool = False
    max_output_tokens: int | None = None
    prefill: bool = True
    sampling: bool = True
    thinking: frozenset[str] = THINKING_TYPES
    thinks_unasked: bool = False
    forced_tools: bool = True
    geo: bool = True
    shows_thoughts: bool = True
    least_cached_tokens: int = 1024
    picture_side: int = 1568
    picture_tokens: int = 1568
    most_pictures: int = 600


@lru_cache(maxsize=1024)
def rules_of(model: str) -> ModelRules:
    """Give the rules of a model by its wire name, with or without a reseller's ``anthropic/`` prefix."""
    name = model.removeprefix("anthropic/").replace(".", "-").lower()
    if _RETIRED_GENERATION.match(name):
        return ModelRules(retired=True)
    found = _NAME.fullmatch(name)
    if found is None:
        return ModelRules()
    line, major, minor = found[1], int(found[2]), int(found[3] or 0)
    version = (major, minor)
    if version <= _LAST_RETIRED:
        return ModelRules(retired=True)
    thinking, thinks_unasked = _thinking(line, version)
    return ModelRules(
        max_output_tokens=64_000 if version < (4, 6) else 128_000,
        prefill=version < (4, 6),
        sampling=version < (4, 7),
        thinking=thinking,
        thinks_unasked=thinks_unasked,
        forced_tools=version < ((5, 1) if line in {"fable", "mythos"} else (5, 5)) or line == "haiku",
        geo=version >= (4, 6),
        shows_thoughts=version < (4, 7),
        least_cached_tokens=_least_cached(line, version),
        picture_side=1568 if version < (4, 7) else 2576,
        picture_tokens=1568 if version < (4, 7) else 4784,
        most_pictures=100 if version < (4, 6) else 600,
    )


def _least_cached(line: str, version: tuple[int, int]) -> int:
    if line in {"fable", "mythos"} or version >= (5, 5) or (line == "opus" and version >= (5, 0)):
        return 512
    if line == "opus" and version < (4, 8):
        return 2048 if version == (4, 7) else 4096
    return 4096 if line == "haiku" else 1024


def _thinking(line: str, version: tuple[int, int]) -> tuple[frozenset[str], bool]:
    if version < (4, 6):
        return frozenset({"enabled", "disabled"}), False
    if version < (4, 7):
        return frozenset({"enabled", "adaptive", "disabled"}), False
    if version < (5, 0):
        return frozenset({"adaptive", "disabled"}), False
    if line in {"fable", "mythos"} or (line == "opus" and version >= (5, 5)):
        return frozenset({"adaptive"}), True
    if line == "sonnet" and version >= (5, 5):
        return frozenset({"adaptive", "between_tools"}), True
    return frozenset({"adaptive", "disabled"}), True

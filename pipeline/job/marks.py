"""Cache marks of a job: those that it writes itself, beside those that `prompt.cache` asks for (messages-api §1.3)."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.job.blocks import blocks_of, member
from pipeline.job.request import CacheControl, RequestFields, Tool
from pipeline.job.rules import MAX_MARKS
from pipeline.job.sections import Prompt

Mark = tuple[str, str]
"""The place of a mark, and how long it lasts."""


def written_marks(prompt: Prompt, request: RequestFields) -> Iterator[Mark]:
    """Yield the marks that a job writes at tools and blocks, in the order of the wire."""
    for index, tool in enumerate(request.tools or ()):
        yield from _mark(f"request.tools.{index}", tool.cache_control if isinstance(tool, Tool) else tool)
    for index, block in enumerate(blocks_of(prompt.system)):
        yield from _mark(f"prompt.system.{index}", member(block, "cache_control"))
    for turn, said in enumerate(prompt.messages):
        for index, block in enumerate(blocks_of(said.content)):
            yield from _mark(f"prompt.messages.{turn}.content.{index}", member(block, "cache_control"))


def _mark(path: str, mark: object) -> Iterator[Mark]:
    if isinstance(mark, dict) and "cache_control" in mark:  # a tool of the server, whole
        mark = mark["cache_control"]
    if isinstance(mark, CacheControl):
        yield f"{path}.cache_control", mark.ttl or "5m"
    elif isinstance(mark, dict) and mark.get("type") == "ephemeral":
        yield f"{path}.cache_control", str(mark.get("ttl", "5m"))


def check_marks(prompt: Prompt, request: RequestFields) -> Iterator[tuple[str, str]]:
    """Find marks that no request can bear together: places with words.

    A request bears four, and a long one never stands behind a short one. Where `prompt.cache` puts its own is known
    only once the templates are bound, so those in the prompt must last as long as it does.
    """
    marks = list(written_marks(prompt, request))
    top = request.cache_control
    several = len(marks) + (top is not None) + bool(prompt.cache)
    if several > MAX_MARKS:
        found = (
            f"{several} cache marks, prompt.cache and request.cache_control counted, and a request bears {MAX_MARKS}"
        )
        place = "prompt.cache" if prompt.cache else marks[MAX_MARKS - (top is not None)][0]
        yield place, f"there are {found}; remove those that matter least"
    if top is not None and prompt.cache:
        yield (
            "request.cache_control",
            "stands beside prompt.cache, and keeps each row's end too, which is paid and read by no other: keep one",
        )
    short = None
    for place, ttl in marks:
        if ttl == "1h" and short is not None:
            yield place, f"lasts 1h behind one of 5m ({short}); the longer ones come first"
        short = place if ttl == "5m" and short is None else short
    for place, ttl in marks if prompt.cache else ():
        in_tools = place.startswith("request.")
        if ttl != prompt.cache and not (in_tools and ttl == "1h"):
            yield place, f"lasts {ttl}, and prompt.cache {prompt.cache}; write the same in both"

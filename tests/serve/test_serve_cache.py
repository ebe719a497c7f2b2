"""The simulator's prompt cache: written once, read while it lasts, and told in usage, ledger and limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_clients import Client, body_of, run, serving

from pipeline.serve.asked import tokens_up
from pipeline.serve.cache import LOOK_BACK_BLOCKS, PromptCache, prefixes
from pipeline.serve.dialects import NATIVE
from pipeline.serve.models import rules_of
from pipeline.serve.validation import ApiError, check

SHORT, LONG = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
PLAIN = "claude-sonnet-4-5"  # keeps prefixes of 1,024 tokens and more


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def block(text: str, mark: dict[str, str] | None = None) -> dict[str, Any]:
    return {"type": "text", "text": text, **({} if mark is None else {"cache_control": mark})}


def words(tokens: int, word: str = "word") -> str:
    return (word[:3] + " ") * tokens


async def usage_of(client: Client, **members: Any) -> tuple[int, int, int]:
    """Input, written, read."""
    usage = (await client.post(body_of(**members))).json["usage"]
    split = usage["cache_creation"]
    assert sum(split.values()) == usage["cache_creation_input_tokens"]
    return usage["input_tokens"], usage["cache_creation_input_tokens"], usage["cache_read_input_tokens"]


def test_a_prefix_is_written_once_and_then_read_by_whatever_follows_it() -> None:
    async def journey() -> None:
        async with serving() as client:
            system = [block(words(2000), SHORT)]
            assert await usage_of(client, text="rowA", system=system) == (1, 2000, 0)
            assert await usage_of(client, text="rowB" * 5, system=system) == (5, 0, 2000)
            assert await usage_of(client, text="rowA", system=[block(words(2000, "else"), SHORT)]) == (1, 2000, 0)
            assert await usage_of(client, text="rowA", system=words(2000)) == (2001, 0, 0)
            ledger = await client.ledger()
            stats = (await client.get("/debug/stats")).json["usage"]
        assert [line["marks"] for line in ledger] == [1, 1, 1, 0]
        assert ledger[1]["usage"] == {
            "input_tokens": 5,
            "output_tokens": 10,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 2000,
        }
        assert (stats["cache_creation_input_tokens"], stats["cache_read_input_tokens"]) == (4000, 2000)

    run(journey())


def test_a_prefix_can_be_read_only_when_the_first_answer_has_begun() -> None:
    async def journey() -> None:
        async with serving(latency_ms=60) as client:
            system = [block(words(2000), SHORT)]
            together = await asyncio.gather(*(usage_of(client, text=f"row{k}", system=system) for k in range(4)))
            assert together == [(1, 2000, 0)] * 4
            assert await usage_of(client, text="rowX", system=system) == (1, 0, 2000)

    run(journey())


@pytest.mark.parametrize(("mark", "secs"), [(SHORT, 300), (LONG, 3600)])
def test_a_prefix_lasts_for_its_time_from_when_it_was_last_used(mark: dict[str, str], secs: float) -> None:
    async def journey() -> None:
        clock = Clock()
        async with serving(clock=clock) as client:
            system = [block(words(2000), mark)]
            assert await usage_of(client, system=system) == (3, 2000, 0)
            for _ in range(3):
                clock.now += secs - 1
                assert await usage_of(client, system=system) == (3, 0, 2000)
            clock.now += secs
            assert await usage_of(client, system=system) == (3, 2000, 0)

    run(journey())


def test_marks_on_tools_system_and_turns_each_end_a_prefix_and_split_the_writing_by_time() -> None:
    async def journey() -> None:
        async with serving() as client:
            tool = {"name": "f", "input_schema": {"type": "object", "description": words(1500)}, "cache_control": LONG}
            turn = [block(words(1000), SHORT), block("tail")]
            members: dict[str, Any] = {
                "tools": [tool],
                "system": [block(words(2000), LONG)],
                "messages": [{"role": "user", "content": turn}],
            }
            first = (await client.post(body_of(**members))).json["usage"]
            second = (await client.post(body_of(**members))).json["usage"]
            turn[0] = block(words(1000, "else"), SHORT)
            third = (await client.post(body_of(**members))).json["usage"]
        # Where blocks meet within a token, it counts for the later one.
        tools = tokens_up(6000 + len('{"name":"f","input_schema":{"type":"object","description":""}}'))
        assert first["cache_creation"] == {
            "ephemeral_1h_input_tokens": tools + 2000,
            "ephemeral_5m_input_tokens": 1000,
        }
        assert (second["input_tokens"], second["cache_read_input_tokens"]) == (1, tools + 3000)
        assert (third["cache_creation_input_tokens"], third["cache_read_input_tokens"]) == (1000, tools + 2000)

    run(journey())


def test_a_mark_of_the_request_itself_ends_its_last_block() -> None:
    async def journey() -> None:
        async with serving() as client:
            members = {"text": words(2000), "cache_control": SHORT}
            assert await usage_of(client, **members) == (0, 2000, 0)
            assert await usage_of(client, **members) == (0, 0, 2000)

    run(journey())


@pytest.mark.parametrize(
    ("model", "least"),
    [
        ("claude-opus-5", 512),
        ("claude-haiku-5-5", 512),
        ("claude-fable-5-1", 512),
        ("claude-opus-4-8", 1024),
        ("claude-sonnet-5", 1024),
        ("claude-sonnet-4-6", 1024),
        ("claude-opus-4-7", 2048),
        ("claude-opus-4-6", 4096),
        ("claude-haiku-4-5", 4096),
    ],
)
def test_what_is_shorter_than_the_model_s_minimum_is_not_kept(model: str, least: int) -> None:
    assert rules_of(model).least_cached_tokens == least

    async def journey() -> None:
        async with serving() as client:
            for tokens, kept in ((least - 1, False), (least, True)):
                for read in (False, True):
                    found = await usage_of(client, text="rowA", model=model, system=[block(words(tokens), SHORT)])
                    expected = (1, 0, tokens) if read else (1, tokens, 0)
                    assert found == (expected if kept else (tokens + 1, 0, 0))

    run(journey())


def test_a_longer_conversation_reads_what_a_shorter_one_wrote_some_blocks_back() -> None:
    async def journey() -> None:
        turns: list[Any] = [{"role": "user", "content": [block(words(2000), SHORT)]}]
        async with serving() as client:
            assert await usage_of(client, messages=turns) == (0, 2000, 0)
            for behind in (LOOK_BACK_BLOCKS - 1, LOOK_BACK_BLOCKS):
                more = [{"role": "user", "content": "word"}] * (behind - 1)
                last = [{"role": "user", "content": [block(f"new {behind}", SHORT)]}]
                longer = [{"role": "user", "content": words(2000)}, *more, *last]
                _, _, read = await usage_of(client, messages=longer)
                assert read == (2000 if behind < LOOK_BACK_BLOCKS else 0)

    run(journey())


def test_a_refused_request_writes_nothing() -> None:
    async def journey() -> None:
        async with serving(fault_whens=()) as client:
            system = [block(words(2000), SHORT)]
            assert (await client.post(body_of(system=system, foo=1))).status == 400
            assert await usage_of(client, system=system) == (3, 2000, 0)

    run(journey())


def test_tokens_read_do_not_count_for_the_limit() -> None:
    async def journey() -> None:
        # A bucket of 4,000 a second, which the prompt takes more than half of.
        async with serving(itpm=240_000, clock=Clock()) as client:
            system = [block(words(3900), SHORT)]
            assert await usage_of(client, text="rowA", system=system) == (1, 3900, 0)
            for row in range(20):
                assert await usage_of(client, text=f"row{row % 10}", system=system) == (1, 0, 3900)

    run(journey())


def test_an_hour_may_not_follow_five_minutes() -> None:
    body = body_of(system=[block("a", SHORT)], messages=[{"role": "user", "content": [block("b", LONG)]}])
    with pytest.raises(ApiError, match="a ttl='1h' cache_control block must not come after a ttl='5m'"):
        check(body, "2023-06-01", NATIVE.rules)


@given(
    rows=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=6),
    marked=st.lists(st.integers(0, 4), max_size=3),
    least=st.integers(0, 6),
)
def test_what_is_read_written_and_left_makes_the_whole_prompt(
    rows: list[list[int]], marked: list[int], least: int
) -> None:
    cache = PromptCache()
    seen: set[tuple[int, ...]] = set()
    for row in rows:
        blocks = [block(str(n) * 8, SHORT if place in marked else None) for place, n in enumerate(row)]
        prompt = prefixes({"model": "m", "messages": [{"role": "user", "content": blocks}]}, tokens_up)
        cached = cache.look_up(prompt, least, 0.0)
        last = max((place for place in marked if place < len(row) and 2 * (place + 1) >= least), default=None)
        assert cached.read + cached.created == (0 if last is None else 2 * (last + 1))
        longest = max((place + 1 for place in range(len(row)) if tuple(row[: place + 1]) in seen), default=0)
        assert cached.read == (0 if last is None else 2 * min(longest, last + 1))
        cache.begin(cached, 0.0)
        seen |= {tuple(row[: place + 1]) for place in marked if place < len(row) and 2 * (place + 1) >= least}

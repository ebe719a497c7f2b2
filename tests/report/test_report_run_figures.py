"""The arithmetic of a run report: percentiles, spreads, working time, and text that is shown and not obeyed."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.page.text import line, shown
from pipeline.report.run.asked import prompt_text
from pipeline.report.run.figures import duration, mean, millis, percentiles, share
from pipeline.report.run.sample import Spread
from pipeline.report.run.span import MICROS, Clock, Work


@given(st.lists(st.integers(0, 50), min_size=1, max_size=200))
def test_percentiles_of_a_histogram_are_the_nearest_ranks_of_its_values(values: list[int]) -> None:
    ordered = sorted(values)
    shares = (0.5, 0.9, 0.95, 0.99)
    expected = [ordered[max(0, math.ceil(round(part * len(ordered), 6)) - 1)] for part in shares]
    assert percentiles(sorted(Counter(values).items()), shares) == expected
    assert mean(sorted(Counter(values).items())) == pytest.approx(sum(values) / len(values))


@given(st.integers(1, 9), st.integers(0, 500))
def test_a_spread_is_even_bounded_and_the_same_each_time(most: int, number: int) -> None:
    spread = Spread[int](most)
    for value in range(number):
        if spread.wants():
            spread.keep(value)
        assert len(spread.kept) < 2 * most
    chosen = spread.chosen
    assert len(chosen) == min(most, number)
    assert chosen[:1] == [0][:number]
    gaps = {later - earlier for earlier, later in pairwise(chosen)}
    assert max(gaps, default=0) <= 2 * min(gaps, default=0)


def test_starts_are_laid_end_to_end() -> None:
    night = 10 * 3600 * MICROS
    clock = Clock.of([Work(1, 0, 300 * MICROS), Work(2, night, night + 100 * MICROS)], 10_000, 50)
    assert (clock.secs, clock.steps, clock.step_secs) == (400.0, 50, 8.0)
    assert clock.breaks == [5.0]
    assert clock.words == "minutes of work since the first call, breaks left out"
    assert clock.edges(49) == pytest.approx((392 / 60, 400 / 60))


def test_few_calls_have_few_steps_and_no_time_at_all_is_some() -> None:
    assert Clock.of([Work(1, 5, 5)], 1, 50).steps == 6
    assert Clock.of([], 0, 50).secs > 0


@pytest.mark.parametrize(
    ("ms", "words"), [(85, "85 ms"), (1240, "1.24 s"), (12_400, "12.4 s"), (125_000, "2 min 05 s")]
)
def test_latencies_are_written_for_people(ms: int, words: str) -> None:
    assert millis(ms) == words


def test_durations_and_shares_never_say_what_is_not_so() -> None:
    assert duration(59.96) == "1 min 00 s"
    assert duration(11_220) == "3 h 07 min"
    assert [share(1, 5000), share(4999, 5000), share(0, 3), share(3, 3), share(1, 3), share(0, 0)] == [
        "under 0.1 %",
        "over 99.9 %",
        "0 %",
        "100 %",
        "33.3 %",
        "-",
    ]


def test_what_a_terminal_or_a_browser_would_obey_is_shown() -> None:
    assert shown("a\x1b[31mred\x07\nb\tc") == "a\\x1b[31mred\\x07\nb\tc"
    assert shown("abc\u202egnp.exe \ud800") == "abc\\u202egnp.exe \\ud800"
    assert shown("x" * 30, 10) == "x" * 10 + " … and 20 more characters"
    assert line("two\r\n  lines") == "two lines"


def test_a_prompt_is_shown_turn_by_turn_and_what_is_no_text_by_its_size() -> None:
    prompt = (
        b'"system":"Be kind.","messages":[{"role":"user","content":[{"type":"image","source":{"data":"AAAA"}},'
        b'{"type":"text","text":"What is it?"}]},{"role":"assistant","content":"A"}]'
    )
    assert prompt_text(prompt) == (
        "system:\nBe kind.\n\nuser:\n[image: 16 characters of JSON]\nWhat is it?\n\nassistant:\nA"
    )
    assert prompt_text(b"no json") == "no json"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"type": "picture", "digest": "00ff", "prepared": "1"}, "[image: harbour.jpg]"),
        ({"type": "picture", "digest": "0000", "prepared": "1"}, "[image]"),
        ({"type": "url", "url": "https://example.org/a/b.png?signature=x"}, "[image: example.org/a/b.png]"),
        ({"type": "base64", "media_type": "image/png", "data": "AAAA" * 100}, "[image: image/png, 300 bytes]"),
        ({"type": "file", "file_id": "file_1"}, "[image: uploaded before]"),
    ],
)
def test_a_picture_in_a_prompt_is_called_by_its_name(source: dict[str, str], words: str) -> None:
    prompt = json.dumps({"messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]})[1:-1]
    assert prompt_text(prompt.encode(), {"00ff": "harbour.jpg"}) == f"user:\n{words}"

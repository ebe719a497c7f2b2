from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire.sse import Event, EventTooLongError, Parser, is_stream


def parsed(*pieces: bytes, cap: int = 10_000) -> list[Event]:
    parser = Parser(cap)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return events + parser.close()


def bare(*data: bytes) -> list[Event]:
    return [Event("", each) for each in data]


@pytest.mark.parametrize(
    ("said", "events"),
    [
        (b"event: ping\ndata: {}\n\n", [Event("ping", b"{}")]),
        (b"data: 1\n\ndata: 2\n\n", bare(b"1", b"2")),
        (b"event: a\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n", [Event("a", b"1"), *bare(b"2")]),
        (b"event: a\rdata: 1\r\rdata: 2\r\r", [Event("a", b"1"), *bare(b"2")]),
        (b"data: 1\n\r\n", bare(b"1")),
        (b"data:1\n\ndata:  2\n\n", bare(b"1", b" 2")),
        (b"data: {\ndata: }\n\n", bare(b"{\n}")),
        (b": hello\n\ndata: 1\n: again\n\n", bare(b"1")),
        (b"id: 7\nretry: 100\nnew: x\ndata: 1\n\n", bare(b"1")),
        (b"event: a\n\ndata: 1\n\n", bare(b"1")),
        (b"data\n\ndata:\n\ndata: 1\n\n", bare(b"1")),
        (b"data: 1\nevent: late\n\n", [Event("late", b"1")]),
        (b"event: a\nevent: b\ndata: 1\n\n", [Event("b", b"1")]),
        (b"\xef\xbb\xbfdata: 1\n\n", bare(b"1")),
        (b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n", bare(b"1")),
        (b"\n\n\ndata: 1\n\n\n\n", bare(b"1")),
        (b"data: a:b: c\n\n", bare(b"a:b: c")),
        ("data: é\u2028\x85\x0b日\n\n".encode(), bare("é\u2028\x85\x0b日".encode())),
        (b"event: \xff\ndata: \xff\n\n", [Event("\ufffd", b"\xff")]),
        (b"data: 1\n\ndata: 2", bare(b"1", b"2")),
        (b"data: 1\n", bare(b"1")),
        (b"", []),
        (b"\r", []),
    ],
)
def test_events_are_the_same_in_whatever_pieces_they_come(said: bytes, events: list[Event]) -> None:
    assert parsed(said) == events
    assert parsed(*(said[nth : nth + 1] for nth in range(len(said)))) == events
    for cut in range(len(said)):
        assert parsed(said[:cut], b"", said[cut:]) == events


@given(
    st.lists(st.sampled_from([b"\n", b"\r", b"\r\n", b"data:", b"event", b": ", b"a", b"\xc3\xa9", b"\xef\xbb\xbf"]))
)
def test_any_bytes_give_the_same_events_whole_and_byte_by_byte(parts: list[bytes]) -> None:
    said = b"".join(parts)
    assert parsed(*(said[nth : nth + 1] for nth in range(len(said)))) == parsed(said)


@pytest.mark.parametrize(
    "said", [b"data: " + b"a" * 100, b"data: aaaaaaaaaaaaaaaaaa\n" * 6, b"data: aaaa\n" * 5 + b"data: " + b"a" * 50]
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_longer_than_the_cap_is_not_held(said: bytes, size: int) -> None:
    with pytest.raises(EventTooLongError, match="more than 99 bytes"):
        parsed(*(said[at : at + size] for at in range(0, len(said), size)), cap=99)


def test_a_line_without_end_is_left_while_it_comes() -> None:
    parser = Parser(99)
    for _ in range(99):
        parser.feed(b"a")
    with pytest.raises(EventTooLongError):
        parser.feed(b"a")


def test_the_cap_is_for_one_event_and_not_for_all() -> None:
    assert len(parsed(b"data: aaaaaaaa\n\n" * 1000, cap=20)) == 1000


@pytest.mark.parametrize(
    ("start", "declared", "expected"),
    [
        (b"", True, None),
        (b"", False, None),
        (b"  \n", True, None),
        (b"event: message_start", True, True),
        (b"event: message_start", False, True),
        (b"data: {", False, True),
        (b"data", False, None),
        (b"e", False, None),
        (b": hello", False, True),
        (b"retry: 1", False, True),
        (b"\n\nid: 1", False, True),
        (b"\xef", False, None),
        (b"\xef\xbb\xbf", True, None),
        (b"\xef\xbb\xbfdata: 1", False, True),
        (b'\xef\xbb\xbf{"a"', True, False),
        (b' {"type":', True, False),
        (b"<html>", True, False),
        (b"[", True, False),
        (b"dat: {", False, False),
        (b"custom: 1", True, True),
        (b"busy", False, False),
        (b" " * 5000, False, False),
        (b" " * 5000, True, True),
    ],
)
def test_a_stream_is_told_by_its_first_bytes_or_else_by_its_type(
    start: bytes, declared: bool, expected: bool | None
) -> None:
    assert is_stream(start, declared=declared) is expected

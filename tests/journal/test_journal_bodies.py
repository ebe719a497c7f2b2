"""Stored responses come back as they went in, whatever packed them, and a damaged one never does."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.journal import Journal
from pipeline.journal.bodies import Bodies, checksum, dictionary, dictionary_id
from pipeline.journal.maintenance import check

DATA = Path(__file__).parent / "data"
OTHER = zstandard.train_dictionary(
    1024, [f'{{"id":"{n}","words":"so many of them, {n % 7}"}}'.encode() * 3 for n in range(500)]
)


def message(text: str, nth: int = 0) -> bytes:
    return json.dumps(
        {
            "id": f"msg_{nth:024}",
            "type": "message",
            "role": "assistant",
            "model": "claude-haiku-4-5",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": nth, "output_tokens": 7},
        }
    ).encode()


@given(st.binary(max_size=3000) | st.text(max_size=300).map(message))
def test_what_is_packed_comes_back(body: bytes) -> None:
    bodies = Bodies({})
    packed, stored = bodies.pack(body)
    assert bodies.unpack(packed, stored) == body
    assert (zstandard.get_frame_parameters(packed).dict_id, stored) == (dictionary_id(dictionary()), checksum(body))


@given(st.binary(max_size=3000) | st.text(max_size=300).map(message), st.sampled_from([None, OTHER]))
def test_what_was_packed_without_a_dictionary_or_by_an_older_one_comes_back(
    body: bytes, words: zstandard.ZstdCompressionDict | None
) -> None:
    packed = zstandard.ZstdCompressor(level=3, dict_data=words).compress(body)
    stored = {OTHER.dict_id(): OTHER.as_bytes()}
    assert Bodies(stored).unpack(packed, checksum(body)) == body
    # What needs nothing of a dictionary may be read without it; nothing else ever comes back.
    assert Bodies({}).unpack(packed, checksum(body)) in (None, body)


@given(st.text(max_size=300).map(message), st.data())
def test_a_byte_that_changed_is_noticed(body: bytes, data: st.DataObject) -> None:
    bodies = Bodies({})
    packed, stored = bodies.pack(body)
    at = data.draw(st.integers(0, len(packed) - 1))
    damaged = packed[:at] + bytes([packed[at] ^ data.draw(st.integers(1, 255))]) + packed[at + 1 :]
    # A bit that means nothing may change, such as one that is reserved; what comes back is the response or nothing.
    assert bodies.unpack(damaged, stored) in (None, body)
    assert bodies.unpack(packed[:at], stored) is None
    assert bodies.unpack(packed, checksum(b"another")) is None


@pytest.mark.parametrize("body", ["text", None, 7])
def test_what_is_no_blob_is_damaged(body: object) -> None:
    assert Bodies({}).unpack(body, b"12345678") is None  # type: ignore[arg-type]


def test_a_usual_answer_takes_less_than_half_of_what_zstd_alone_takes() -> None:
    raw = message("The sensor was out of its usual span for three hours, then came back.", 270)
    packed, _ = Bodies({}).pack(raw)
    assert len(packed) < len(zstandard.compress(raw)) / 2


def test_a_journal_holds_its_dictionary_once(tmp_path: Path) -> None:
    for _ in range(2):
        Journal.open(tmp_path / "a.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as db:
        assert db.execute("SELECT id, words FROM dictionary").fetchall() == [
            (dictionary_id(dictionary()), dictionary())
        ]
    assert zstandard.ZstdCompressionDict(dictionary()).dict_id() == dictionary_id(dictionary())


@pytest.mark.parametrize("words", [b"", b"no dictionary", dictionary()[:200]])
def test_a_damaged_dictionary_in_the_journal_harms_no_answer(tmp_path: Path, words: bytes) -> None:
    path = tmp_path / "small.sqlite"
    shutil.copy(DATA / "plain-v3.sqlite", path)
    Journal.open(path).close()
    with closing(sqlite3.connect(path)) as db, db:
        packed, stored = Bodies({}).pack(message("new"))
        db.execute("UPDATE response SET body = ?, checksum = ? WHERE attempt = 1024", (packed, stored))
        db.execute("UPDATE dictionary SET words = ?", (words,))
        db.execute("INSERT INTO dictionary VALUES (7, ?)", (words,))
    number = dictionary_id(dictionary())
    journal = Journal.read(path)
    assert journal is not None
    found = check(journal)
    assert (found.damaged, found.problems) == ((), (f"2 dictionaries are damaged: 7, {number}",))
    journal.close()
    # The next start puts this program's own back, so that other programs can read what it packs.
    journal = Journal.open(path)
    assert check(journal).problems == ("1 dictionary is damaged: 7",)
    journal.close()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT words FROM dictionary WHERE id = ?", (number,)).fetchone() == (dictionary(),)


def test_a_dictionary_of_another_program_is_no_damage(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "a.sqlite")
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as db, db:
        db.execute("INSERT INTO dictionary VALUES (?, ?)", (OTHER.dict_id(), OTHER.as_bytes()))
    assert check(journal).problems == ()
    journal.close()


def test_a_journal_of_before_dictionaries_keeps_its_answers_and_packs_new_ones_by_one(tmp_path: Path) -> None:
    path = tmp_path / "plain.sqlite"
    shutil.copy(DATA / "plain-v3.sqlite", path)
    keys = [bytes([n]) * 16 for n in range(1, 4)]
    for _ in range(2):
        journal = Journal.open(path)
        used = {key: known[0].attempt for key, known in journal.find(keys).items()}
        texts = [json.loads(answer.body or b"")["content"][0]["text"] for answer in journal.answers(used).values()]
        assert texts == ["answer 0", "answer 1", "answer 2"]
        assert check(journal).problems == ()
        journal.close()
    with closing(sqlite3.connect(path)) as db:
        assert [
            zstandard.get_frame_parameters(body).dict_id for (body,) in db.execute("SELECT body FROM response")
        ] == [0] * 3
        assert db.execute("SELECT id FROM dictionary").fetchall() == [(dictionary_id(dictionary()),)]

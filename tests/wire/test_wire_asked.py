"""What a server says, on one line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.wire.asked import MAX_MESSAGE_CHARS, Asked, one_line


@given(st.text(max_size=50))
def test_a_text_of_any_characters_becomes_one_printable_line_without_gaps(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert line.split(" ") == "".join(c if c.isprintable() else " " for c in text).split() or not line


@given(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=MAX_MESSAGE_CHARS))
def test_letters_and_digits_stay_as_they_are(word: str) -> None:
    assert one_line(word) == word


@given(st.text(st.characters(), max_size=50))
def test_words_that_are_no_utf_8_are_held_against_the_prompt_too(text: str) -> None:
    """Headers come with bytes of any kind, which Python keeps as surrogates."""
    prompt = b'"messages":[{"role":"user","content":"a prompt that nobody repeats"}]'
    assert Asked().clean(text, prompt) == Asked().clean(text)
    said = Asked().clean(f"{text}\udce9: a prompt that nobody repeats", prompt)
    assert "nobody repeats" not in said
    assert said.isprintable()

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.wire import body, envelope

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
FIELDS = st.dictionaries(
    TEXT.filter(lambda name: name not in {"system", "messages"}),
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXT | st.lists(TEXT),
)


@given(FIELDS, TEXT)
def test_a_body_holds_the_fields_and_the_prompt_as_they_were(fields: dict[str, Any], text: str) -> None:
    messages = [{"role": "user", "content": text}]
    prompt = b'"messages":' + orjson.dumps(messages)
    assert orjson.loads(body(envelope(fields), prompt)) == {**fields, "messages": messages}


def test_the_shared_members_come_first_and_the_prompt_after() -> None:
    written = body(envelope({"model": "m", "max_tokens": 8}), b'"system":"s","messages":[]')
    assert written == b'{"model":"m","max_tokens":8,"system":"s","messages":[]}'


@pytest.mark.parametrize("name", ["system", "messages"])
def test_fields_do_not_set_what_the_prompt_makes(name: str) -> None:
    with pytest.raises(JobError, match=f"request: {name} cannot be set here"):
        envelope({name: "x"})


@pytest.mark.parametrize("value", [2**70, {1, 2}, "\ud800"])
def test_what_is_no_json_is_a_broken_job(value: object) -> None:
    with pytest.raises(JobError, match="cannot be written as JSON"):
        envelope({"seed": value})

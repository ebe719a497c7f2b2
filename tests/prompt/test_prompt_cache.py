"""Cache marks: what is marked, that texts stay what they are, and what is warned of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_jobs import (
    ABlock,
    AJob,
    AnEndpoint,
    APrompt,
    ATurn,
    one,
)

from pipeline.errors import PipelineError
from pipeline.prompt import CacheMarks, KeyRecipe, Prompts, cache_marks, cache_warnings
from pipeline.records import Row

LONG = "Read what follows with care, and say in one word what it is about. " * 8
MARK = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
FIELDS = {"model": "claude-haiku-5-5", "max_tokens": 64}
TOOL = {"name": "t", "input_schema": {"type": "object"}}


def job_of(prompt: APrompt, **params: Any) -> AJob:
    return AJob(prompt=replace(prompt, cache=prompt.cache or "5m"), params=params)


def sent(job: AJob, row: Row, fields: Mapping[str, Any] = FIELDS, instructions: str | None = None) -> dict[str, Any]:
    """The whole body, marks included."""
    prompts = Prompts(job, list(row.rows[0]), instructions=instructions)
    marks = cache_marks(job, prompts, fields)
    prompt: dict[str, Any] = orjson.loads(b"{" + marks.apply(prompts.build(row)) + b"}")
    return {**marks.fields, **prompt}


def block(text: str, mark: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "text", "text": text} | ({} if mark is None else {"cache_control": mark})


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


MARKED = [
    ("a constant system text", APrompt(system="Be kind.", user="<<x>>"), [block("Be kind.", MARK)], [user("v")]),
    (
        "the last constant turn",
        APrompt(system="S", messages=(ATurn("user", "a"), ATurn("assistant", "b"), ATurn("user", "<<x>>"))),
        "S",
        [user("a"), {"role": "assistant", "content": [block("b", MARK)]}, user("v")],
    ),
    (
        "the beginning of the text that varies",
        APrompt(system="S", user=LONG + "<<x>>!"),
        "S",
        [user([block(LONG, MARK), block("v!")])],
    ),
    (
        "the beginning of a turn that is not the last",
        APrompt(messages=(ATurn("user", LONG + "<<x>>"), ATurn("assistant", "<<x>>"), ATurn("user", 'b"},{"'))),
        None,
        [user([block(LONG, MARK), block("v")]), {"role": "assistant", "content": "v"}, user('b"},{"')],
    ),
    (
        "the beginning of a system text that varies",
        APrompt(system=LONG + "<<x>> end", user="u"),
        [block(LONG, MARK), block("v end")],
        [user("u")],
    ),
    (
        "params and what is made of them are constant",
        APrompt(system="For <<params.who | upper>><% if params.who %>!<% endif %>", user="<<x>>"),
        [block("For ANN!", MARK)],
        [user("v")],
    ),
    (
        "params are constant at the beginning of a text too",
        APrompt(user="For <<params.who>>: " + LONG + "<% for row in rows %><<row.x>><% endfor %>"),
        None,
        [user([block("For ann: " + LONG, MARK), block("v")])],
    ),
    (
        "a block that is no text",
        APrompt(
            messages=(ATurn("user", ({"type": "document", "source": {"type": "url", "url": "u"}}, ABlock("<<x>>"))),)
        ),
        None,
        [user([{"type": "document", "source": {"type": "url", "url": "u"}, "cache_control": MARK}, block("v")])],
    ),
    (
        "the beginning of a text block",
        APrompt(messages=(ATurn("user", (ABlock("first"), ABlock(LONG + "<<x>>"), ABlock("last"))),)),
        None,
        [user([block("first"), block(LONG, MARK), block("v"), block("last")])],
    ),
    (
        "thoughts bear no mark",
        APrompt(
            messages=(
                ATurn("user", "a"),
                ATurn("assistant", ({"type": "thinking", "thinking": "", "signature": "s"},)),
                ATurn("user", "<<x>>"),
            )
        ),
        None,
        [
            user([block("a", MARK)]),
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "s"}]},
            user("v"),
        ],
    ),
    (
        "all of a prompt that does not vary",
        APrompt(system="S", user="u"),
        "S",
        [user([block("u", MARK)])],
    ),
    ("nothing, where the first text varies at once", APrompt(user="<<x>>" + LONG), None, [user("v" + LONG)]),
    ("no text of white space", APrompt(system="\n \n", user="<<x>>"), "\n \n", [user("v")]),
]


@pytest.mark.parametrize(("prompt", "system", "messages"), [case[1:] for case in MARKED], ids=[c[0] for c in MARKED])
def test_the_mark_stands_as_far_behind_as_rows_share_the_prompt(prompt: APrompt, system: Any, messages: Any) -> None:
    body = sent(job_of(prompt, who="ann"), one(x="v"))
    assert body.get("system") == system
    assert body["messages"] == messages


def test_an_hour_is_written_into_the_mark() -> None:
    body = sent(AJob(prompt=APrompt(system="S", user="<<x>>", cache="1h")), one(x="v"))
    assert body["system"] == [block("S", HOUR)]


def test_without_cache_a_prompt_is_sent_as_it_is_built() -> None:
    job = AJob(prompt=APrompt(system="S", user=LONG + "<<x>>"))
    prompts = Prompts(job, ["x"])
    marks = cache_marks(job, prompts, FIELDS)
    built = prompts.build(one(x="v"))
    assert marks.apply(built) is built
    assert (marks.fields, marks.marked) == (FIELDS, False)


@pytest.mark.parametrize(("text", "whole"), [("", True), (" ", False), ("\n\t ", False), ("\u2003\x1c", False)])
def test_no_block_is_left_empty_or_blank(text: str, *, whole: bool) -> None:
    body = sent(job_of(APrompt(system="S", user=LONG + "<<x>>")), one(x=text))
    if whole:
        assert body["messages"] == [user([block(LONG, MARK)])]
    else:
        assert body["messages"] == [user(LONG + text)]
        assert body["system"] == [block("S", MARK)]


def test_a_text_block_that_ends_where_rows_part_stays_one() -> None:
    prompt = APrompt(messages=(ATurn("user", (ABlock(LONG + "<<x>>"), ABlock("end"))),))
    assert sent(job_of(prompt), one(x=""))["messages"] == [user([block(LONG, MARK), block("end")])]
    assert sent(job_of(prompt), one(x="é"))["messages"] == [user([block(LONG, MARK), block("é"), block("end")])]


@pytest.mark.parametrize(
    ("prompt", "first"),
    [
        (APrompt(user=LONG + "<<x>>"), [block(LONG, MARK), block("v")]),
        (APrompt(user="the same for all"), [block("the same for all", MARK)]),
    ],
)
def test_turns_that_are_added_behind_keep_the_marks(prompt: APrompt, first: list[Any]) -> None:
    job = job_of(prompt)
    prompts = Prompts(job, ["x"])
    built = prompts.build(one(x="v"))
    more = b',{"role":"assistant","content":"no"},{"role":"user","content":"again"}]'
    marked = orjson.loads(b"{" + cache_marks(job, prompts, FIELDS).apply(built[:-1] + more) + b"}")
    assert marked["messages"] == [
        user(first),
        {"role": "assistant", "content": "no"},
        user("again"),
    ]


def test_a_system_prompt_that_comes_out_empty_is_left_out_with_its_mark() -> None:
    job = job_of(APrompt(system="<<params.none>>", user=LONG + "<<x>>"), none=None)
    body = sent(job, one(x="v"))
    assert "system" not in body
    assert body["messages"] == [user([block(LONG, MARK), block("v")])]


def test_instructions_are_constant_text_behind_the_system_prompt() -> None:
    words = "Answer in JSON: {{x}} <<y>>"
    for system, expected in (
        (None, [block(words, MARK)]),
        ("S", [block("S\n\n" + words, MARK)]),
        ("For <<params.who>>", [block("For ann\n\n" + words, MARK)]),
        ((ABlock("S"),), [block("S"), block("\n\n" + words, MARK)]),
    ):
        body = sent(job_of(APrompt(system=system, user="<<x>>"), who="ann"), one(x="v"), instructions=words)
        assert body["system"] == expected
    varying = APrompt(system="<<x>>", user="u")
    assert sent(job_of(varying), one(x="v"), instructions=words)["system"] == "v\n\n" + words
    assert sent(job_of(varying), one(x=None), instructions=words)["system"] == words


def test_tools_are_marked_where_nothing_behind_them_is_constant() -> None:
    later = {**TOOL, "name": "u", "defer_loading": True}
    body = sent(job_of(APrompt(user="<<x>>")), one(x="v"), {**FIELDS, "tools": [TOOL, TOOL, later]})
    assert body["tools"] == [TOOL, {**TOOL, "cache_control": MARK}, later]
    body = sent(job_of(APrompt(system="S", user="<<x>>")), one(x="v"), {**FIELDS, "tools": [TOOL]})
    assert body["tools"] == [TOOL]


def test_the_jobs_own_marks_are_sent_wherever_they_stand() -> None:
    own = {"cache_control": HOUR}
    prompt = APrompt(
        system=(ABlock("S", own), ABlock("T")),
        messages=(ATurn("user", (ABlock("<<x>>", own), {"type": "tool_result", "tool_use_id": "a", **own})),),
    )
    turn = user([block("v", HOUR), {"type": "tool_result", "tool_use_id": "a", "cache_control": HOUR}])
    body = sent(AJob(prompt=prompt), one(x="v"))
    assert (body["system"], body["messages"]) == ([block("S", HOUR), block("T")], [turn])
    body = sent(AJob(prompt=replace(prompt, cache="1h")), one(x="v"))
    assert (body["system"], body["messages"]) == ([block("S", HOUR), block("T", HOUR)], [turn])


@pytest.mark.parametrize("top_level", [False, True])
def test_there_are_never_more_marks_than_the_api_takes(*, top_level: bool) -> None:
    own = {"cache_control": MARK}
    tools = [{**TOOL, **own}, {**TOOL, **own}]
    fields = {**FIELDS, "tools": tools} | ({"cache_control": MARK} if top_level else {})
    blocks = (ABlock("a", own), *(() if top_level else (ABlock("b", own),)), ABlock("c"))
    body = sent(job_of(APrompt(system=blocks, user=LONG + "<<x>>")), one(x="v"), fields)
    assert str(body).count("cache_control") == 4
    assert body["messages"] == [user(LONG + "v")]


def test_marks_and_cache_change_no_key() -> None:
    own = ABlock("S", {"cache_control": MARK})
    plain = AJob(prompt=APrompt(system=(ABlock("S"),), user="<<x>>"))
    marked = AJob(prompt=APrompt(system=(own,), user="<<x>>", cache="1h"))
    keys = {KeyRecipe(job).key(Prompts(job, ["x"]).build(one(x="v"))) for job in (plain, marked)}
    assert len(keys) == 1
    other = AJob(prompt=APrompt(system="S", user="<<x>>"))
    assert KeyRecipe(other).key(Prompts(other, ["x"]).build(one(x="v"))) not in keys


def test_a_text_that_bears_a_mark_of_its_own_is_not_cut() -> None:
    prompt = APrompt(messages=(ATurn("user", (ABlock("S"), ABlock(LONG + "<<x>>", {"cache_control": MARK}))),))
    for value in ("v", ""):
        body = sent(job_of(prompt), one(x=value))
        assert body["messages"] == [user([block("S", MARK), block(LONG + value, MARK)])]


@pytest.mark.parametrize(
    "varying", ["<<params>>", "<<row_count>>", "<<rows | length>>", "<<row.x>>", "<% set a = x %><<a>>", "<<DATASET>>"]
)
def test_whatever_is_made_of_rows_varies(varying: str) -> None:
    job = job_of(APrompt(user=LONG + varying + LONG))
    prompts = Prompts(job, ["x", "params"])
    body = orjson.loads(b"{" + cache_marks(job, prompts, FIELDS).apply(prompts.build(one(x="v", params="w"))) + b"}")
    assert body["messages"][0]["content"][0] == block(LONG, MARK)


# --- laws ------------------------------------------------------------------------------------------------------------

_TEXTS = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['"', '\\"},{"', '"}]', '","messages":[', "\\", "\\u0022", " ", "\n", "\u2028", "é", "\U0001f600", ""]
)
_PIECES = st.sampled_from([LONG, "<<x>>", "<<y>>", "<<params.p>>", "<% if x %>a<% else %>b<% endif %>", "<<DATASET>>"])
_SOURCES = st.lists(
    _PIECES | _TEXTS.filter(lambda text: "<" not in text and ">" not in text), min_size=1, max_size=5
).map("".join)
_MARKS = st.sampled_from([{}, {"cache_control": MARK}])
_BLOCKS = st.lists(
    st.builds(ABlock, _SOURCES.filter(lambda text: bool(text.strip())), _MARKS)
    | st.just({"type": "document", "source": {"type": "url", "url": "u"}}),
    min_size=1,
    max_size=3,
).map(tuple)
_CONTENTS = _SOURCES.filter(lambda text: bool(text.strip())) | _BLOCKS
_SYSTEMS = (
    st.none()
    | _SOURCES
    | st.lists(st.builds(ABlock, _SOURCES.filter(lambda text: bool(text.strip())), _MARKS), min_size=1, max_size=2).map(
        tuple
    )
)


@st.composite
def _prompts(draw: st.DrawFn) -> APrompt:
    turns = draw(st.lists(_CONTENTS, min_size=1, max_size=3))
    roles = ["user", "assistant", "user"]
    return APrompt(
        system=draw(_SYSTEMS),
        messages=tuple(ATurn(role, content) for role, content in zip(roles, turns, strict=False)),
        cache=draw(st.sampled_from([False, "5m", "1h"])),
    )


def unmarked(content: Any) -> Any:
    """The texts, neighbours joined, and the other blocks, without marks."""
    found: list[Any] = []
    for part in [block(content)] if isinstance(content, str) else content:
        bare = {name: value for name, value in part.items() if name != "cache_control"}
        if bare["type"] == "text" and found and found[-1]["type"] == "text":
            bare = block(found.pop()["text"] + bare["text"])
        found.append(bare)
    return found


def texts_of(content: Any) -> list[str]:
    return [part["text"] for part in content if part["type"] == "text"] if isinstance(content, list) else []


@given(prompt=_prompts(), x=_TEXTS, y=_TEXTS, p=_TEXTS, instructions=st.none() | st.just("Reply in JSON."))
def test_a_marked_prompt_says_what_the_unmarked_says(
    prompt: APrompt, x: str, y: str, p: str, instructions: str | None
) -> None:
    job = AJob(prompt=prompt, params={"p": p})
    try:
        prompts = Prompts(job, ["x", "y"], instructions=instructions)
        built = prompts.build(one(x=x, y=y))
    except PipelineError:  # a text that comes out blank
        return
    marks = cache_marks(job, prompts, FIELDS)
    before, after = orjson.loads(b"{" + built + b"}"), orjson.loads(b"{" + marks.apply(built) + b"}")
    assert list(after) == list(before)
    for old, new in zip(_contents(before), _contents(after), strict=True):
        assert unmarked(new) == unmarked(old)
        assert all(text.strip() for text in texts_of(new))
    own = sum(isinstance(part, ABlock) and bool(part.members) for turn in _given(prompt) for part in turn)
    added = marks.apply(built).count(b'"cache_control":{') - own
    assert added in ({0, 1} if prompt.cache else {0})


def _contents(body: Mapping[str, Any]) -> list[Any]:
    return [body.get("system", ""), *(turn["content"] for turn in body["messages"])]


def _given(prompt: APrompt) -> list[Sequence[Any]]:
    contents = [prompt.system, *(turn.content for turn in prompt.messages)]
    return [content for content in contents if isinstance(content, tuple)]


@given(source=_SOURCES, x=_TEXTS, y=_TEXTS, p=_TEXTS)
def test_what_is_marked_is_the_same_for_every_row(source: str, x: str, y: str, p: str) -> None:
    job = job_of(APrompt(user=source + "<<x>>."), p=p)
    prompts = Prompts(job, ["x", "y"])
    marks = cache_marks(job, prompts, FIELDS)
    heads = {_marked_text(marks, prompts, one(x=left, y=right)) for left, right in ((x, y), ("1", "2"), ("", "z"))}
    assert len(heads) == 1


def _marked_text(marks: CacheMarks, prompts: Prompts, row: Row) -> str:
    body = orjson.loads(b"{" + marks.apply(prompts.build(row)) + b"}")
    content = body["messages"][0]["content"]
    return "".join(part["text"] for part in content if "cache_control" in part) if isinstance(content, list) else ""


# --- what is known before --------------------------------------------------------------------------------------------


def warned(job: AJob, fields: Mapping[str, Any] = FIELDS) -> list[str]:
    prompts = Prompts(job, ["x"])
    return [str(complaint) for complaint in cache_warnings(job, prompts, fields)]


def test_the_shared_beginning_is_estimated_with_tools_and_system() -> None:
    job = job_of(APrompt(system="s" * 350, user="u" * 700 + "<<x>>"))
    tools = [TOOL]
    marks = cache_marks(job, Prompts(job, ["x"]), {**FIELDS, "tools": tools})
    assert marks.constant_tokens == -(-(350 + 700 + len(orjson.dumps(tools))) * 2 // 7)


@pytest.mark.parametrize(
    ("model", "characters", "expected"),
    [
        (
            "claude-haiku-5-5",
            511 * 7 // 2,
            "about 511 tokens at the beginning, and claude-haiku-5-5 keeps none below 512",
        ),
        ("claude-haiku-5-5", 512 * 7 // 2, None),
        ("claude-sonnet-4-5-20250929", 1023 * 7 // 2, "keeps none below 1,024"),
        ("anthropic/claude-opus-4.7", 2047 * 7 // 2, "keeps none below 2,048"),
        ("claude-haiku-4-5", 4095 * 7 // 2, "keeps none below 4,096"),
        ("claude-haiku-4-5", 4096 * 7 // 2, None),
        ("some-other-model", 10, None),
    ],
)
def test_a_beginning_that_is_too_short_for_the_model_is_warned_of(
    model: str, characters: int, expected: str | None
) -> None:
    found = warned(job_of(APrompt(system="s" * characters, user="<<x>>")), {**FIELDS, "model": model})
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]


def test_a_prompt_that_shares_nothing_is_warned_of_with_the_place_that_varies() -> None:
    assert "marks nothing" in warned(job_of(APrompt(user="<<x>>")))[0]
    assert "(prompt.system)" in warned(job_of(APrompt(system="<<x>>", user="u")))[0]


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        (AnEndpoint(), None),
        (AnEndpoint("local", home_scope="local", host="127.0.0.1:8080"), "mean nothing to most local servers"),
        (AnEndpoint("embedded", home_scope="embedded", host="embedded"), "mean nothing to most local servers"),
        (AnEndpoint("embedded", home_scope="public", host="embedded"), None),
        (AnEndpoint(host="api.aimlapi.com"), "documents no cache_control"),
        (AnEndpoint(host="ollama.com"), "ignores cache_control"),
    ],
)
def test_hosts_without_a_prompt_cache_are_warned_of(endpoint: AnEndpoint, expected: str | None) -> None:
    job = replace(job_of(APrompt(system="s" * 2000, user="<<x>>")), endpoint=endpoint)
    found = warned(job)
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]
    assert warned(replace(job, prompt=replace(job.prompt, cache=False))) == []

"""Content as blocks, and the cache marks of a job: how they are read, and what is wrong with them where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import JobError
from pipeline.job import Job, load
from pipeline.job.blocks import BLOCKS, MAX_IMAGE_CHARS, OtherBlock, TextBlock
from pipeline.job.fields import ProblemError

Loader = Callable[..., Job]
MARK = "cache_control: {type: ephemeral}"
HOUR = "cache_control: {type: ephemeral, ttl: 1h}"


@pytest.fixture
def job_of(tmp_path: Path) -> Loader:
    def loaded(prompt: str, request: str = "model: m") -> Job:
        (tmp_path / "job.yaml").write_text(
            f"source: {{path: x.csv}}\noutput: {{path: o.parquet}}\nrequest: {{{request}}}\nprompt:\n{prompt}\n",
            encoding="utf-8",
        )
        return load(Path("job.yaml"), environ={}, cwd=tmp_path)

    return loaded


def said(loader: Loader, prompt: str, request: str = "model: m") -> list[str]:
    with pytest.raises(JobError) as caught:
        loader(prompt, request)
    return [str(complaint) for complaint in caught.value.complaints]


def test_a_system_prompt_may_be_blocks_and_a_turn_any_of_them(job_of: Loader) -> None:
    prompt = job_of(
        "  system: [{type: text, text: 'Be <<kind>>'}, {type: text, text: 007, "
        f"{HOUR}}}]\n"
        "  messages:\n"
        "  - role: user\n"
        "    content:\n"
        "    - {type: document, source: {type: text, media_type: text/plain, data: '12'}, title: No, citations: "
        "{enabled: true}}\n"
        "    - {type: text, text: '<<x>> ${y}'}\n"
    ).prompt
    assert isinstance(prompt.system, tuple)
    assert [block.wire() for block in prompt.system] == [
        {"type": "text", "text": "Be <<kind>>"},
        {"type": "text", "text": "007", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ]
    content = prompt.messages[0].content
    assert isinstance(content, tuple)
    document, text = content
    assert document == {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "12"},
        "title": "No",
        "citations": {"enabled": True},
    }
    assert isinstance(text, TextBlock)
    assert text.text == "<<x>> ${y}"


def test_a_text_block_may_stand_in_a_file(job_of: Loader, tmp_path: Path) -> None:
    (tmp_path / "rules.md").write_text("Be kind.\r\n")
    prompt = job_of(
        "  system: [{type: text, text: {file: rules.md}}]\n"
        "  messages: [{role: user, content: [{type: text, text: {file: rules.md}}]}]"
    ).prompt
    assert prompt.system[0].text == prompt.messages[0].content[0].text == "Be kind.\n"  # type: ignore[index,union-attr]  # as written
    missing = said(job_of, "  user: a\n  system: [{type: text, text: {file: none.md}}]")
    assert missing[0].startswith("job.yaml:6:38: prompt.system.0.text.file: cannot read ")


TURN = "  messages: [{{role: {0}, content: {1}}}]"
ASKED = "  messages: [{{role: user, content: a}}, {{role: assistant, content: {0}}}, {{role: user, content: b}}]"

WRONG = [
    ("  user: a\n  system: []", "job.yaml:6:3: prompt.system: holds no block; write a text, or a list such as"),
    ("  user: a\n  system: [{text: a}]", "job.yaml:6:12: prompt.system.0.type: is missing; write type: text"),
    ("  user: a\n  system: [{type: text}]", "prompt.system.0.text: is missing; write text: You are a careful reader"),
    ("  user: a\n  system: [{type: text, text: ' '}]", "6:31: prompt.system.0.text: must be text, or {file: path}"),
    ("  user: a\n  system: [{type: text, text: a, cite: 1}]", "prompt.system.0.cite: unknown key"),
    ("  user: a\n  system: [{type: image, text: a}]", "6:19: prompt.system.0.type: must be "),
    ("  user: a\n  system: [be kind]", "6:12: prompt.system.0: must be a mapping, such as {name: value}; found"),
    ("  user: a\n  system: {type: text, text: a}", "prompt.system: must be text, or {file: path}; found a mapping"),
    (
        "  user: a\n  system: [{type: text, text: a, cache_control: {type: ephemeral, ttl: 2h}}]",
        "prompt.system.0.cache_control.ttl: must be one of 5m, 1h; found",
    ),
    (TURN.format("user", "[]"), "prompt.messages.0.content: holds no block"),
    (TURN.format("user", "[{type: picture}]"), "content.0.type: must be one of text, image, document, search_result"),
    (TURN.format("user", "[{type: imag, source: {}}]"), 'found "imag"; did you mean image?'),
    (TURN.format("user", "[{type: document}]"), "content.0.source: is missing"),
    (TURN.format("user", "[{type: image, source: a.png}]"), "content.0.source: must be a mapping"),
    (
        TURN.format("user", "[{type: image, source: {type: path, path: a}}]"),
        "content.0.source.type: must be one of base64, url, file; found",
    ),
    (
        TURN.format("user", "[{type: image, source: {type: base64, media_type: image/tiff, data: a}}]"),
        "source.media_type: must be one of image/jpeg, image/png, image/gif, image/webp; found",
    ),
    (
        TURN.format("user", "[{type: document, source: {type: base64, media_type: application/pdf}}]"),
        "content.0.source.data: is missing",
    ),
    (
        TURN.format("user", "[{type: image, source: {type: url, url: <<photo>>}}]"),
        "content.0.source.url: holds <<, but it is sent as it is written",
    ),
    (TURN.format("user", "[{type: tool_use, id: a, name: b, input: {}}]"), "tool_use stands in turns of the assistant"),
    (ASKED.format("[{type: tool_result, tool_use_id: a}]"), "tool_result stands in turns of the user alone"),
    (ASKED.format("[{type: tool_use, id: a, name: b, input: c}]"), "content.0.input: must be a mapping"),
    (ASKED.format("[{type: web_search_tool_result, content: []}]"), "content.0.tool_use_id: is missing"),
    (ASKED.format(f"[{{type: thinking, thinking: '', signature: s, {MARK}}}]"), "cannot stand at a block of type"),
    (
        TURN.format("user", "[{type: tool_result, tool_use_id: a, cache_control: {ttl: 1h}}]"),
        "content.0.cache_control: must be {type: ephemeral} or {type: ephemeral, ttl: 1h}",
    ),
    ("  user: [{type: text, text: a}]", "prompt.user: must be text, or {file: path}"),
    ("  {user: a, cache: 2h}", "prompt.cache: must be true, false, 5m or 1h; found"),
    ("  {user: a, cache: 5}", "prompt.cache: must be true, false, 5m or 1h; found"),
    ("  {user: a, cache_control: {}}", "prompt.cache_control: unknown key; write cache: true, or cache: 1h"),
]


@pytest.mark.parametrize(("prompt", "words"), WRONG)
def test_a_block_that_cannot_be_meant_is_complained_about_once_at_its_place(
    job_of: Loader, prompt: str, words: str
) -> None:
    complaints = said(job_of, prompt)
    assert len(complaints) == 1, complaints
    assert words in complaints[0]


@pytest.mark.parametrize(("length", "wrong"), [(MAX_IMAGE_CHARS, 0), (MAX_IMAGE_CHARS + 1, 1)])
def test_a_picture_is_as_long_as_the_api_takes_at_most(length: int, wrong: int) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "A" * length}
    try:
        OtherBlock(json=True).read({"type": "image", "source": source})
    except ProblemError as problem:
        assert [at for at, _ in problem.problems] == [("source", "data")] * wrong  # noqa: PT017 - none is right too
    else:
        assert wrong == 0


def test_a_number_where_text_must_stand_is_to_be_quoted(job_of: Loader) -> None:
    written = "[{type: document, source: {type: text, media_type: text/plain, data: 12}}]"
    assert "source.data: must be text, found" in said(job_of, TURN.format("user", written))[0]
    assert said(job_of, TURN.format("user", written))[0].endswith("; put it in quotes")


def test_every_known_block_is_taken_where_it_has_what_it_must_have(job_of: Loader) -> None:
    members = {
        "image": "source: {type: url, url: u}",
        "document": "source: {type: content, content: a}",
        "search_result": "source: a, title: b, content: [{type: text, text: c}]",
        "tool_use": "id: a, name: b, input: {}",
        "tool_result": "tool_use_id: a, content: b",
        "thinking": "thinking: '', signature: s",
        "redacted_thinking": "data: a",
        "server_tool_use": "id: a, name: b, input: {}",
        "container_upload": "file_id: a",
    }
    assert set(members) == set(BLOCKS)
    for kind, written in members.items():
        by_the_assistant = kind in {"tool_use", "thinking", "redacted_thinking", "server_tool_use"}
        turns = ASKED if by_the_assistant else "  messages: [{{role: user, content: {0}}}]"
        assert job_of(turns.format(f"[{{type: {kind}, {written}}}]")).prompt.messages


@pytest.mark.parametrize(
    ("written", "read"), [("false", False), ("true", "5m"), ("5m", "5m"), ("'1h'", "1h"), ("1h", "1h")]
)
def test_true_is_the_shorter_span(job_of: Loader, written: str, read: object) -> None:
    assert job_of(f"  {{user: a, cache: {written}}}").prompt.cache == read
    assert job_of("  {user: a}").prompt.cache is False


TOOLS = f"model: m, tools: [{{name: t, input_schema: {{type: object}}, {MARK}}}]"
HOUR_TOOLS = TOOLS.replace(MARK, HOUR)


def blocks(*marks: str) -> str:
    return (
        "  user: a\n  system: [" + ", ".join(f"{{type: text, text: a{mark and ', ' + mark}}}" for mark in marks) + "]"
    )


CLASHES = [
    (blocks(MARK, MARK, MARK, MARK), TOOLS, "prompt.system.3.cache_control: there are 5 cache marks"),
    (blocks(MARK, MARK, MARK) + "\n  cache: 5m", TOOLS, "prompt.cache: there are 5 cache marks, prompt.cache and"),
    (blocks(MARK), TOOLS.replace(MARK, HOUR), None),
    (blocks(HOUR), TOOLS, "prompt.system.0.cache_control: lasts 1h behind one of 5m (request.tools.0.cache_control)"),
    (blocks(HOUR) + "\n  cache: 5m", "model: m", "prompt.system.0.cache_control: lasts 1h, and prompt.cache 5m"),
    (blocks(MARK) + "\n  cache: 1h", "model: m", "prompt.system.0.cache_control: lasts 5m, and prompt.cache 1h"),
    ("  {user: a, cache: 1h}", TOOLS, "request.tools.0.cache_control: lasts 5m, and prompt.cache 1h; write the same"),
    ("  {user: a, cache: 5m}", HOUR_TOOLS, None),
    (blocks(MARK, MARK) + "\n  cache: true", TOOLS, None),
    ("  {user: a, cache: 5m}", f"model: m, {MARK}", "request.cache_control: stands beside prompt.cache"),
]


@pytest.mark.parametrize(("prompt", "request_fields", "words"), CLASHES)
def test_marks_that_no_request_can_bear_together_are_complained_about(
    job_of: Loader, prompt: str, request_fields: str, words: str | None
) -> None:
    if words is None:
        assert job_of(prompt, request_fields).warnings == ()
        return
    complaints = said(job_of, prompt, request_fields)
    assert len(complaints) == 1, complaints
    assert words in complaints[0]


def test_a_mark_at_the_top_level_is_sent_as_it_is_written(job_of: Loader) -> None:
    assert job_of("  {user: a}", f"model: m, {HOUR}").request.wire()["cache_control"] == {
        "type": "ephemeral",
        "ttl": "1h",
    }

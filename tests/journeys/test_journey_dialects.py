"""The wire over all dialects: one job, asked of every kind of server, plain and streamed, gives the same rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from desk import VOLATILE, Desk, Ended, Simulator
from scripted import message, scripted

ROOT = Path(__file__).parents[2]
KEY = "journey-key-of-twenty-six"
RULES = " ".join(f"Rule {n}, consider the size of item {n} with care." for n in range(120))


@dataclass(frozen=True)
class Facts:
    """Where a dialect differs from the Messages API; all else is promised to be the same.

    Attributes:
        name: of the case.
        dialect: what the simulator speaks.
        version: `anthropic-version`.
        auth: how the key is sent.
        host: the service's own, where the way to ask for a typed answer follows from it.
        way: how a typed answer is asked for there.
        streams_with: what a request for a stream must say so that usage is told in it.
        stopped: the stop reason of an answer that a stop sequence ended.
        refused: status and stop reason where the model refuses.
        paused: status, stop reason, whether it was gone on from, where an answer pauses.
        priced_by: who says what an answer cost.
        forced: what is called where `weigh` is forced: by a prompt that names no tool, and one that names `measure`.
        name_at: where a tool's name stands in a response.
        input_at: where its input stands, and what it is there.
        thinks: thoughts come where they are asked for.
        caches: marks for the prompt cache are obeyed.
    """

    name: str
    dialect: str
    version: str = "2023-06-01"
    auth: str = "bearer"
    host: str | None = None
    way: str = "prompt"
    streams_with: str = ""
    stopped: str = "stop_sequence"
    refused: tuple[str, str] = ("refused", "refusal")
    paused: tuple[str, str, bool] = ("ok", "end_turn", True)
    priced_by: str = "table"
    forced: tuple[str | None, str | None] = ("weigh", "weigh")
    name_at: str = "content[?type=='tool_use'].name | [0]"
    input_at: tuple[str, str] = ("content[?type=='tool_use'].input | [0]", "json")
    thinks: bool = True
    caches: bool = False


DIALECTS = (
    Facts("native", "native", auth="x-api-key", host="api.anthropic.com", way="format", caches=True),
    Facts("native-2026", "native", version="2026-10-21", host="api.anthropic.com", way="format", caches=True),
    Facts("aimlapi", "aimlapi", host="api.aimlapi.com", way="tool", priced_by="server"),
    Facts(
        "openai",
        "openai",
        streams_with="extra: {stream_options: {include_usage: true}}",
        stopped="end_turn",
        paused=("truncated", "max_tokens", False),
        name_at="choices[0].message.tool_calls[0].function.name",
        input_at=("choices[0].message.tool_calls[0].function.arguments", "string"),
        thinks=False,
    ),
    Facts(
        "vllm",
        "vllm",
        stopped="end_turn",
        refused=("ok", "end_turn"),
        paused=("truncated", "max_tokens", False),
        thinks=False,
    ),
    Facts(
        "llamacpp",
        "llamacpp",
        auth="x-api-key",
        stopped="end_turn",
        refused=("ok", "end_turn"),
        paused=("ok", "end_turn", False),
        forced=("measure", "measure"),
    ),
    Facts("ollama", "ollama", refused=("ok", "end_turn"), paused=("ok", "end_turn", False), forced=(None, "measure")),
)
every_dialect = pytest.mark.parametrize("facts", DIALECTS, ids=lambda facts: facts.name)
every_server = pytest.mark.parametrize(
    "facts", [facts for facts in DIALECTS if facts.name != "native-2026"], ids=lambda facts: facts.name
)
"""Where the version of the API changes nothing."""

LASTING = {
    "is-refused": "refusal",
    "is-paused": "pause_turn",
    "is-empty": "empty",
    "only-thinks": "thinking-only",
    "is-invalid": "invalid",
}
"""What befalls the answers to prompts with these words, however often they are asked."""

PASSING = ("429", "408", "500", "500-html", "529", "reset", "cut", "html", "error-200", "no-stop", "error-event")
"""What befalls a prompt that names it the first time it is asked."""

FINAL = {"400": "bad_request", "too-long": "too_long", "413-text": "too_long"}
"""What ends a row at once, and the type of error that it has then."""


@dataclass
class Servers:
    """A simulator for each dialect, started when it is first wanted."""

    desk: Desk
    running: dict[tuple[str, bool], Simulator] = field(default_factory=dict)

    def of(self, facts: Facts, *, keyed: bool = True) -> Simulator:
        kind = (facts.dialect, keyed)
        if kind not in self.running:
            scripts = {
                **LASTING,
                **{f"once-{fault}.": f"{fault},ok" for fault in PASSING},
                **{f"always-{fault}.": fault for fault in FINAL},
            }
            options = [word for text, script in scripts.items() for word in ("--fault-when", f"{text}={script}")]
            key = ("--key", KEY) if keyed else ()
            ledger = f"{facts.dialect}-{keyed}.jsonl"
            self.running[kind] = self.desk.simulator("--dialect", facts.dialect, *key, *options, ledger=ledger)
        return self.running[kind]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    desk = Desk(tmp_path_factory.mktemp("servers"))
    try:
        yield Servers(desk)
    finally:
        desk.close()


@dataclass(frozen=True)
class Question:
    """A job in parts.

    Attributes:
        request: members of the section.
        prompt: the section.
        rows: a CSV with the columns name and says.
        more: further sections.
    """

    request: str
    prompt: str = 'prompt: {system: You are a test., user: "<<says>>"}'
    rows: str = "name,says\none,Describe the one.\n"
    more: str = ""

    def ask(self, desk: Desk, facts: Facts, url: str, *, stream: bool = False, **environ: str) -> Answered:
        """Run the job."""
        return self.start(desk, facts, url, stream=stream, **environ)()

    def ask_twice(self, desk: Desk, facts: Facts, url: str, **environ: str) -> tuple[Answered, Answered]:
        """Run the job as it is, and beside it with streams."""
        plain, streamed = (self.start(desk, facts, url, stream=stream, **environ) for stream in (False, True))
        return plain(), streamed()

    def start(self, desk: Desk, facts: Facts, url: str, *, stream: bool, **environ: str) -> Callable[[], Answered]:
        """Start the job in a folder of its own; what comes back waits for its end."""
        folder = Desk(desk.folder / ("streamed" if stream else "plain"), desk.children)
        folder.write("rows.csv", self.rows)
        members = [self.request, *(["stream: true", facts.streams_with] if stream else [])]
        key = "null" if "HTTP_PROXY" in environ else "JOURNEY_TOKEN"
        job = folder.write(
            "job.yaml",
            f"name: small\nsource: {{path: rows.csv, id: [name]}}\n{self.prompt}\n"
            f"request: {{{', '.join(filter(None, members))}}}\n"
            f"endpoint: {{url: {url}, auth: {facts.auth}, version: '{facts.version}', api_key_env: {key}}}\n"
            f"output: {{path: out.parquet}}\n{self.more}\n",
        )
        running = folder.start("run", job, "--json", **{"JOURNEY_TOKEN": KEY, **environ})

        def wait() -> Answered:
            ended = folder.finish(running)
            output = folder.folder / "out.parquet"
            return Answered(ended, pl.read_parquet(output) if output.exists() else pl.DataFrame())

        return wait


@dataclass(frozen=True)
class Answered:
    """How a run ended, and its output, empty where there is none."""

    ended: Ended
    frame: pl.DataFrame

    @property
    def steady(self) -> pl.DataFrame:
        """What must be the same however the answers came."""
        # `stream_options` makes another key; nothing else does.
        return self.frame.drop([name for name in VOLATILE if name != "attempts"], "request_key")

    def rows(self, *columns: str) -> dict[str, tuple[Any, ...]]:
        """The cells of these columns, by the row's name."""
        return {name: tuple(cells) for name, *cells in self.frame.select("name", *columns).rows()}


CONVERSATION = Question(
    "model: claude-haiku-4-5, max_tokens: 20, stop_sequences: [<END>]",
    prompt="""\
prompt:
  system: You are a test.
  messages:
    - {role: user, content: "What is <<name>>?"}
    - {role: assistant, content: A word.}
    - {role: user, content: "<<says>>"}""",
    rows=f"""\
name,says
whole,Describe it in two words.
letters,"Größe, 大きさ, 😀"
stopped,Say this <END>and not this
long,{"a" * 80}
refused,It is-refused
paused,It is-paused
empty,It is-empty
thinks,It only-thinks
""",
)


@every_dialect
def test_a_conversation_is_answered_alike_plain_and_streamed(desk: Desk, servers: Servers, facts: Facts) -> None:
    plain, streamed = CONVERSATION.ask_twice(desk, facts, servers.of(facts).url)
    assert (plain.ended.code, streamed.ended.code) == (0, 0), plain.ended.err + streamed.ended.err
    assert streamed.steady.equals(plain.steady)

    *paused, resumed = facts.paused
    assert plain.rows("status", "stop_reason") == {
        "whole": ("ok", "end_turn"),
        "letters": ("ok", "end_turn"),
        "stopped": ("ok", facts.stopped),
        "long": ("truncated", "max_tokens"),
        "refused": facts.refused,
        "paused": tuple(paused),
        "empty": ("ok", "end_turn"),
        "thinks": ("truncated", "max_tokens"),
    }
    texts = {name: text.partition(": ")[2] for name, (text,) in plain.rows("response_text").items()}
    assert texts == {
        "whole": "Describe it in two words.",
        "letters": "Größe, 大きさ, 😀",
        "stopped": "Say this ",
        "long": "a" * 63,
        "refused": "",
        "paused": "It is-paused" if resumed else "",
        "empty": "",
        "thinks": "",
    }
    assert plain.rows("attempts")["paused"] == (1 + resumed,)
    assert plain.rows("input_tokens", "output_tokens", "cache_read_tokens")["whole"] == (16, 11, 0)
    assert set(plain.frame["priced_by"]) == {facts.priced_by}
    reseller = 1.3 if facts.priced_by == "server" else 1
    assert plain.rows("cost_usd")["whole"] == (pytest.approx((16 * 1 + 11 * 5) * reseller / 1e6, abs=1e-6),)


@every_server
def test_a_forced_tool_is_called_in_either_spelling(desk: Desk, servers: Servers, facts: Facts) -> None:
    tools = ", ".join(
        f"{{name: {name}, input_schema: {{type: object, properties: {{grams: {{type: integer}}}}, required: [grams]}}}}"
        for name in ("measure", "weigh")
    )
    columns = f"""\
answer:
  columns:
    tool: "{facts.name_at}"
    input: {{path: "{facts.input_at[0]}", type: {facts.input_at[1]}}}"""
    running = [
        Question(
            f"model: claude-haiku-4-5, max_tokens: 200, tools: [{tools}], tool_choice: {choice}",
            rows="name,says\nneither,How heavy is it?\nmeasure,Please measure it.\n",
            more=columns,
        ).start(desk, facts, servers.of(facts).url, stream=stream)
        for choice, stream in (
            ("{type: tool, name: weigh}", False),
            ("{type: function, function: {name: weigh}}", True),
        )
    ]
    plain, streamed = (wait() for wait in running)
    assert (plain.ended.code, streamed.ended.code) == (0, 0), plain.ended.err + streamed.ended.err
    assert streamed.steady.equals(plain.steady)
    called = [tool for (tool,) in plain.rows("tool").values()]
    assert called == list(facts.forced)
    for tool, stop_reason, given, text in plain.rows("tool", "stop_reason", "input", "response_text").values():
        assert stop_reason == ("tool_use" if tool else "end_turn")
        assert (text == "") == (tool is not None)
        assert tool is None or type(json.loads(given)["grams"]) is int


TYPED = """\
answer:
  schema:
    type: object
    properties:
      label: {enum: [small, large]}
      score: {type: number, minimum: 0, maximum: 1}
      seen: {type: string, format: date}
      parts:
        type: array
        items: {type: object, properties: {n: {type: integer}}, required: [n], additionalProperties: false}
    required: [label, score, seen, parts]
    additionalProperties: false"""


@every_dialect
def test_a_typed_answer_is_asked_for_as_the_service_takes_it(desk: Desk, servers: Servers, facts: Facts) -> None:
    question = Question(
        "model: claude-haiku-4-5, max_tokens: 400",
        rows="name,says\nright,Describe the one.\nwrong,It is-invalid.\n",
        more=TYPED,
    )
    url, environ = servers.of(facts).url, {}
    if facts.host is not None:
        # Under the service's own name, by way of a proxy that answers in its place.
        url, environ = f"http://{facts.host}", {"HTTP_PROXY": servers.of(facts, keyed=False).url}
    plain, streamed = question.ask_twice(desk, facts, url, **environ)
    assert (plain.ended.code, streamed.ended.code) == (0, 0), plain.ended.err + streamed.ended.err
    assert streamed.steady.equals(plain.steady)
    assert dict(plain.frame.schema) | {
        "label": pl.String,
        "score": pl.Float64,
        "seen": pl.Date,
        "parts": pl.List(pl.Struct({"n": pl.Int64})),
    } == dict(plain.frame.schema)
    assert plain.frame.select(pl.col("label", "score", "seen").null_count()).row(0) == (0, 0, 0)
    assert plain.rows("status", "attempts") == {"right": ("ok", 1), "wrong": ("ok", 2)}
    assert set(plain.frame["endpoint"]) == {facts.host or url.removeprefix("http://")}
    # A schema in the prompt's words, or in a tool, is read as input; a form is not.
    stop_reason, tokens = plain.rows("stop_reason", "input_tokens")["right"]
    assert (stop_reason == "tool_use") == (facts.way == "tool")
    assert (tokens < 20) == (facts.way == "format")


@every_server
def test_errors_and_broken_answers_end_alike(desk: Desk, servers: Servers, facts: Facts) -> None:
    wrong = [f"once-{fault}." for fault in PASSING] + [f"always-{fault}." for fault in FINAL]
    # Failures without an answer in between are an outage, in which calls go out seconds apart.
    fine = [f"fine-{nth}." for nth in range(0, len(wrong), 2)]
    says = [word for nth, well in enumerate(fine) for word in (well, *wrong[2 * nth : 2 * nth + 2])]
    # A stream is no other request to the simulator, so each way has requests of its own.
    running = [
        Question(
            f"model: claude-haiku-4-5, max_tokens: {100 + stream}",
            rows="name,says\n" + "".join(f"{word},Say {word}\n" for word in says),
            more="limits: {concurrency: 32}",
        ).start(desk, facts, servers.of(facts).url, stream=stream)
        for stream in (False, True)
    ]
    for answered in [wait() for wait in running]:
        assert answered.ended.code == 3, answered.ended.err
        assert answered.rows("status", "error_type", "attempts") == {
            **dict.fromkeys(fine, ("ok", None, 1)),
            **{f"once-{fault}.": ("ok", None, 2) for fault in PASSING},
            **{f"always-{fault}.": ("failed", error_type, 1) for fault, error_type in FINAL.items()},
        }
        messages = answered.rows("error_message")
        assert all(" answered 4" in messages[f"always-{fault}."][0] for fault in FINAL)


@every_server
def test_a_key_that_is_refused_ends_the_run_with_words(desk: Desk, servers: Servers, facts: Facts) -> None:
    answered = CONVERSATION.ask(desk, facts, servers.of(facts).url, JOURNEY_TOKEN="another-key-of-the-kind")
    assert (answered.ended.code, answered.ended.summary["reason"]) == (5, "api_rejected")
    assert "answered 401" in answered.ended.err
    assert "check the key in $JOURNEY_TOKEN and endpoint.auth" in answered.ended.err
    assert "another-key" not in answered.ended.err + answered.ended.out
    assert answered.frame.is_empty()


@every_server
def test_thoughts_are_kept_and_cache_marks_harm_nowhere(desk: Desk, servers: Servers, facts: Facts) -> None:
    answered = Question(
        "model: claude-sonnet-4-6, max_tokens: 2000, thinking: {type: enabled, budget_tokens: 1024}",
        prompt=f'prompt: {{system: "{RULES} ({desk.folder.name})", user: "<<says>>", cache: true}}',
        rows="name,says\n" + "".join(f"{n},Describe the {n}.\n" for n in range(5)),
        more="answer: {columns: {thought: \"content[?type=='thinking'].thinking | [0]\"}}",
    ).ask(desk, facts, servers.of(facts).url, stream=True)
    assert answered.ended.code == 0, answered.ended.err
    for name, (text, thought) in answered.rows("response_text", "thought").items():
        assert text.endswith(f": Describe the {name}.")
        assert thought == (f"The request begins: Describe the {name}." if facts.thinks else None)
    written, read = answered.frame["cache_write_tokens"].to_list(), answered.frame["cache_read_tokens"].to_list()
    assert [tokens > 0 for tokens in written] == [facts.caches, *[False] * 4]
    assert [tokens > 0 for tokens in read] == [False, *[facts.caches] * 4]
    assert (answered.ended.summary["cache_saved_usd"] > 0) == facts.caches


UNLIKE = {
    "missing": {key: value for key, value in message("kept").items() if key != "stop_reason"},
    "unknown": message("kept", stop="a_newer_reason"),
    "bare": {"type": "message", "content": "kept"},
    "untold": message("kept") | {"usage": None},
    "newer": message({"type": "newer", "text": "not this"}, "ke", {"type": "newer"}, "pt"),
    "indexless": {"object": "message", "choices": [{"message": {"content": "kept"}, "finish_reason": "stop"}]},
    "reasonless": {"choices": [{"message": {"content": [{"type": "text", "text": "kept"}]}}]},
}
"""Answers that some server gives and no dialect has."""


def test_an_answer_that_is_unlike_any_dialect_keeps_its_text(desk: Desk) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any]:
        return UNLIKE[body["messages"][0]["content"]]

    with scripted(answer) as server:
        answered = Question(
            "model: claude-haiku-4-5, max_tokens: 20", rows="name,says\n" + "".join(f"{w},{w}\n" for w in UNLIKE)
        ).ask(desk, DIALECTS[0], server.url)
    assert answered.ended.code == 0, answered.ended.err
    assert set(answered.rows("status", "response_text").values()) == {("ok", "kept")}
    reasons = answered.rows("stop_reason", "input_tokens", "cost_usd")
    assert reasons["missing"] == (None, 10, 35e-6)
    assert reasons["unknown"] == ("a_newer_reason", 10, 35e-6)
    assert reasons["untold"] == ("end_turn", None, None)
    assert reasons["indexless"] == ("end_turn", None, None)
    assert reasons["reasonless"] == (None, None, None)


def test_the_reseller_s_word_for_no_credit_ends_the_run(desk: Desk) -> None:
    facts = next(facts for facts in DIALECTS if facts.name == "aimlapi")
    server = desk.simulator("--dialect", "aimlapi", "--fault", "credit=1")
    answered = CONVERSATION.ask(desk, facts, server.url)
    assert answered.ended.code == 5
    assert "add credit or raise the spend limit where the key in $JOURNEY_TOKEN comes from" in answered.ended.err
    assert {asked["status"] for asked in server.requests} == {403}


def test_the_shipped_job_for_typed_answers_rehearses_without_a_repair(desk: Desk) -> None:
    for name in ("configs/extract.yaml", "data/aircraft.csv"):
        path = desk.folder / name
        path.parent.mkdir()
        shutil.copy(ROOT / name, path)
    ended = desk.pipeline("run", "configs/extract.yaml", "--endpoint", "simulator", "--limit", "20", "--json")
    assert (ended.code, ended.summary["rows"]["ok"], ended.summary["calls"]["sent"]) == (0, 20, 20), ended.err

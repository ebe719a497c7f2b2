"""The wire over all dialects: one job, asked of every kind of server, plain and streamed, gives the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from desk import VOLATILE, Desk, Ended, Simulator

KEY = "journey-key-of-twenty-six"
RULES = " ".join(f"Rule {n}, consider the size of item {n} with care." for n in range(120))


@dataclass(frozen=True)
class Facts:
    """What differs in a dialect from the Messages API of 2023-06-01; all else is promised to be the same.

    Attributes:
        name: of the case.
        dialect: what the simulator speaks.
        version: `anthropic-version`.
        auth: how the key is sent.
        host: the service's own, where the way to ask for a typed answer goes by it.
        way: how a typed answer is asked for there.
        streams_with: what a stream needs to be told beside `stream`, so that it tells its usage.
        stopped: the stop reason of an answer that a stop sequence ended.
        refused: status and stop reason where the model refuses.
        paused: status and stop reason where an answer pauses; it is gone on from where the server says so.
        empty_text: whether an answer that paused, or refused, was a message to go on from at all.
        priced_by: who says what it cost.
        forced: which of the two tools is called where `weigh` is forced, by what the prompt names.
        input_at: where a tool's input stands in the response.
        name_at: where a tool's name stands.
        thought_at: where the thoughts stand; None where there are none.
        caches: cache marks are obeyed.
    """

    name: str
    dialect: str
    version: str = "2023-06-01"
    auth: str = "bearer"
    host: str = "127.0.0.1"
    way: str = "prompt"
    streams_with: str = ""
    stopped: str = "stop_sequence"
    refused: tuple[str, str] = ("refused", "refusal")
    paused: tuple[str, str] = ("ok", "end_turn")
    priced_by: str = "table"
    forced: Mapping[str, str | None] = field(default_factory=lambda: {"neither": "weigh", "measure": "weigh"})
    input_at: str = "content[?type=='tool_use'].input | [0]"
    name_at: str = "content[?type=='tool_use'].name | [0]"
    thought_at: str | None = "content[?type=='thinking'].thinking | [0]"
    caches: bool = False


NATIVE = Facts("native", "native", auth="x-api-key", host="api.anthropic.com", way="format", caches=True)
DIALECTS = (
    NATIVE,
    Facts("native-2026", "native", version="2026-10-21", host="api.anthropic.com", way="format", caches=True),
    Facts("aimlapi", "aimlapi", host="api.aimlapi.com", way="tool", priced_by="server"),
    Facts(
        "openai",
        "openai",
        streams_with="extra: {stream_options: {include_usage: true}}",
        stopped="end_turn",
        paused=("truncated", "max_tokens"),
        input_at="choices[0].message.tool_calls[0].function.arguments",
        name_at="choices[0].message.tool_calls[0].function.name",
        thought_at=None,
    ),
    Facts(
        "vllm",
        "vllm",
        stopped="end_turn",
        refused=("ok", "end_turn"),
        paused=("truncated", "max_tokens"),
        thought_at=None,
    ),
    Facts(
        "llamacpp",
        "llamacpp",
        auth="x-api-key",
        stopped="end_turn",
        refused=("ok", "end_turn"),
        forced={"neither": "measure", "measure": "measure"},
    ),
    Facts(
        "ollama",
        "ollama",
        refused=("ok", "end_turn"),
        forced={"neither": None, "measure": "measure"},
    ),
)

every_dialect = pytest.mark.parametrize("facts", DIALECTS, ids=lambda facts: facts.name)


@dataclass
class Servers:
    """One simulator for each dialect, started when it is first wanted."""

    desk: Desk
    running: dict[str, Simulator] = field(default_factory=dict)

    def of(self, facts: Facts) -> Simulator:
        if facts.dialect not in self.running:
            scripts = [f"{text}={kinds}" for text, kinds in SCRIPTS.items()]
            options = [word for script in scripts for word in ("--fault-when", script)]
            server = self.desk.simulator(
                *("--dialect", facts.dialect, "--key", KEY, *options), ledger=f"{facts.dialect}.jsonl"
            )
            self.running[facts.dialect] = server
        return self.running[facts.dialect]


SCRIPTS = {
    "is-refused": "refusal",
    "is-paused": "pause_turn",
    "is-empty": "empty",
    "only-thinks": "thinking-only",
    "is-invalid": "invalid",
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    desk = Desk(tmp_path_factory.mktemp("servers"))
    try:
        yield Servers(desk)
    finally:
        desk.close()


SAYS = """\
name,says
plain,Describe it in two words.
letters,"Größe, 大きさ, 😀"
stopped,Say this <END>and not this
long,aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
refused,It is-refused
paused,It is-paused
empty,It is-empty
thinks,It only-thinks
"""
TURNS = """\
prompt:
  system: You are a test.
  messages:
    - {role: user, content: "What is <<name>>?"}
    - {role: assistant, content: A word.}
    - {role: user, content: "<<says>>"}
"""


def asked(
    desk: Desk,
    facts: Facts,
    url: str,
    *,
    request: str,
    prompt: str = TURNS,
    rows: str = SAYS,
    stream: bool = False,
    more: str = "",
    key: bool = True,
    **environ: str,
) -> tuple[Ended, pl.DataFrame]:
    """Run a job; its output, empty where there is none."""
    folder = Desk(desk.folder / ("streamed" if stream else "plain"), desk.children)
    folder.write("rows.csv", rows)
    streams = f", stream: true, {facts.streams_with}".rstrip(", ") if stream else ""
    keyed = "api_key_env: JOURNEY_TOKEN" if key else "api_key_env: null"
    job = folder.write(
        "job.yaml",
        f"name: small\nsource: {{path: rows.csv, id: [name]}}\n{prompt}"
        f"request: {{{request}{streams}}}\n"
        f"endpoint: {{url: {url}, auth: {facts.auth}, version: '{facts.version}', {keyed}}}\n"
        f"output: {{path: out.parquet}}\n{more}",
    )
    ended = folder.pipeline("run", job, "--json", **{"JOURNEY_TOKEN": KEY, **environ})
    output = folder.folder / "out.parquet"
    return ended, pl.read_parquet(output) if output.exists() else pl.DataFrame()


def steady(frame: pl.DataFrame) -> pl.DataFrame:
    """What must be the same however the answer came: `stream_options` makes another key, and only that."""
    return frame.drop([name for name in VOLATILE if name != "attempts"], "request_key")


@every_dialect
def test_a_conversation_is_answered_alike_plain_and_streamed(desk: Desk, servers: Servers, facts: Facts) -> None:
    server = servers.of(facts)
    request = "model: claude-haiku-4-5, max_tokens: 20, stop_sequences: [<END>]"
    ended, plain = asked(desk, facts, server.url, request=request)
    ended_too, streamed = asked(desk, facts, server.url, request=request, stream=True)
    assert (ended.code, ended_too.code) == (0, 0), ended.err + ended_too.err
    print(plain.select("name", "status", "stop_reason", "response_text", "attempts", "input_tokens", "output_tokens", "cost_usd", "priced_by").rows())
    print(streamed.select("name", "status", "stop_reason", "response_text", "attempts", "input_tokens", "output_tokens", "cost_usd", "priced_by").rows())
    assert steady(streamed).equals(steady(plain))

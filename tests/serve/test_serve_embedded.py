"""The embedded model: a real server, found without its wrappers, that stops when it is told to."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.serve.embedded import thread_count

PROGRAM = """
import sys
from pipeline.errors import PipelineError
from pipeline.serve.embedded import run_embedded
try:
    run_embedded(port=int(sys.argv[1]), announce=lambda line: print(line, flush=True), stop_with_stdin=True)
except PipelineError as error:
    sys.exit(f"{type(error).__name__} {error.exit_code}: {error}")
"""


def start(port: int = 0, *flags: str) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        [sys.executable, *flags, "-c", PROGRAM, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


def address(process: subprocess.Popen[str]) -> tuple[str, int]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("listening on http://127.0.0.1:"), process.communicate(timeout=60)
    host, _, port = line.split("//")[1].strip().partition(":")
    return host, int(port)


def ask(at: tuple[str, int], **members: Any) -> tuple[int, Any]:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 12, "messages": [{"role": "user", "content": "Say hello."}]}
    connection = http.client.HTTPConnection(*at, timeout=120)
    try:
        connection.request(
            "POST", "/v1/messages", json.dumps({**body, **members}), {"content-type": "application/json"}
        )
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize(("cores", "threads"), [(None, 1), (1, 1), (2, 1), (8, 7)])
def test_one_core_is_left_to_the_client(cores: int | None, threads: int) -> None:
    assert thread_count(cores) == threads


def test_without_its_wheels_it_names_the_simulator() -> None:
    # -S leaves out site-packages, and with them whatever is installed there.
    process = start(0, "-S")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.startswith("JobError 2: the embedded model needs the wheel xllamacpp")
    assert "make run ENDPOINT=simulator" in said
    assert "--endpoint simulator" in said


@pytest.fixture(scope="module")
def model() -> Iterator[tuple[str, int]]:
    process = start()
    try:
        yield address(process)
    finally:
        process.kill()
        process.communicate(timeout=60)


@pytest.mark.embedded
def test_it_answers_in_the_native_shape_and_names_no_path(model: tuple[str, int]) -> None:
    status, message = ask(model, system="You are terse.")
    assert status == 200
    assert (message["type"], message["model"]) == ("message", "smollm2-135m-instruct")
    assert message["content"][0]["type"] == "text"
    assert message["content"][0]["text"].strip()
    assert message["stop_reason"] in {"end_turn", "max_tokens"}
    assert 0 < message["usage"]["output_tokens"] <= 12


@pytest.mark.embedded
def test_the_chat_template_is_applied(model: tuple[str, int]) -> None:
    _, short = ask(model, max_tokens=1, messages=[{"role": "user", "content": "a"}], system="b")
    usage = short["usage"]
    # Two letters alone would be two tokens; the turns' marks make them more.
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] > 8


@pytest.mark.embedded
def test_a_prompt_above_a_slot_s_context_is_a_bad_request(model: tuple[str, int]) -> None:
    status, body = ask(model, messages=[{"role": "user", "content": "1.25, 2013-01-02\n" * 400}])
    assert status == 400
    assert "exceeds the available context size (2048 tokens)" in body["error"]["message"]


@pytest.mark.embedded
@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "stdin"])
def test_it_stops_at_once_even_while_it_answers(how: str) -> None:
    process = start()
    at = address(process)
    cut_off = threading.Event()

    def ask_for_long() -> None:
        try:
            ask(at, max_tokens=1500, messages=[{"role": "user", "content": "Tell a long story of a dragon."}])
        except (http.client.HTTPException, OSError):
            cut_off.set()

    asking = threading.Thread(target=ask_for_long)
    asking.start()
    while not _busy(at):
        pass
    if how == "stdin":
        assert process.stdin is not None
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, how))
    assert process.wait(20) == 0
    asking.join(20)
    assert cut_off.is_set()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _busy(at: tuple[str, int]) -> bool:
    connection = http.client.HTTPConnection(*at, timeout=60)
    try:
        connection.request("GET", "/slots")
        return any(slot["is_processing"] for slot in json.loads(connection.getresponse().read()))
    finally:
        connection.close()


@pytest.mark.embedded
def test_a_taken_port_is_said_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(taken.getsockname()[1])
        said, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == ""
    assert words.startswith("JobError 2: the embedded model server did not start on 127.0.0.1:")
    assert "is the port free?" in words

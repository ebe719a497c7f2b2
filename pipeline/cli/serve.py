"""`pipeline serve`, and the local servers that a run starts for itself."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pipeline.errors import JobError, Unavailable

ANNOUNCEMENT = "listening on "
STOP_SECS = 10.0
CONTAINS = "contains:"


@contextmanager
def local_server(word: str) -> Iterator[str]:
    """Start `pipeline serve WORD` on a free port and yield its URL; stop it when the block ends.

    The server ends by itself when this process dies, since its stdin closes then.

    Raises:
        JobError: it cannot run here; the words are the server's own.
        Unavailable: it ended without words of ours.
    """
    command = [sys.executable, "-m", "pipeline", "serve", word, "--port", "0", "--stop-with-stdin"]
    with tempfile.TemporaryFile() as errors:
        # A session of its own: Ctrl-C is for the run, which still has calls in flight to finish.
        server = subprocess.Popen(  # noqa: S603 - our own interpreter and module, WORD is one of two
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            assert server.stdout is not None
            line = server.stdout.readline().decode().strip()
            if not line.startswith(ANNOUNCEMENT):
                code = server.wait(STOP_SECS)
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip().removeprefix("error: ")
                if code == JobError.exit_code:
                    raise JobError(words)
                raise Unavailable(f"the {word} server did not start (exit {code}): {words[-500:]}", "outage")
            yield line.removeprefix(ANNOUNCEMENT) + "/v1/messages"
        finally:
            _stop(server)


def _stop(server: subprocess.Popen[bytes]) -> None:
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.close()
    server.terminate()
    try:
        server.wait(STOP_SECS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    server.stdout.close()


def announce(line: str) -> None:
    """The first line of stdout, at once."""
    print(line, flush=True)


@click.group("serve")
def serve_command() -> None:
    """Serve /messages on loopback, for rehearsals and tests.

    \b
    Examples:
      pipeline serve simulator --port 8080 --latency 200 --fault 529=0.02
      pipeline serve embedded

    The first line of stdout is `listening on http://127.0.0.1:PORT`.
    """


def _port(command: Any) -> Any:
    command = click.option(
        "--stop-with-stdin", is_flag=True, help="End when stdin is closed, as when the parent dies."
    )(command)
    return click.option(
        "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one."
    )(command)


@serve_command.command("embedded")
@_port
def embedded_command(*, port: int, stop_with_stdin: bool) -> None:
    """llama.cpp's own server with SmolLM2-135M: a real model, offline, without a key.

    It is small: its answers prove the plumbing, not the analysis.
    """
    from pipeline.serve.embedded import run_embedded

    run_embedded(port=port, announce=announce, stop_with_stdin=stop_with_stdin)


@serve_command.command("simulator")
@_port
@click.option(
    "--dialect",
    type=click.Choice(["native", "aimlapi", "openai", "vllm", "llamacpp", "ollama"]),
    default="native",
    show_default=True,
    help="Whose server it is. native: the API, both versions, by the request's anthropic-version.",
)
@click.option("--latency", "latency_ms", type=float, default=0.0, metavar="MS", help="Mean latency.")
@click.option("--rpm", type=float, metavar="N", help="Requests per minute that it allows.")
@click.option("--itpm", type=float, metavar="N", help="Input tokens per minute that it allows.")
@click.option("--otpm", type=float, metavar="N", help="Output tokens per minute that it allows.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar="FAULT=SHARE",
    help="Such as 529=0.02, or contains:TEXT=SCRIPT; repeatable; see below.",
)
@click.option(
    "--fault-when",
    multiple=True,
    metavar="TEXT=SCRIPT",
    help="For prompts that contain TEXT: short for --fault contains:TEXT=SCRIPT.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of faults and latencies.")
@click.option("--key", metavar="KEY", help="Require this API key.")
@click.option("--ledger", type=click.Path(path_type=Path), metavar="FILE", help="Append each request, as JSON lines.")
def simulator_command(*, port: int, stop_with_stdin: bool, **options: Any) -> None:
    """A server that speaks /messages as strictly as the real one; answers are a pure function of the request.

    Where a request has a JSON Schema (output_config.format, a forced tool, or the words "JSON Schema:" and a schema in
    the prompt), the answer fits it. A tool that may be called is called when the last user text names it.

    \b
    --fault FAULT=SHARE       a share of the requests; each arrival draws anew
    --fault contains:TEXT=A   every request whose prompt contains TEXT, always A
    --fault contains:TEXT=A,B,ok
                              A the first time, B the second, then answered;
                              each prompt counts for itself

    \b
    FAULT is a status from 400 to 599, or one of
      reset, reset-body     the connection is reset, before or after the headers
      stall, stall-body     nothing comes, or nothing after a part
      cut, no-stop          JSON or stream cut off; stream without its last word
      html, error-200       200 with a page, or with the body of an error
      empty                 200 without content
      error-event, pings    in streams: an error in the middle; pings everywhere
      429-int, 429-float, 429-date, 429-ms, 429-none
                            how a 429 tells when to come back
      429-ramp, spend-cap, spend-limit, credit, too-long
      500-html, 413-text, 529-no-retry, 400-retry
    \b
    or, decided by the conversation alone, however often it is sent, one of
      invalid, invalid-missing, invalid-type, invalid-prose, invalid-cut
                            the answer breaks its schema; sent back, it is right
      invalid-always        it is never right
      invalid-fenced        right, but in a code fence with words around it
      pause_turn            it pauses; sent back, it ends
      refusal, max_tokens, thinking-only
    """
    from pipeline.serve.faults import parse_fault, parse_fault_when
    from pipeline.serve.simulator import SimulatorOptions, run_simulator

    texts = options.pop("faults")
    try:
        faults = tuple(parse_fault(text) for text in texts if not text.startswith(CONTAINS))
        scripts = [text.removeprefix(CONTAINS) for text in texts if text.startswith(CONTAINS)]
        whens = tuple(parse_fault_when(text) for text in [*scripts, *options.pop("fault_when")])
        settings = SimulatorOptions(faults=faults, fault_whens=whens, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    run_simulator(settings, port=port, announce=announce, stop_with_stdin=stop_with_stdin)

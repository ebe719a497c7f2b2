"""`pipeline serve simulator`: its help names all that it can do, and its words reach the server."""

from __future__ import annotations

import urllib.error
import urllib.request

import orjson
import pytest
from click.testing import CliRunner
from desk import Desk
from serve_clients import body_of

from pipeline.cli.serve import simulator_command
from pipeline.serve.dialects import DIALECTS
from pipeline.serve.faults import NAMED_KINDS


def test_the_help_names_every_dialect_and_every_fault() -> None:
    words = set(CliRunner().invoke(simulator_command, ["--help"]).output.replace(",", " ").split())
    assert words >= NAMED_KINDS.keys()
    (option,) = [option for option in simulator_command.params if option.name == "dialect"]
    assert set(option.type.choices) == set(DIALECTS)  # type: ignore[attr-defined]  # a Choice has them


def status_of(url: str, text: str) -> int:
    request = urllib.request.Request(
        f"{url}/v1/messages", orjson.dumps(body_of(text, foo=1)), {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_scripts_and_dialect_reach_the_server(desk: Desk) -> None:
    server = desk.simulator(
        *("--dialect", "vllm", "--fault", "contains:a=b=529,503,ok", "--fault-when", "row-2=400", "--fault", "cut=0")
    )
    assert [status_of(server.url, "a=b") for _ in range(4)] == [529, 503, 200, 200]
    assert [status_of(server.url, "row-2") for _ in range(2)] == [400, 400]
    assert [(line["matched"], line["status"]) for line in server.requests][:2] == [("a=b", 529), ("a=b", 503)]


@pytest.mark.parametrize("fault", ["contains:row-1", "contains:=529", "contains:row-1=often", "contains:a=529,"])
def test_a_script_that_makes_no_sense_is_refused(fault: str) -> None:
    ended = CliRunner().invoke(simulator_command, ["--fault", fault])
    assert ended.exit_code == 2
    assert "fault" in ended.output

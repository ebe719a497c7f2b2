"""Whatever stands in the file, a job comes out or its complaints do."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.job import Overrides, RequestFields, load
from pipeline.job.section import Section
from pipeline.job.sections import JobFile

NONE = Overrides()
SOUND = """\
name: night
params: {region: eu, n: 3}
source: {path: "data/${region}.csv", columns: [a, b], rows_per_request: ${n}}
prompt:
  user: |
    Look: <<a>>
request:
  {model: claude-sonnet-4-5, metadata: {user_id: 007}, thinking: {type: enabled, budget_tokens: 1024}, max_tokens: 2048,
  tools: [{name: t, input_schema: {type: object}}, {type: bash_20250124}],
  tool_choice: {type: function, function: {name: t}}}
answer: {schema: {type: object, properties: {a: {type: string}}}, columns: {b: usage, c: {path: d, type: json}}}
endpoint: {url: "https://h/v1", api_key_env: K, headers: {x-a: "${env:K}"}}
limits: {timeout_secs: 10m}
prices: {m: {input: 1, output: 2}}
output: {path: out/night.parquet, keep: [a]}
tests:
  - {rows: [{a: 1, b: no}], prompt: "Look: 1"}
"""
SCRAPS = [
    "${",
    "}",
    "<<",
    "*a",
    "&a ",
    "!x ",
    "'",
    '"',
    "- ",
    ": ",
    "\n",
    "\t",
    "  ",
    "[",
    "]",
    "{",
    "#",
    "null",
    "\0",
    "1e9",
]
KEYS = sorted({*JobFile.file_keys(), *(key for section in Section.__subclasses__() for key in section.file_keys())})

anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["${region}", "${x}", "$${", "${env:K}", "embedded", "all", "csv", "https://h", "out.parquet", "10m"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=6), inner, max_size=5)
    ),
    max_leaves=15,
)


def loads_or_complains(folder: Path, raw: bytes, overrides: Overrides = NONE) -> None:
    path = folder / "job.yaml"
    path.write_bytes(raw)
    try:
        job = load(path, overrides, environ={"K": "hunter22"}, today=date(2026, 11, 22), cwd=folder)
    except JobError as error:
        said = [str(complaint) for complaint in error.complaints]
        assert said
        assert len(said) == len(set(said))
        assert not [line for line in said if "\n" in line or "hunter22" in line]
    else:
        assert job.request.wire()["max_tokens"] >= 1
        assert job.output.path.is_absolute()
        assert "hunter22" not in repr(job) + "".join(map(str, job.warnings))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("laws")


slow = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(
    st.integers(0, len(SOUND)), st.integers(0, 12), st.lists(st.sampled_from(SCRAPS) | st.text(max_size=3), max_size=4)
)
def test_a_sound_job_with_a_piece_replaced_loads_or_complains(
    folder: Path, start: int, gone: int, put: list[str]
) -> None:
    text = SOUND[:start] + "".join(put) + SOUND[start + gone :]
    loads_or_complains(folder, text.encode("utf-8", "surrogatepass"))


@slow
@given(st.binary(max_size=200))
def test_any_bytes_load_or_complain(folder: Path, raw: bytes) -> None:
    loads_or_complains(folder, raw)


@slow
@given(st.dictionaries(st.sampled_from(sorted(JobFile.model_fields)), anything, max_size=8))
def test_any_values_under_the_files_keys_load_or_complain(folder: Path, values: dict[str, Any]) -> None:
    loads_or_complains(folder, json.dumps(values).encode())


fields = st.dictionaries(
    st.sampled_from(sorted(RequestFields.model_fields)), anything | st.dictionaries(st.sampled_from(KEYS), anything)
)


@slow
@given(fields, st.dictionaries(st.sampled_from(["schema", "repair", "columns"]), anything))
def test_any_request_and_answer_load_or_complain(
    folder: Path, request_fields: dict[str, Any], answer: dict[str, Any]
) -> None:
    sections = {
        "source": {"path": "a.csv"},
        "prompt": {"user": "a"},
        "request": {"model": "claude-sonnet-4-5", "max_tokens": 5} | request_fields,
        "answer": answer,
        "output": {"path": "o.parquet"},
    }
    loads_or_complains(folder, json.dumps(sections).encode())


@slow
@given(
    st.builds(
        Overrides,
        params=st.dictionaries(st.sampled_from(["region", "n", "x"]), st.text(max_size=8), max_size=2),
        date=st.none() | st.dates(),
        endpoint=st.none()
        | st.sampled_from(["embedded", "http://localhost:1", "https://h", "x"])
        | st.text(max_size=12),
        api_key_env=st.none() | st.sampled_from(["K"]) | st.text(max_size=12),
        output=st.none() | st.text(max_size=12).map(Path),
        limit=st.none() | st.integers(-1, 9),
    )
)
def test_any_command_line_loads_or_complains(folder: Path, overrides: Overrides) -> None:
    loads_or_complains(folder, SOUND.encode(), overrides)

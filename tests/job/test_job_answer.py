"""The section `answer`: its schema from a file, its columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import JobError
from pipeline.job import Answer, Column, Job, json_schema, load

Loader = Callable[..., Job]
REST = "source: {path: x.csv}\nprompt: {user: a}\noutput: {path: o.parquet}\nrequest: {model: m}\n"
LABEL = {"type": "object", "properties": {"label": {"enum": ["no", "7", 7, None]}}, "required": ["label"]}


@pytest.fixture
def job_of(tmp_path: Path) -> Loader:
    def loaded(answer: str, rest: str = REST) -> Job:
        (tmp_path / "job.yaml").write_text(f"{rest}answer: {answer}\n", encoding="utf-8")
        return load(Path("job.yaml"), environ={}, today=date(2026, 11, 22), cwd=tmp_path)

    return loaded


def complaints(loader: Loader, answer: str, rest: str = REST) -> list[str]:
    with pytest.raises(JobError) as caught:
        loader(answer, rest)
    return [str(complaint) for complaint in caught.value.complaints]


def test_the_schema_for_editors_has_the_section() -> None:
    assert {"schema", "repair", "columns"} == set(json_schema()["$defs"]["Answer"]["properties"])


def test_keys_of_the_section_are_found_from_elsewhere(job_of: Loader) -> None:
    said = complaints(job_of, "{}", rest=REST + "schema: {}\n")
    assert said == ["job.yaml:5:1: schema: unknown key here; it belongs to answer, as answer.schema"]


@pytest.mark.parametrize("answer", ["", "{}", "{schema: null, columns: null}"])
def test_an_empty_section_asks_for_text(job_of: Loader, answer: str) -> None:
    answer_read = job_of(answer).answer
    assert (answer_read.json_schema, answer_read.repair, answer_read.columns) == (None, 1, {})


def test_a_job_without_the_section_asks_for_text(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(REST)
    assert load(tmp_path / "job.yaml", environ={}).answer == Answer()


def test_every_key_arrives(job_of: Loader) -> None:
    answer = job_of(
        "{schema: {type: object, properties: {on: {const: no, default: null, pattern: '${x}'}}}, repair: 0, columns: "
        "{thoughts: \"content[?type=='thinking'].thinking | [0]\", used: {path: usage.output_tokens, type: integer}}}"
    ).answer
    assert answer.json_schema == {
        "type": "object",
        "properties": {"on": {"const": "no", "default": None, "pattern": "${x}"}},
    }
    assert answer.repair == 0
    assert answer.columns == {
        "thoughts": Column(path="content[?type=='thinking'].thinking | [0]"),
        "used": Column(path="usage.output_tokens", type="integer"),
    }
    assert answer.columns["thoughts"].type == "string"


YAML = "type: object\nproperties:\n  label: {enum: [no, '7', 7, null]}\nrequired: [label]\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("label.json", json.dumps(LABEL)),
        ("label.json", "\ufeff" + json.dumps(LABEL, indent="\t")),
        ("label.yaml", json.dumps(LABEL)),
        ("label.yml", YAML),
        ("label.schema", YAML),
    ],
)
@pytest.mark.parametrize("written", ["schemas/{}", "{{file: schemas/{}}}"])
def test_a_schema_can_stand_in_a_file(job_of: Loader, tmp_path: Path, name: str, text: str, written: str) -> None:
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / name).write_text(text, encoding="utf-8")
    assert job_of(f"{{schema: {written.format(name)}}}").answer.json_schema == LABEL


def test_large_whole_numbers_in_a_schema_file_become_what_json_can_write(job_of: Loader, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"maximum": 18446744073709551616, "minimum": -5, "x": 18446744073709551615}')
    schema: dict[str, Any] = job_of("{schema: a.json}").answer.json_schema or {}
    assert schema == {"maximum": 1.8446744073709552e19, "minimum": -5, "x": 2**64 - 1}
    assert [type(value) for value in schema.values()] == [float, int, int]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"type": }', 'a.json":1:10: this is not JSON: expecting value'),
        ('{"a": 1, "a": 2}', 'the key "a" stands twice'),
        ("[1, 2]", "must hold a mapping, such as {type: object}; found a list of 2 items"),
        ("", 'a.json":1:1: this is not JSON'),
        ('{"a": "\\ud83d"}', "is not JSON in UTF-8"),
        ("[" * 100_000, "a.json"),
        ('{"a":' * 100 + "1" + "}" * 100, "more than 64 deep"),
        ('{"a": NaN}', "answer.schema.a: must be something that JSON can write"),
        (f'{{"a": {"9" * 5000}}}', "answer.schema.a: must be something that JSON can write"),
        ('{"a": "' + "x" * 1_100_000 + '"}', "is larger than 1,048,576 bytes"),
    ],
)
def test_a_schema_file_that_cannot_be_read_is_one_complaint(
    job_of: Loader, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    said = complaints(job_of, "{schema: a.json}")
    assert len(said) == 1
    assert words in said[0]
    assert said[0].startswith("job.yaml:5:18: answer.schema") or said[0].startswith("job.yaml:5:10: answer.schema")


def test_a_schema_file_in_yaml_is_complained_about_at_its_own_line(job_of: Loader, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("type: object\ntype: array\n")
    assert complaints(job_of, "{schema: {file: a.yaml}}") == [
        (
            f'job.yaml:5:25: answer.schema.file: "{tmp_path}/a.yaml":2:1: the key stands here twice, first in line 1; '
            "keep one of them"
        )
    ]
    (tmp_path / "a.yaml").write_text("a: b: c\n")
    assert '/a.yaml":1:5: this is not YAML' in complaints(job_of, "{schema: a.yaml}")[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("{schema: nope.json}", "answer.schema: cannot read"),
        ("{schema: {file: nope.json}}", "answer.schema.file: cannot read"),
        ("{schema: {file: [a]}}", "answer.schema.file: must be the path of a JSON or YAML file"),
        ('{schema: ""}', "answer.schema: must be the path of a JSON or YAML file"),
        ("{schema: .}", "is not a regular file"),
        ("{schema: s3://a/b.json}", "answer.schema: s3:// is not supported in this version"),
        ("{schema: '${x}.json'}", "${…} is not filled in inside of answer"),
        ("{schema: [a]}", "answer.schema: must be a JSON Schema, such as {type: object, properties: {…}}, or the path"),
        ("{schema: {a: .inf}}", "answer.schema.a: must be something that JSON can write"),
        ("{json_schema: {}}", "answer.json_schema: unknown key; did you mean schema?"),
        ("{repairs: 1}", "answer.repairs: unknown key; write repair"),
        ("{zzz: 1}", "answer.zzz: unknown key; there is schema, repair, columns"),
        ("{repair: -1}", "answer.repair: must be a whole number of at least 0, found -1"),
        ("{columns: [a]}", "answer.columns: must be a mapping, such as {name: value}; found a list of 1 item"),
        ("{columns: {a: {}}}", "answer.columns.a.path: is missing; write path: content[?type=='thinking']"),
        ("{columns: {a: ''}}", "answer.columns.a.path: must be a JMESPath, such as usage.output_tokens, found empty"),
        ("{columns: {a: null}}", "answer.columns.a"),
        ("{columns: {a: {path: b, type: date}}}", "answer.columns.a.type: must be one of string, integer, number"),
        ("{columns: {a: {path: b, typ: json}}}", "answer.columns.a.typ: unknown key; did you mean type?"),
        ("{columns: {'': b}}", "must have a name that can be printed"),
        ("{columns: {a: b, a: c}}", "answer.columns.a: the key stands here twice"),
        (
            "{schema: {properties: {label: {}}}, columns: {label: b}}",
            'answer.columns.label: the schema\'s property "label" has a column of this name already; choose another',
        ),
    ],
)
def test_a_section_that_is_not_right_is_complained_about_once(job_of: Loader, answer: str, words: str) -> None:
    said = complaints(job_of, answer)
    assert len(said) == 1, said
    assert words in said[0]
    assert said[0].startswith("job.yaml:5:")


def test_a_schema_of_answers_does_not_stand_beside_a_format_in_the_request(job_of: Loader) -> None:
    fields = "{model: m, output_config: {format: {type: json_schema, schema: {}}}}"
    rest = REST.replace("{model: m}", fields)
    assert complaints(job_of, "{schema: {type: object}}", rest=rest) == [
        (
            "job.yaml:4:37: request.output_config.format: stands beside answer.schema, which asks for the form; keep "
            "one of them"
        )
    ]
    assert job_of("{columns: {a: b}}", rest=rest).answer.columns

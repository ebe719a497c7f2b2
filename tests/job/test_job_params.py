"""Params, the date and the environment: what is filled in where, and what is not."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.job import Job, Overrides, load
from pipeline.job.interpolate import Names
from pipeline.job.params import read_as

NONE = Overrides()
TODAY = date(2026, 11, 22)
REST = """\
prompt: {user: a}
request: {model: m}
output: {path: out.parquet}
"""


def job_of(tmp_path: Path, text: str, overrides: Overrides = NONE, **environ: str) -> Job:
    path = tmp_path / "job.yaml"
    path.write_text(text + REST if "output:" not in text else text, encoding="utf-8")
    return load(Path("job.yaml"), overrides, environ=environ, today=TODAY, cwd=tmp_path)


def complaints(tmp_path: Path, text: str, overrides: Overrides = NONE, **environ: str) -> list[str]:
    with pytest.raises(JobError) as caught:
        job_of(tmp_path, text, overrides, **environ)
    return [str(complaint) for complaint in caught.value.complaints]


def test_a_param_is_filled_in_as_it_was_written(tmp_path: Path) -> None:
    text = 'params: {v: 2.50, n: 007, t: True}\nsource: {path: x}\ndescription: "${v} ${n} ${t} $${v} $v $$"\n'
    job = job_of(tmp_path, text)
    assert job.description == "2.50 007 True ${v} $v $$"
    assert job.params == {"v": 2.5, "n": "007", "t": True}


def test_what_was_filled_in_is_only_text(tmp_path: Path) -> None:
    text = "params: {a: x}\nsource: {path: ['${a}']}\ntags: {t: '${a}'}\n"
    hostile = "b: [c]\n&d *e ${a} ${env:HOME} <<f>> # g"
    job = job_of(tmp_path, text, Overrides(params={"a": hostile.replace("\n", " ")}))
    assert job.tags == {"t": hostile.replace("\n", " ")}
    job = job_of(
        tmp_path,
        "source: {path: x}\nendpoint: {url: 'http://localhost:1', headers: {x-a: '${env:A}'}}\n",
        A=hostile[8:],
    )
    assert job.endpoint.headers == {"x-a": hostile[8:]}


def test_names_are_plain_text_in_prompt_request_and_tests(tmp_path: Path) -> None:
    job = job_of(
        tmp_path,
        "source: {path: x}\nprompt: {user: '${nope} $${x}', system: '${env:NOPE}'}\nrequest: {model: '${m}', "
        "metadata: {user_id: '${u}'}}\noutput: {path: o.parquet}\ntests: [{row: {a: '${b}'}, prompt: '${c}'}]\n",
    )
    assert (job.prompt.user, job.prompt.system) == ("${nope} $${x}", "${env:NOPE}")
    assert (job.request.model, job.request.metadata) == ("${m}", {"user_id": "${u}"})
    assert (job.tests[0].row, job.tests[0].prompt) == ({"a": "${b}"}, "${c}")
    assert job.run_date is None


@pytest.mark.parametrize(
    ("default", "given_text", "value"),
    [
        (1, "7", 7),
        (1, "1e3", 1000),
        (1.5, "2", 2.0),
        (True, "false", False),
        ("a", "7", "7"),
        ("a", "true", "true"),
        (None, "7", "7"),
        ("a", "", ""),
    ],
)
def test_an_override_is_read_by_the_type_of_the_default(default: Any, given_text: str, value: Any) -> None:
    read = read_as(default, given_text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("default", "given_text", "words"),
    [
        (1, "1.5", "must be a whole number, as the job's 1 is"),
        (1, "x", "must be a whole number"),
        (1, "1e999", "must be a whole number"),
        (1.5, "x", "must be a number, as the job's 1.5 is"),
        (1.5, ".inf", "must be a number"),
        (True, "yes", "must be true or false, as the job's true is"),
        ("a", "\udcff", "UTF-8"),
    ],
)
def test_an_override_of_another_type_is_refused(default: Any, given_text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_as(default, given_text)


def test_an_override_is_filled_in_as_it_was_given(tmp_path: Path) -> None:
    text = "params: {v: 1.5}\nsource: {path: x}\ndescription: ${v}\n"
    job = job_of(tmp_path, text, Overrides(params={"v": "2.50"}))
    assert (job.params["v"], job.description) == (2.5, "2.50")


def test_changed_params_are_those_that_differ_from_the_file(tmp_path: Path) -> None:
    text = "params: {a: 1, b: x, c: '${a}-c', d: '${date}'}\nsource: {path: x}\n"
    job = job_of(tmp_path, text, Overrides(params={"a": "2", "b": "x"}))
    assert job.params == {"a": 2, "b": "x", "c": "2-c", "d": "2026-11-22"}
    assert job.changed_params == {"a": 2, "c": "2-c"}


def test_a_param_without_a_value_must_be_given_where_it_is_named(tmp_path: Path) -> None:
    text = "params: {region: null}\nsource: {path: '${region}.csv'}\n"
    assert complaints(tmp_path, text) == [
        "job.yaml:2:16: source.path: the param region has no value; give one with --param region=…"
    ]
    assert job_of(tmp_path, text, Overrides(params={"region": "eu"})).source.path == (f"{tmp_path}/eu.csv",)


def test_a_param_names_only_those_above_it(tmp_path: Path) -> None:
    said = complaints(tmp_path, "params: {a: '${b}', b: x, c: '${c}'}\nsource: {path: x}\n")
    assert [line.partition(";")[0] for line in said] == [
        "job.yaml:1:13: params.a: ${b} is no param",
        "job.yaml:1:30: params.c: ${c} is no param",
    ]


def test_params_that_double_each_other_are_stopped(tmp_path: Path) -> None:
    lines = ["  p0: lol", *(f"  p{n}: '${{p{n - 1}}}${{p{n - 1}}}'" for n in range(1, 40))]
    said = complaints(tmp_path, "params:\n" + "\n".join(lines) + "\nsource: {path: x}\n")
    assert "the names up to here stand for more than 1,048,576 characters" in said[0]


def test_the_sign_for_the_characters_themselves_works_in_params_too(tmp_path: Path) -> None:
    job = job_of(tmp_path, "params: {a: '$${x}', b: '${a}'}\nsource: {path: x}\n")
    assert job.params == {"a": "${x}", "b": "${x}"}


def test_an_unclosed_name_in_a_param_is_complained_about(tmp_path: Path) -> None:
    assert complaints(tmp_path, "params: {a: '${x'}\nsource: {path: x}\n")[0].startswith(
        "job.yaml:1:13: params.a: ${ is not closed by }"
    )


def test_an_unknown_override_lists_the_params_that_are_known(tmp_path: Path) -> None:
    text = "params: {region: eu, day: 1}\nsource: {path: x}\n"
    assert complaints(tmp_path, text, Overrides(params={"regoin": "us", "day": "x"})) == [
        '--param day: must be a whole number, as the job\'s 1 is; found "x"',
        "--param regoin: the job has no param of this name; it has region, day; did you mean region?",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "source: {path: '${date}.csv'}\n",
        "params: {d: '${date}'}\nsource: {path: x}\n",
        "source: {path: x}\nname: a-${date}\n",
        "source: {path: x}\nlimits: {concurrency: 1}\noutput: {path: '${date}.parquet'}\n"
        + REST.replace("output", "#"),
    ],
)
def test_a_job_that_names_the_date_has_one(tmp_path: Path, text: str) -> None:
    assert job_of(tmp_path, text).run_date == TODAY
    assert job_of(tmp_path, text, Overrides(date=date(2020, 1, 2))).run_date == date(2020, 1, 2)


def test_a_job_that_does_not_name_the_date_has_one_only_if_given(tmp_path: Path) -> None:
    text = "source: {path: x}\ndescription: $${date} $date\n"
    assert job_of(tmp_path, text).run_date is None
    assert job_of(tmp_path, text, Overrides(date=TODAY)).run_date == TODAY


def test_the_date_is_today_in_the_time_zone_of_the_job(tmp_path: Path) -> None:
    days = set()
    for zone in ("Pacific/Kiritimati", "Etc/GMT+12"):
        path = tmp_path / "job.yaml"
        path.write_text(f"params: {{z: {zone}}}\ntimezone: '${{z}}'\nsource: {{path: '${{date}}'}}\n{REST}")
        days.add(load(path, environ={}).run_date)
    # 26 hours lie between the two, so there it is never the same day.
    assert len(days) == 2


@pytest.mark.parametrize("text", ["timezone: '${date}'\n", "params: {d: '${date}', e: '${d}'}\ntimezone: '${e}'\n"])
def test_the_time_zone_cannot_depend_on_the_date(tmp_path: Path, text: str) -> None:
    said = complaints(tmp_path, text + "source: {path: x}\n")
    assert any("timezone: cannot name ${date}, also not by a param" in line for line in said)


def test_the_environment_is_named_in_four_places(tmp_path: Path) -> None:
    text = (
        "source: {path: '${env:DIR}/x.csv'}\nstate: ${env:DIR}/state\nendpoint: ${env:WORD}\n"
        "output: {path: '${env:DIR}/o.parquet'}\n" + REST.replace("output", "#")
    )
    job = job_of(tmp_path, text, DIR="/deep/dir", WORD="simulator")
    assert job.source.path == ("/deep/dir/x.csv",)
    assert (job.state, job.output.path) == (Path("/deep/dir/state"), Path("/deep/dir/o.parquet"))
    assert job.endpoint.word == "simulator"
    assert job.secrets == {"/deep/dir", "simulator"}


@pytest.mark.parametrize(("environ", "state"), [({}, "is not set"), ({"DIR": ""}, "is empty")])
def test_a_missing_variable_is_named(tmp_path: Path, environ: dict[str, str], state: str) -> None:
    assert complaints(tmp_path, "source: {path: '${env:DIR}/x'}\n", NONE, **environ) == [
        f"job.yaml:1:16: source.path: the environment variable DIR {state}; export DIR=…"
    ]


def test_values_of_the_environment_are_masked_in_every_complaint(tmp_path: Path) -> None:
    text = "source: {path: '${env:DIR}'}\nstate: ${env:DIR}\nendpoint: {url: 'https://h/${env:DIR}?x'}\n"
    text += "output: {path: 'x/${env:DIR}'}\n" + REST.replace("output", "#")
    said = complaints(tmp_path, text, DIR="s3cret/canary")
    assert any("output.path" in line for line in said)
    assert "canary" not in "".join(said)
    job = job_of(tmp_path, "source: {path: '${env:DIR}'}\n", DIR="s3cret/canary")
    assert "canary" not in str(job.complain("source.path", "no file /x/s3cret/canary here"))
    assert job.mask("s3cret/canary") == "${env:DIR}"


def test_a_value_of_the_environment_is_masked_in_every_form_that_a_message_gives_it(tmp_path: Path) -> None:
    forms = {
        "A": "canary" * 30,
        "B": "canary//inner/../path",
        "C": "canary\nwith\x1bcontrols",
        "D": "Canary.Example",
    }
    text = (
        "source: {path: ['${env:A}', '${env:C}']}\nstate: 's3://${env:A}'\nendpoint: {url: 'http://${env:D}', "
        "scope: '${env:A}', api_key_file: '${env:B}'}\noutput: {path: '${env:B}'}\nlimits: {}\n"
    )
    said = complaints(tmp_path, text + REST.replace("output", "#"), NONE, **forms)
    assert len(said) == 4
    assert "canary" not in "".join(said).lower()
    text = "source: {path: x}\nendpoint: {url: 'https://${env:D}', api_key_file: '${env:B}'}\n"
    job = job_of(tmp_path, text, NONE, **forms)
    with pytest.raises(JobError, match="cannot read") as caught:
        job.endpoint.api_key({})
    assert "canary" not in str(caught.value)
    job = job_of(tmp_path, "source: {path: x}\nendpoint: {url: 'https://${env:D}'}\n", NONE, **forms)
    with pytest.raises(JobError, match=r"\$\{env:D\} wants a key"):
        job.endpoint.api_key({})
    text = "source: {path: '${env:B}.parquet'}\noutput: {path: '${env:B}.parquet'}\n" + REST.replace("output", "#")
    said = complaints(tmp_path, text, NONE, **forms)
    assert "is among what the source reads" in said[0]
    assert "canary" not in said[0]


def test_a_short_value_of_the_environment_is_no_secret(tmp_path: Path) -> None:
    job = job_of(tmp_path, "source: {path: 'x${env:N}'}\n", N="1")
    assert job.secrets == frozenset()


@given(st.text(max_size=40))
def test_filling_in_looks_at_each_character_once(value: str) -> None:
    names = Names({"a": value}, TODAY, {})
    filled, problems = names.fill("${a}|$${a}|${a}", env=False)
    assert (filled, problems) == (f"{value}|${{a}}|{value}", [])


@given(st.text(st.sampled_from("${}ab:env d") | st.characters(), max_size=40))
def test_any_text_is_filled_in_or_complained_about(text: str) -> None:
    filled, problems = Names({"a": "x"}, None, {}).fill(text, env=True)
    assert problems or "${" not in text.replace("$${", "").replace("${a}", "") or "${" in filled

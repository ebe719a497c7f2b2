"""Loading whole job files: what comes out, and every complaint at its place."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from pipeline.errors import JobError
from pipeline.job import Job, ModelPrice, Overrides, load

NONE = Overrides()
SOUND = """\
name: night
source: {path: in.csv}
prompt: {user: "<<text>>"}
request: {model: m}
output: {path: out/night.parquet}
"""

Loader = Callable[..., Job]


@pytest.fixture
def job_of(tmp_path: Path) -> Loader:
    def loaded(text: str, overrides: Overrides = NONE, name: str = "job.yaml", **environ: str) -> Job:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load(Path(name), overrides, environ=environ, today=date(2026, 11, 22), cwd=tmp_path)

    return loaded


def complaints(loader: Loader, text: str, overrides: Overrides = NONE, **environ: str) -> list[str]:
    with pytest.raises(JobError) as caught:
        loader(text, overrides, **environ)
    return [str(complaint) for complaint in caught.value.complaints]


def with_line(line: str) -> str:
    """Put a line into the sound job, in the place of the one that starts with the same key."""
    key = line.partition(":")[0]
    kept = [old for old in SOUND.splitlines() if old.partition(":")[0] != key]
    return "\n".join([*kept, line]) + "\n"


def test_a_short_job_is_complete(job_of: Loader, tmp_path: Path) -> None:
    job = job_of(SOUND)
    assert job.name == "night"
    assert job.file == tmp_path / "job.yaml"
    assert job.source.path == (str(tmp_path / "in.csv"),)
    assert job.output.path == tmp_path / "out/night.parquet"
    assert job.output.keep == "all"
    assert job.state == tmp_path / ".pipeline"
    assert job.prompt.user == "<<text>>"
    assert job.prompt.delimiters == ("<<", ">>")
    assert job.request.wire() == {"model": "m", "max_tokens": 1024}
    assert job.endpoint.url == "https://api.anthropic.com/v1/messages"
    assert (job.limits.concurrency, job.limits.attempts, job.limits.timeout_secs) == ("auto", 6, 600)
    assert (job.limits.row_deadline_secs, job.limits.give_up_after_secs, job.limits.grace_secs) == (3600, 1800, 30)
    assert job.limits.requests_per_minute is None
    assert (job.expect.min_rows, job.expect.max_failed_ratio) == (1, None)
    assert (job.timezone, job.reuse, job.run_date, job.tests) == ("UTC", True, None, ())


def test_every_key_of_the_file_arrives(job_of: Loader, tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/system.md").write_bytes(b"\xef\xbb\xbfBe\r\nbrief.\r\n")
    job = job_of("""\
name: 007
description: yes
params: {region: eu, n: 3, ratio: 0.5, on: true, code: 007, day: "${date}"}
timezone: Europe/Berlin
tags: {team: quality, cost-centre: 0042}
reuse: false
state: state/${region}
source:
  path: ["data/${date}/*.csv", /abs/b.csv]
  format: csv
  csv: {separator: "\\t", encoding: latin-1, null_values: [NULL, "", n/a]}
  types: {ticket: string}
  where: value IS NOT NULL
  columns: [a, 1, no]
  id: a
  limit: 1e3
  sort_by: [-ts, a]
  group_by: a
  rows_per_request: ${n}
prompt:
  system: {file: prompts/system.md}
  messages:
    - {role: user, content: "${plain} <<a>>"}
    - {role: assistant, content: "{"}
  dataset: {format: markdown, columns: [a]}
  delimiters: ["[[", "]]"]
request:
  model: claude
  max_tokens: 2048
  temperature: 0
  top_k: 4
  stop_sequences: [no]
  metadata: {user_id: 007}
  thinking: {type: enabled, budget_tokens: 2000}
  service_tier: auto
  extra: {seed: 7}
endpoint: {url: http://localhost:8080, version: 2026-10-21, headers: {X-Day: "${date}"}}
limits: {requests_per_minute: 1000, concurrency: 64, attempts: 2, timeout_secs: 10m, give_up_after_secs: 0}
prices: {claude: {input: 3, output: 15, cache_read: 0.3}}
expect: {min_rows: 0, max_failed_ratio: 0.01}
output: {path: "../out/${region}/${date}.parquet", keep: [a], prefix: llm_}
tests:
  - {rows: [{a: 1, b: 007, c: 2023-06-01, d: null, e: no}], prompt: "x\\n", system: y}
  - {name: named, row: {a: 1}, prompt: z}
""")
    assert (job.name, job.description, job.reuse) == ("007", "yes", False)
    assert job.params == {"region": "eu", "n": 3, "ratio": 0.5, "on": True, "code": "007", "day": "2026-11-22"}
    assert job.tags == {"team": "quality", "cost-centre": "0042"}
    assert job.run_date == date(2026, 11, 22)
    assert job.state == tmp_path / "state/eu"
    assert job.source.path == (f"{tmp_path}/data/2026-11-22/*.csv", "/abs/b.csv")
    assert (job.source.csv.separator, job.source.csv.null_values) == ("\t", ("NULL", "", "n/a"))
    assert (job.source.columns, job.source.id, job.source.limit) == (("a", "1", "no"), ("a",), 1000)
    assert (job.source.sort_by, job.source.group_by, job.source.rows_per_request) == (("-ts", "a"), ("a",), 3)
    assert job.prompt.system == "Be\nbrief.\n"
    assert [(turn.role, turn.content) for turn in job.prompt.messages] == [
        ("user", "${plain} <<a>>"),
        ("assistant", "{"),
    ]
    assert job.request.wire() == {
        "model": "claude",
        "max_tokens": 2048,
        "temperature": 0,
        "top_k": 4,
        "stop_sequences": ["no"],
        "metadata": {"user_id": "007"},
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "service_tier": "auto",
        "seed": 7,
    }
    assert (job.endpoint.version, job.endpoint.headers) == ("2026-10-21", {"X-Day": "2026-11-22"})
    assert (job.limits.timeout_secs, job.limits.give_up_after_secs) == (600, 0)
    price = job.prices["claude"]
    assert isinstance(price, ModelPrice)
    assert (price.input, price.cache_write) == (3, None)
    assert job.output.path == tmp_path.parent / "out/eu/2026-11-22.parquet"
    assert (job.output.keep, job.output.prefix) == (("a",), "llm_")
    first, second = job.tests
    assert (first.name, second.name) == ("example 1", "named")
    assert first.rows == ({"a": 1, "b": "007", "c": "2023-06-01", "d": None, "e": "no"},)
    assert (first.prompt, first.system, second.row) == ("x\n", "y", {"a": 1})


def test_all_complaints_come_at_once_in_the_order_of_the_file(job_of: Loader) -> None:
    text = """\
name: Night Job
sorce: {path: in.csv}
prompt: {user: a, users: b}
request: {max_tokens: many}
limits:
  concurrency: 0
  concurrency: 1
output: {path: out.csv}
"""
    assert complaints(job_of, text, Overrides(params={"x": "1"})) == [
        "job.yaml:1:1: source: is missing; write source: {path: data.csv}",
        'job.yaml:1:7: name: must be lower-case letters, digits and -, such as anomaly-nightly, found "Night Job"',
        "job.yaml:2:1: sorce: unknown key; did you mean source?",
        "job.yaml:3:19: prompt.users: unknown key; did you mean user?",
        "job.yaml:4:1: request.model: is missing; write model: claude-sonnet-4-5",
        'job.yaml:4:23: request.max_tokens: must be a whole number of at least 1, found "many"',
        "job.yaml:6:16: limits.concurrency: must be a whole number from 1 to 10000, found 0",
        "job.yaml:7:3: limits.concurrency: the key stands here twice, first in line 6; keep one of them",
        'job.yaml:8:16: output.path: must end in .parquet, or in / for a directory of parts; found "out.csv"',
        "--param x: the job has no param of this name; it has no params at all",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("budget: {run_usd: -1}", "budget.run_usd: must be a number of at least 0, found -1"),
        ("budget: 5", 'budget: must be a mapping, such as {name: value}; found "5"'),
        ("mode: batch", "mode: is not supported in this version"),
        ("source: {path: a, window: 1}", "source.window: is not supported in this version"),
        ("request: {model: m, cache_control: {}}", "request.cache_control.type: is missing; write type: ephemeral"),
        ("request: {model: m, extra: {cache_control: {}}}", "request.extra.cache_control: write cache_control under"),
        ("request: {model: m, extra: {stream: true}}", "request.extra.stream: write stream under request itself"),
        ("limits: {finish_by: 26:00}", "limits.finish_by: must be a time of day such as 06:00, or a span such as 8h"),
        ("limits: {concurrency: fast}", "limits.concurrency: must be auto or a whole number from 1 to 10000"),
        ("limits: {concurrency: 0}", "limits.concurrency: must be a whole number from 1 to 10000"),
        ("limits: {shared: true}", "limits.shared: is not supported in this version"),
        (
            "output: {path: out/, rows_per_file: 0}",
            "output.rows_per_file: must be a whole number of at least 1, found 0",
        ),
        ("output: {path: out.parquet/}", 'output.path: "out.parquet/" is a directory of parts with the name of a file'),
        ("source: {path: s3://b/a.csv}", "source.path: s3:// is not supported in this version"),
        ("model: claude", "model: unknown key here; it belongs to request, as request.model"),
        ("max_tokens: 5", "max_tokens: unknown key here; it belongs to request, as request.max_tokens"),
        ("limits: {retrys: 5}", "limits.retrys: unknown key; there is requests_per_minute, input_tokens_per_minute"),
        ("source: 5", 'source: must be a mapping, such as {name: value}; found "5"'),
        ("source: []", "source: must be a mapping, such as {name: value}; found an empty list"),
        ("source:", "source.path: is missing"),
        ("source: {path: []}", "source.path: must name at least one, found an empty list"),
        ("source: {path: {a: b}}", "source.path: must be a list, such as [a, b]; found a mapping with a"),
        ("source: {path: a, columns: []}", "source.columns: must name at least one"),
        ("source: {path: a, columns: a}", "source.columns: must be a list"),
        ("source: {path: a, columns: [a, a]}", 'source.columns.1: "a" stands twice'),
        ("source: {path: a, sort_by: [ts, -ts]}", "source.sort_by.1: sorts by ts a second time"),
        ("source: {path: a, types: {b: strng}}", "source.types.b: must be one of string, integer"),
        ("source: {path: a, csv: {separator: \\t}}", "source.csv.separator: must be one ASCII character"),
        ("source: {path: a, csv: {encoding: utf-9}}", "source.csv.encoding: must be a text encoding"),
        ("source: {path: a, csv: {encoding: base64}}", "source.csv.encoding: must be a text encoding"),
        ("source: {path: ~/a.csv}", 'source.path: "~/a.csv" starts with ~, which only a shell reads'),
        ('source: {path: "a\\0b"}', "source.path: must be a path, found control characters"),
        (f"source: {{path: {'a' * 5000}}}", "source.path: must be a path, found 5,000 characters"),
        ("prompt: {}", "prompt: asks nothing; write user:"),
        ("prompt: {messages: []}", "prompt: asks nothing"),
        ('prompt: {user: ""}', "prompt.user: must be text, or {file: path}, found empty text"),
        ('prompt: {user: " "}', "prompt.user: must be text, or {file: path}; found only white space"),
        ("prompt: {user: a, messages: [{role: user, content: b}]}", "prompt.messages: stands beside user"),
        ("prompt: {messages: [{role: assistant, content: b}]}", "prompt.messages.0.role: must be user"),
        (
            "prompt: {messages: [{role: user, content: b}, {role: user, content: b}]}",
            "prompt.messages.1.role: is user, as the turn before it",
        ),
        ("prompt: {messages: [{role: system, content: b}]}", "prompt.messages.0.role: must be one of user, assistant"),
        ("prompt: {user: {file: nope.md}}", "prompt.user.file: cannot read"),
        ("prompt: {user: {file: .}}", 'prompt.user.file: "'),
        ("prompt: {user: {file: a, b: c}}", "prompt.user: must be text, or {file: path}; found a mapping with file, b"),
        ('prompt: {user: a, delimiters: ["<<"]}', "prompt.delimiters: must be two texts"),
        ('prompt: {user: a, delimiters: ["<<", "<<"]}', "prompt.delimiters: must be two different texts"),
        ('prompt: {user: a, delimiters: ["<< ", ">>"]}', "prompt.delimiters: must hold no white space"),
        ('prompt: {user: a, delimiters: ["", ">>"]}', "prompt.delimiters.0: must be a delimiter"),
        (
            "request: {model: m, thinking: {budget_tokens: 5}}",
            "request.thinking.type: is missing; write type: adaptive",
        ),
        (
            "request: {model: m, thinking: {type: enabled, budget_tokens: 1024}}",
            "request.thinking.budget_tokens: is 1,024, which leaves nothing of max_tokens (1,024) for the answer",
        ),
        ("request: {model: m, top_p: 1.5}", "request.top_p: must be a number from 0 to 1, found 1.5"),
        ("request: {model: m, stop: [a]}", "request.stop: unknown key; write stop_sequences"),
        ("request: {model: m, extra: {model: x}}", "request.extra.model: write model under request itself"),
        ("request: {model: m, extra: {system: x}}", "request.extra.system: system is made of the section prompt"),
        ("request: {model: m, metadata: {a: [.nan]}}", "request.metadata.a.0: must be something that JSON can write"),
        ("prices: {m: {input: 1, output: -1}}", "prices.m.output: must be a number of at least 0, found -1"),
        ("prices: {m: {input: 1}}", "prices.m.output: is missing"),
        ("expect: {max_failed_ratio: 2}", "expect.max_failed_ratio: must be a number from 0 to 1, found 2"),
        ("timezone: Europe/Berln", 'found "Europe/Berln"; did you mean Europe/Berlin?'),
        ("timezone: America", "timezone: must be a time zone"),
        ("timezone: ../../etc/passwd", "timezone: must be a time zone"),
        ("reuse: no", 'reuse: must be true or false, found "no"'),
        ("tests: [{prompt: a}]", "tests.0: has no row; write row:"),
        ("tests: [{row: {a: 1}, rows: [{a: 1}], prompt: a}]", "tests.0.rows: stands beside row"),
        ("tests: [{rows: [{a: 1}], prompt: a}]", "tests.0.rows: this job asks once per row"),
        ("tests: [{row: {a: 1}}]", "tests.0.prompt: is missing"),
        ("tests: [{row: [], prompt: a}]", "tests.0.row: must be a mapping"),
        ("output: {path: a.parquet, keep: a}", "output.keep: must be a list, such as [a, b], or one of all, none"),
        ("output: {path: a.parquet, prefix: a b}", "output.prefix: must be letters, digits"),
        ("params: [a]", "params: must be a mapping, such as {region: eu}; found a list of 1 item"),
        ("params: {a-b: 1}", "params.a-b: must be named with letters, digits and _"),
        ("params: {a: [1]}", "params.a: must be text, a number, true, false or null; found a list of 1 item"),
        ("params: {date: x}", "params.date: the name date is taken"),
        ("tags: {a: [b]}", "tags.a: must be text, found a list of 1 item"),
        ("tags: {a: null}", "tags.a: must be text, found null, which is YAML's word for nothing"),
        ("state: ${env:NOPE}/x", "state: the environment variable NOPE is not set; export NOPE=…"),
        ("description: ${env:HOME}", "description: ${env:HOME} works only in endpoint, source.path, output.path"),
        ("description: ${regoin}", "description: ${regoin} is no param; there is date; $${ writes the characters"),
        ("description: ${dat}", "did you mean date?"),
        ("description: a ${b", "description: ${ is not closed by }"),
        ("tags: {'${x}': y}", "tags.${x}: names are not filled in in keys"),
    ],
)
def test_a_broken_line_is_complained_about_once(job_of: Loader, line: str, words: str) -> None:
    said = complaints(job_of, with_line(line))
    assert len(said) == 1, said
    assert words in said[0]
    assert said[0].startswith("job.yaml:")


def test_a_missing_name_is_the_stem_of_the_file(job_of: Loader) -> None:
    text = SOUND.removeprefix("name: night\n")
    assert job_of(text, name="night-2.yaml").name == "night-2"
    with pytest.raises(JobError, match=r"Job 1\.yaml:1:1: name: is missing; write name: anomaly-nightly"):
        job_of(text, name="Job 1.yaml")


def test_a_section_whose_keys_are_all_commented_out_is_empty(job_of: Loader) -> None:
    text = SOUND + "limits:\n  # concurrency: 4\nparams:\ntags:\nprices:\ntests:\nendpoint:\nexpect:\n"
    job = job_of(text)
    assert (job.limits.concurrency, job.params, job.tags, job.tests) == ("auto", {}, {}, ())


def test_null_sends_no_version(job_of: Loader) -> None:
    assert job_of(with_line("endpoint: {version: null}")).endpoint.version is None


def test_a_place_in_the_job_is_found_for_later_complaints(job_of: Loader) -> None:
    job = job_of("# first\n" + SOUND)
    assert str(job.complain("prompt.user", "no\nsuch")) == "job.yaml:4:16: prompt.user: no\\nsuch"
    assert str(job.complain("source.columns.2", "x")) == "job.yaml:3:1: source.columns.2: x"
    assert str(job.complain("limits", "x")) == "job.yaml:2:1: limits: x"


def test_a_file_in_a_prompt_must_be_readable_text(job_of: Loader, tmp_path: Path) -> None:
    (tmp_path / "latin.md").write_bytes(b"one\nt\xfc")
    os.mkfifo(tmp_path / "pipe")
    text = with_line("prompt: {system: {file: latin.md}, user: {file: pipe}}")
    first, second = complaints(job_of, text)
    assert "latin.md" in first
    assert "is not UTF-8 in its line 2; save it as UTF-8" in first
    assert "pipe" in second
    assert "is not a regular file" in second


def test_a_prompt_file_that_holds_signs_of_yaml_and_names_is_plain_text(job_of: Loader, tmp_path: Path) -> None:
    (tmp_path / "p.md").write_text("a: [${x}\n*b <<c>>\n")
    assert job_of(with_line("prompt: {user: {file: p.md}}")).prompt.user == "a: [${x}\n*b <<c>>\n"


@pytest.mark.parametrize(
    ("name", "words"), [("nope.yaml", "no such file or directory"), (".", "is a directory"), ("a\0b", "null")]
)
def test_a_job_file_that_cannot_be_read_is_one_complaint(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(JobError, match=words) as caught:
        load(Path(name), environ={}, cwd=tmp_path)
    assert len(caught.value.complaints) == 1


@pytest.mark.parametrize("text", ["", "# nothing\n", "null\n"])
def test_an_empty_file_says_what_a_job_has(job_of: Loader, text: str) -> None:
    assert complaints(job_of, text) == [
        "job.yaml:1:1: the file is empty; a job has at least source, prompt, request and output"
    ]


@pytest.mark.parametrize("text", ["just text\n", "- a\n- b\n", "'{}'\n"])
def test_a_file_that_is_no_mapping_says_so(job_of: Loader, text: str) -> None:
    assert complaints(job_of, text)[0].startswith("job.yaml:1:1: a job is a mapping, such as name: my-job; found ")


def test_an_endless_file_is_read_no_further_than_its_limit() -> None:
    with pytest.raises(JobError, match="larger than"):
        load(Path("/dev/zero"), environ={})


def test_the_directory_of_a_job_is_no_glob(tmp_path: Path) -> None:
    folder = tmp_path / "[x]"
    folder.mkdir()
    (folder / "job.yaml").write_text(with_line("source: {path: ['*.csv', a.csv]}"))
    job = load(folder / "job.yaml", environ={}, cwd=tmp_path)
    assert job.source.path == (f"{tmp_path}/[[]x]/*.csv", f"{tmp_path}/[x]/a.csv")


def test_two_dots_leave_the_directory_that_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real/jobs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real/jobs")
    (tmp_path / "real/jobs/job.yaml").write_text(with_line("source: {path: ['../*.csv', ../a.csv]}"))
    job = load(Path("link/job.yaml"), environ={}, cwd=tmp_path)
    assert job.source.path == (f"{tmp_path}/real/*.csv", f"{tmp_path}/real/a.csv")
    assert job.output.path == tmp_path / "link/out/night.parquet"


def test_the_text_form_of_a_job_holds_no_settings(job_of: Loader) -> None:
    job = job_of(with_line("endpoint: {url: 'http://localhost:1', headers: {x-api-key: '${env:K}'}}"), K="hunter22")
    assert "hunter22" not in repr(job) + str(job) + repr(job.endpoint) + str(job.endpoint)
    assert job.endpoint.headers == {"x-api-key": "hunter22"}
    assert job.secrets == {"hunter22"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("budget: {run_usd: 0,50}", "budget.50: the comma begins another key here; write run_usd: 0.50, with a point"),
        (
            'budget: {run_usd: "0,50"}',
            'budget.run_usd: must be a number of at least 0, found "0,50"; write 0.50, with a',
        ),
        ("limits: {requests_per_minute: '1,000'}", 'found "1,000"; write 1000, without a comma'),
        ("budget: {run_usd: 1, 50: 2}", "budget.50: unknown key; there is run_usd, month_usd"),
        ("budget: {run_usd: a,b}", "budget.b: unknown key"),
    ],
)
def test_a_number_with_a_comma_is_told_how_it_is_written(job_of: Loader, line: str, said: str) -> None:
    assert any(said in complaint for complaint in complaints(job_of, f"{SOUND}{line}\n"))


@pytest.mark.parametrize(
    ("path", "overrides", "warned"),
    [
        ("o.parquet", NONE, False),
        ("o.parquet", Overrides(date=date(2026, 11, 20)), True),
        ("'${date}.parquet'", NONE, False),
        ("'${date}/o.parquet'", Overrides(date=date(2026, 11, 20)), False),
        ("parts/", Overrides(date=date(2026, 11, 20)), False),  # a run replaces its own parts alone
        ("o.parquet", Overrides(date=date(2026, 11, 20), output=Path("mine.parquet")), False),
    ],
)
def test_an_output_that_every_date_would_replace_is_warned_of(
    job_of: Loader, path: str, overrides: Overrides, *, warned: bool
) -> None:
    text = f"source: {{path: x.csv}}\nprompt: {{user: x}}\nrequest: {{model: m}}\noutput: {{path: {path}}}\n"
    words = (
        "job.yaml:4:16: output.path: does not name ${date}: the run of each date replaces the output of the one "
        "before. Such as o.${date}.parquet keeps them all"
    )
    assert [str(warning) for warning in job_of(text, overrides).warnings] == ([words] if warned else [])

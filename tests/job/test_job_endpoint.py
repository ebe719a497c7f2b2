"""Whom a run asks and with which key: URLs, scopes, overrides, and keys that go nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import JobError
from pipeline.job import Job, Overrides, load
from pipeline.job.fields import ProblemError
from pipeline.job.urls import target

REST = """\
name: j
source: {path: x.csv}
prompt: {user: a}
request: {model: m}
output: {path: out.parquet}
"""
NONE = Overrides()
CANARY = "sk-ant-canary-0123456789"


def job_of(tmp_path: Path, line: str, overrides: Overrides = NONE, **environ: str) -> Job:
    path = tmp_path / "job.yaml"
    path.write_text(f"{line}\n{REST}", encoding="utf-8")
    return load(Path("job.yaml"), overrides, environ=environ, cwd=tmp_path)


def complaints(tmp_path: Path, line: str, overrides: Overrides = NONE, **environ: str) -> list[str]:
    with pytest.raises(JobError) as caught:
        job_of(tmp_path, line, overrides, **environ)
    return [str(complaint) for complaint in caught.value.complaints]


def key_complaint(job: Job, **environ: str) -> str:
    with pytest.raises(JobError) as caught:
        job.endpoint.api_key(environ)
    return str(caught.value)


@pytest.mark.parametrize(
    ("written", "url", "host"),
    [
        ("https://api.anthropic.com", "https://api.anthropic.com/v1/messages", "api.anthropic.com"),
        ("https://api.anthropic.com/", "https://api.anthropic.com/v1/messages", "api.anthropic.com"),
        ("https://api.anthropic.com/v1", "https://api.anthropic.com/v1/messages", "api.anthropic.com"),
        ("https://api.anthropic.com/v1/", "https://api.anthropic.com/v1/messages", "api.anthropic.com"),
        ("https://api.aimlapi.com/v1/messages", "https://api.aimlapi.com/v1/messages", "api.aimlapi.com"),
        ("https://api.aimlapi.com/v1/messages/", "https://api.aimlapi.com/v1/messages", "api.aimlapi.com"),
        ("https://api.aimlapi.com/messages", "https://api.aimlapi.com/messages", "api.aimlapi.com"),
        ("https://h//v1//", "https://h/v1/messages", "h"),
        ("http://localhost:4000/anthropic/v1", "http://localhost:4000/anthropic/v1/messages", "localhost:4000"),
        ("HTTPS://API.Example.COM:443/v1", "https://api.example.com/v1/messages", "api.example.com"),
        ("http://127.0.0.1:80", "http://127.0.0.1/v1/messages", "127.0.0.1"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1/messages", "[::1]:8080"),
        ("https://bücher.example", "https://xn--bcher-kva.example/v1/messages", "xn--bcher-kva.example"),
    ],
)
def test_the_path_is_joined_once(written: str, url: str, host: str) -> None:
    read = target(written)
    assert (read.url, read.host) == (url, host)
    assert target(read.url) == read


@given(st.lists(st.sampled_from(["", "v1", "messages", "anthropic"]), max_size=5))
def test_joining_adds_no_v1_to_a_path_and_nothing_to_what_it_joined(parts: list[str]) -> None:
    read = target("https://h/" + "/".join(parts))
    path = read.url.removeprefix("https://h/").split("/")
    assert path[-1] == "messages"
    assert "" not in path
    assert path.count("v1") == (parts.count("v1") if any(parts) else 1)
    assert target(read.url) == read


@pytest.mark.parametrize(
    ("url", "scope", "loopback"),
    [
        ("http://localhost:1", "local", True),
        ("http://LOCALHOST.", "local", True),
        ("http://127.9.9.9", "local", True),
        ("http://[::1]", "local", True),
        ("http://[::ffff:127.0.0.1]", "local", True),
        ("http://10.1.2.3", "local", False),
        ("http://172.16.0.1", "local", False),
        ("http://192.168.1.1", "local", False),
        ("http://169.254.1.1", "local", False),
        ("http://[fe80::1]", "local", False),
        ("http://[fd00::1]", "local", False),
        ("http://172.32.0.1", "public", False),
        ("https://8.8.8.8", "public", False),
        ("https://api.anthropic.com", "public", False),
        ("http://localhost.evil.com", "public", False),
        ("http://127.0.0.1.evil.com", "public", False),
        ("http://0x7f.1", "public", False),
        ("http://2130706433", "public", False),
    ],
)
def test_a_scope_is_that_of_the_address_and_no_name_is_looked_up(url: str, scope: str, *, loopback: bool) -> None:
    assert (target(url).scope, target(url).loopback) == (scope, loopback)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("api.anthropic.com/v1", "must be a URL that starts with https://"),
        ("localhost:8080", "must be a URL that starts with https://"),
        ("ftp://h/v1", "must be a URL that starts with https://"),
        ("file:///etc/passwd", "must be a URL that starts with https://"),
        ("https://", "host or port cannot be read"),
        ("https:///v1", "host or port cannot be read"),
        ("https://h:99999", "host or port cannot be read"),
        ("https://h:0", "host or port cannot be read"),
        ("https://h:x", "host or port cannot be read"),
        ("https://[::1", "host or port cannot be read"),
        ("https://-", "host or port cannot be read"),
        ("https://h/v1?key=1", "has a query or a fragment"),
        ("https://h/v1#x", "has a query or a fragment"),
        ("https://h/a b", "a space"),
        ("https://h\r\nx: y", "a control character"),
        (f"https://user:{CANARY}@h/v1", "holds a name or password"),
        (f"user:{CANARY}@h/v1", "must be a URL that starts with https://"),
        ("embedded", "embedded is a word, not a URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_a_key(url: str, words: str) -> None:
    with pytest.raises(ProblemError, match=words) as caught:
        target(url)
    assert "canary" not in caught.value.words


@given(st.text(max_size=60) | st.text(max_size=40).map("https://{}".format))
def test_any_text_is_a_url_or_refused(text: str) -> None:
    try:
        read = target(text)
    except ProblemError:
        return
    assert target(read.url) == read


@pytest.mark.parametrize(
    ("line", "environ", "auth", "key"),
    [
        ("# silent", {"ANTHROPIC_API_KEY": "a"}, "x-api-key", "a"),
        ("endpoint: {api_key_env: K}", {"K": "k"}, "x-api-key", "k"),
        ("endpoint: {url: 'https://api.aimlapi.com/v1', api_key_env: K}", {"K": "k"}, "bearer", "k"),
        ("endpoint: {url: 'https://api.aimlapi.com/v1'}", {"ANTHROPIC_API_KEY": "a"}, "bearer", "a"),
        ("endpoint: {url: 'https://notanthropic.com'}", {"ANTHROPIC_API_KEY": "a"}, "bearer", "a"),
        ("endpoint: {auth: bearer}", {"ANTHROPIC_API_KEY": "a"}, "bearer", "a"),
        ("endpoint: {api_key_env: null}", {"ANTHROPIC_API_KEY": "a"}, "x-api-key", None),
        ("endpoint: {headers: {x-api-key: '${env:K}'}}", {"K": "k", "ANTHROPIC_API_KEY": "a"}, "x-api-key", None),
        ("endpoint: {url: 'http://localhost:1'}", {"ANTHROPIC_API_KEY": "a"}, "bearer", None),
        ("endpoint: {url: 'http://10.0.0.5:8000'}", {"ANTHROPIC_API_KEY": "a"}, "bearer", None),
        ("endpoint: {url: 'http://localhost:1', api_key_env: K}", {"K": "k"}, "bearer", "k"),
        ("endpoint: embedded", {"ANTHROPIC_API_KEY": "a"}, "x-api-key", None),
        ("endpoint: simulator", {"ANTHROPIC_API_KEY": "a"}, "x-api-key", None),
    ],
)
def test_a_key_is_sent_where_the_job_says(
    tmp_path: Path, line: str, environ: dict[str, str], auth: str, key: str | None
) -> None:
    job = job_of(tmp_path, line, NONE, **environ)
    assert (job.endpoint.auth, job.endpoint.api_key(environ)) == (auth, key)


@pytest.mark.parametrize(("environ", "state"), [({}, "is not set"), ({"ANTHROPIC_API_KEY": ""}, "is empty")])
def test_a_missing_key_names_the_variable_and_how_to_export_it(
    tmp_path: Path, environ: dict[str, str], state: str
) -> None:
    assert key_complaint(job_of(tmp_path, "# silent"), **environ) == (
        f"job.yaml:2:1: endpoint.api_key_env: the environment variable ANTHROPIC_API_KEY {state}, and "
        "api.anthropic.com wants a key; export ANTHROPIC_API_KEY=… and start again"
    )


@pytest.mark.parametrize("key", [f"{CANARY}\n", f" {CANARY}", f"{CANARY} x", f"{CANARY}\r\nX-Y: z", f"{CANARY}ü"])
def test_a_key_with_white_space_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    said = key_complaint(job_of(tmp_path, "# silent"), ANTHROPIC_API_KEY=key)
    assert "the environment variable ANTHROPIC_API_KEY holds white space" in said
    assert "canary" not in said


def test_a_key_is_read_from_a_file(tmp_path: Path) -> None:
    job = job_of(tmp_path, "endpoint: {api_key_file: key.txt}", ANTHROPIC_API_KEY="other")
    assert "cannot read" in key_complaint(job)
    for raw in (CANARY, f"{CANARY}\n", f"{CANARY}\r\n"):
        (tmp_path / "key.txt").write_text(raw, newline="")
        assert job.endpoint.api_key({}) == CANARY
    for raw, words in (("\n", "is empty"), (f"{CANARY}\n\n", "white space"), (f"{CANARY} x", "white space")):
        (tmp_path / "key.txt").write_text(raw)
        said = key_complaint(job)
        assert words in said
        assert "canary" not in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"endpoint: {{api_key: {CANARY}}}", "endpoint.api_key: unknown key; a key must not stand in the file"),
        (f"endpoint: {{token: {CANARY}}}", "endpoint.token: unknown key; a key must not stand in the file"),
        (f"endpoint: {{api_key_env: {CANARY}}}", "endpoint.api_key_env: holds what looks like the key itself"),
        (
            "endpoint: {api_key_env: 0f3a9bcanary77d2e4c19b}",
            "endpoint.api_key_env: holds what looks like the key itself",
        ),
        ("endpoint: {api_key_env: $KEY}", "endpoint.api_key_env: must be the name of an environment variable"),
        ("endpoint: {api_key_env: K, api_key_file: f}", "endpoint.api_key_file: stands beside api_key_env"),
        (f"endpoint: {{headers: {{authorization: Bearer {CANARY}}}}}", "the header authorization holds a secret"),
        (f"endpoint: {{headers: {{X-API-Key: {CANARY}}}}}", "the header X-API-Key holds a secret"),
        ("endpoint: {headers: {cookie: a=canary}}", "the header cookie holds a secret"),
        ("endpoint: {headers: {api-key: 'canary${env:K}'}}", "the header api-key holds a secret"),
        (f"endpoint: {{headers: {{x-other: {CANARY}}}}}", "endpoint.headers.x-other: holds what looks like an API key"),
        ('endpoint: {headers: {x-a: "b\\r\\nc: d"}}', "endpoint.headers.x-a: holds a line break"),
        ("endpoint: {headers: {x-a: ü}}", "endpoint.headers.x-a: holds characters beyond ASCII"),
        ("endpoint: {headers: {'x a': b}}", "is no name of a header"),
        ("endpoint: {headers: {Content-Type: b}}", "the header Content-Type cannot be set here"),
        ("endpoint: {headers: {anthropic-version: b}}", "write endpoint.version instead"),
        (
            "endpoint: {api_key_env: K, headers: {x-api-key: '${env:K}'}}",
            "endpoint.headers: the key of $K is sent as the header x-api-key already",
        ),
        (
            "endpoint: {url: 'http://example.com'}",
            "endpoint.url: would be asked over http, which shows $ANTHROPIC_API_KEY",
        ),
        (
            "endpoint: {url: 'http://10.0.0.5', api_key_env: K}",
            "endpoint.url: would be asked over http, which shows $K",
        ),
        (
            "endpoint: {url: 'http://10.0.0.5', headers: {authorization: 'Bearer ${env:K}'}}",
            "endpoint.url: would be asked over http, which shows authorization",
        ),
        ("endpoint: https://h/v1", "endpoint: a URL stands under the key url; write endpoint: {url: …}"),
        ("endpoint: simulatr", 'found "simulatr"; did you mean simulator?'),
        ("endpoint: {scope: pubic}", "endpoint.scope: must be one of embedded, simulator, local, public"),
        ('endpoint: {version: "a b"}', "endpoint.version: must be a version"),
        (
            'endpoint: {version: "2026-10-21"}\nlimits: {}\nrequest: {model: m, temperature: 0}',
            "request.temperature: the API version 2026-10-21 refuses it for every model",
        ),
    ],
)
def test_an_endpoint_that_is_not_safe_or_not_right_is_refused(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "job.yaml"
    rest = REST if "request:" not in line else REST.replace("request: {model: m}\n", "")
    path.write_text(f"{line}\n{rest}")
    with pytest.raises(JobError) as caught:
        load(path, environ={"K": "hunter22"}, cwd=tmp_path)
    assert len(caught.value.complaints) == 1
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)
    assert "hunter22" not in str(caught.value)


def test_a_variable_that_breaks_a_header_is_refused_and_not_shown(tmp_path: Path) -> None:
    said = complaints(tmp_path, "endpoint: {headers: {x-a: '${env:K}'}}", K="canary\r\nx: y")
    assert said == [
        "job.yaml:1:27: endpoint.headers.x-a: holds a line break or another control character, which no header may"
    ]


@pytest.mark.parametrize("word", ["embedded", "simulator"])
def test_a_word_replaces_the_whole_section_also_one_whose_variables_are_missing(tmp_path: Path, word: str) -> None:
    line = "endpoint: {url: 'https://h/v1', version: null, headers: {x-api-key: '${env:NOPE}'}}"
    assert "NOPE is not set" in complaints(tmp_path, line)[0]
    end = job_of(tmp_path, line, Overrides(endpoint=word)).endpoint
    assert (end.url, end.word, end.scope, end.home_scope, end.host) == (None, word, word, "public", word)
    assert (end.version, end.headers) == ("2023-06-01", {})
    assert end.api_key({}) is None


def test_another_host_gets_the_dialect_but_neither_key_nor_secret_headers(tmp_path: Path) -> None:
    line = (
        "endpoint: {url: 'https://a.example/v1', api_key_env: K, auth: x-api-key, version: '2026-10-21', headers: "
        "{x-plain: p, x-env: '${env:K}', cookie: 'c=${env:K}'}}"
    )
    end = job_of(tmp_path, line, Overrides(endpoint="https://b.example/v1"), K="hunter22").endpoint
    assert (end.url, end.auth, end.version) == ("https://b.example/v1/messages", "x-api-key", "2026-10-21")
    assert end.headers == {"x-plain": "p"}
    assert end.api_key({"K": "hunter22", "ANTHROPIC_API_KEY": "a"}) is None
    named = Overrides(endpoint="https://b.example/v1", api_key_env="L")
    assert job_of(tmp_path, line, named, K="hunter22").endpoint.api_key({"L": "l"}) == "l"


def test_the_same_host_keeps_key_headers_and_scope(tmp_path: Path) -> None:
    line = "endpoint: {url: 'https://h:8/v1', api_key_env: K, scope: simulator, headers: {x-env: '${env:K}'}}"
    end = job_of(tmp_path, line, Overrides(endpoint="https://H:8/other"), K="hunter22").endpoint
    assert (end.url, end.scope, end.home_scope) == ("https://h:8/other/messages", "simulator", "simulator")
    assert end.headers == {"x-env": "hunter22"}
    assert end.api_key({"K": "hunter22"}) == "hunter22"


@pytest.mark.parametrize("url", ["https://h:9/v1", "http://h:443/x", "https://h.evil:8/v1", "http://localhost:8"])
def test_another_port_or_name_is_another_host(tmp_path: Path, url: str) -> None:
    line = "endpoint: {url: 'https://h:8/v1', api_key_env: K}"
    assert job_of(tmp_path, line, Overrides(endpoint=url)).endpoint.api_key({"K": "k"}) is None


def test_loopback_gets_the_key_that_the_job_names_for_it(tmp_path: Path) -> None:
    line = "endpoint: {url: 'http://localhost:8/v1', api_key_env: K}"
    assert job_of(tmp_path, line, Overrides(endpoint="http://localhost:8")).endpoint.api_key({"K": "k"}) == "k"
    assert job_of(tmp_path, line, Overrides(endpoint="http://localhost:9")).endpoint.api_key({"K": "k"}) is None
    named = Overrides(endpoint="http://localhost:9", api_key_env="K")
    assert job_of(tmp_path, line, named).endpoint.api_key({"K": "k"}) == "k"


def test_anthropic_as_another_host_says_which_option_is_missing(tmp_path: Path) -> None:
    job = job_of(tmp_path, "endpoint: embedded", Overrides(endpoint="https://api.anthropic.com"))
    assert "add --api-key-env NAME" in key_complaint(job, ANTHROPIC_API_KEY="a")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (Overrides(endpoint="simulatr"), "--endpoint: must be embedded, simulator, or a URL"),
        (Overrides(endpoint=f"https://u:{CANARY}@h"), "--endpoint: holds a name or password"),
        (Overrides(endpoint="http://h/v1", api_key_env="K"), "--endpoint: would be asked over http, which shows $K"),
        (Overrides(api_key_env=CANARY), "--api-key-env: holds what looks like the key itself"),
        (Overrides(endpoint="simulator", api_key_env="K"), "--api-key-env: simulator takes no key; leave it out"),
    ],
)
def test_a_wrong_option_is_named_and_no_key_shown(tmp_path: Path, overrides: Overrides, words: str) -> None:
    said = complaints(tmp_path, "# silent", overrides)
    assert len(said) == 1
    assert said[0].startswith(words)
    assert "canary" not in said[0]


def test_the_option_for_the_key_replaces_the_one_of_the_job(tmp_path: Path) -> None:
    job = job_of(tmp_path, "endpoint: {api_key_file: key.txt}", Overrides(api_key_env="L"))
    assert job.endpoint.api_key({"L": "l"}) == "l"


@pytest.mark.parametrize(
    ("line", "overrides", "name"),
    [
        ("# silent", Overrides(), "out.parquet"),
        ("# silent", Overrides(limit=5), "out.first-5.parquet"),
        ("# silent", Overrides(endpoint="simulator"), "out.simulator.parquet"),
        ("# silent", Overrides(endpoint="simulator", limit=5), "out.simulator.first-5.parquet"),
        ("# silent", Overrides(endpoint="http://localhost:1"), "out.local.parquet"),
        ("# silent", Overrides(endpoint="https://other.example"), "out.parquet"),
        ("endpoint: simulator", Overrides(endpoint="simulator"), "out.parquet"),
        ("endpoint: simulator", Overrides(), "out.parquet"),
        ("endpoint: simulator", Overrides(endpoint="embedded"), "out.embedded.parquet"),
        ("endpoint: {scope: local}", Overrides(endpoint="http://localhost:1"), "out.parquet"),
        ("# silent", Overrides(limit=5, endpoint="simulator", output=Path("mine.parquet")), "mine.parquet"),
    ],
)
def test_a_trial_or_rehearsal_never_writes_to_the_jobs_own_output(
    tmp_path: Path, line: str, overrides: Overrides, name: str
) -> None:
    assert job_of(tmp_path, line, overrides).output.path == tmp_path / name


def test_the_output_of_the_command_line_starts_at_the_shells_directory(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/job.yaml").write_text(REST)
    job = load(Path("jobs/job.yaml"), Overrides(output=Path("x/o.parquet")), environ={}, cwd=tmp_path)
    assert job.output.path == tmp_path / "x/o.parquet"


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("a.parquet", "a.parquet"),
        ("'*.parquet'", "a.parquet"),
        ("'**/*.parquet'", "deep/er/a.parquet"),
        (".", "a.parquet"),
        (".", "deep/a.parquet"),
        ("./", "deep/a.parquet"),
        ("[x.csv, '*']", "a.parquet"),
    ],
)
def test_an_output_that_the_source_would_read_is_refused(tmp_path: Path, source: str, output: str) -> None:
    text = REST.replace("x.csv", source).replace("out.parquet", output)
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(JobError, match=r"output\.path: .* is among what the source reads"):
        load(tmp_path / "job.yaml", environ={}, cwd=tmp_path)


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("'*.csv'", "a.parquet"),
        ("'*.parquet'", "out/a.parquet"),
        ("data", "out/a.parquet"),
        (".", "_out/a.parquet"),
        ("., format: csv", "a.parquet"),
    ],
)
def test_an_output_that_the_source_would_not_read_is_fine(tmp_path: Path, source: str, output: str) -> None:
    text = REST.replace("x.csv", source).replace("out.parquet", output)
    (tmp_path / "job.yaml").write_text(text)
    assert load(tmp_path / "job.yaml", environ={}, cwd=tmp_path).output.path == tmp_path / output


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (Overrides(output=Path("out.csv")), "--output: must end in .parquet"),
        (Overrides(output=Path("folder.parquet")), "--output: .* is a directory"),
        (Overrides(output=Path("x.csv")), "--output"),
        (Overrides(limit=0), "--limit: must be at least 1, found 0"),
    ],
)
def test_a_wrong_output_of_the_command_line_is_refused(tmp_path: Path, overrides: Overrides, words: str) -> None:
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(JobError, match=words):
        job_of(tmp_path, "# silent", overrides)

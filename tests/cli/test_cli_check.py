from __future__ import annotations

from pathlib import Path

import pytest
from desk import Desk, job_text

ROWS = "name,size,wert\na,1,5\nb,2,n.a.\n"


def test_a_type_that_a_late_value_does_not_fit_is_said_before_the_job_is_called_sound(desk: Desk) -> None:
    desk.write("rows.csv", "name,wert\n" + "".join(f"{n},{n}\n" for n in range(200_000)) + "x,n.a.\n")
    text = job_text(None).replace("id: [name]", "types: {wert: number}")
    checked = desk.pipeline("check", desk.write("job.yaml", text))
    assert checked.code == 2
    assert checked.out == ""
    assert "source.types.wert: " in checked.err
    assert "column 'wert' is 'n.a.', expected a number" in checked.err


@pytest.mark.parametrize("condition", ["wert > 10.5", "wert BETWEEN 10.5 AND 20", "wert IN (5, 10.5)"])
def test_a_condition_of_text_and_numbers_is_a_broken_job(desk: Desk, condition: str) -> None:
    desk.write("rows.csv", ROWS)
    text = job_text(None).replace("id: [name]", f'id: [name], where: "{condition}"')
    job = desk.write("job.yaml", text)
    for command in ("check", "preview", "run"):
        ended = desk.pipeline(command, job)
        assert ended.code == 2
        assert "source.where: text and numbers do not go together" in ended.err
        assert "CAST(wert AS DOUBLE)" in ended.err


def test_requests_that_fail_are_told_with_the_verdict(desk: Desk) -> None:
    desk.write("rows.csv", ROWS)
    checked = desk.pipeline("check", desk.write("job.yaml", job_text(None, prompt="<< 10 / (size - 1) >>")))
    assert checked.code == 0
    assert "job.yaml: sound, but 1 of all 2 requests fail before sending\n" in checked.out


def test_a_prompt_without_a_column_is_a_warning_of_check_and_run(desk: Desk) -> None:
    desk.write("rows.csv", ROWS)
    job = desk.write("job.yaml", job_text(None, prompt="Describe {{name}}."))
    for command in ("check", "run", "preview"):
        ended = desk.pipeline(command, job)
        assert ended.code == 0
        assert (ended.err.count("({{name}} is text to it), so that every row makes") == 1) is (command != "preview")


REMOTE = 'endpoint: {url: "https://messages.example/v1", api_key_env: SHOP_KEY}'


def test_a_key_and_a_price_that_a_run_would_miss_are_warnings_of_check(desk: Desk) -> None:
    desk.write("rows.csv", ROWS)
    text = job_text(None).replace("endpoint: simulator", REMOTE).replace("claude-haiku-4-5", "my-own-model")
    job = desk.write("job.yaml", text)
    unset = desk.pipeline("check", job)
    assert unset.code == 0
    assert "job.yaml: sound" in unset.out
    missing = "endpoint.api_key_env: the environment variable SHOP_KEY is not set, and messages.example wants a key"
    assert missing in unset.err
    assert missing in desk.pipeline("run", job).err
    assert "no price is known for my-own-model: cost will be null; set prices: in the job" in unset.err
    odd = desk.pipeline("check", job, SHOP_KEY="two words")
    assert odd.code == 0
    assert "SHOP_KEY holds white space" in odd.err
    assert "two words" not in odd.out + odd.err
    capped = desk.write("capped.yaml", f"{text}budget: {{run_usd: 1}}\n")
    held = desk.pipeline("check", capped, SHOP_KEY="a-key")
    assert held.code == 0
    assert "budget.run_usd: cannot be held: no price is known for my-own-model" in held.err


@pytest.mark.parametrize(
    "endpoint", ["endpoint: simulator", "endpoint: embedded", "endpoint: {url: http://127.0.0.1:9/v1}"]
)
def test_an_endpoint_that_wants_no_key_is_not_warned_of(desk: Desk, endpoint: str) -> None:
    desk.write("rows.csv", ROWS)
    text = job_text(None).replace("endpoint: simulator", endpoint).replace("claude-haiku-4-5", "my-own-model")
    checked = desk.pipeline("check", desk.write("job.yaml", text))
    assert (checked.code, checked.err) == (0, "")


@pytest.mark.parametrize(
    ("path", "acceptable"), [("in/${date}/*.csv", True), ("in/${date}.csv", False), ("in/${date}/", False)]
)
def test_a_night_without_a_source_is_a_broken_job_to_every_command(desk: Desk, path: str, acceptable: bool) -> None:
    job = desk.write("job.yaml", job_text(None, rows=f'"{path}"'))
    for command in ("run", "check", "preview"):
        ended = desk.pipeline(command, job, "--date", "2026-01-02")
        assert ended.code == 2
        assert ended.out == ""
        assert "in/2026-01-02" in ended.err
        assert ("to accept an empty night set expect.min_rows: 0" in ended.err) is acceptable
    status = desk.pipeline("status", job, "--date", "2026-01-02")
    assert status.code == 2
    assert "the job never ran" in status.err
    assert "min_rows" not in status.err


def test_an_empty_night_that_is_accepted_is_told_as_such(desk: Desk) -> None:
    job = desk.write("job.yaml", job_text(None, rows="in/*.csv", more="expect: {min_rows: 0}"))
    checked = desk.pipeline("check", job)
    assert checked.code == 0
    assert "rows     none now\n" in checked.out
    shown = desk.pipeline("preview", job)
    assert (shown.code, shown.out) == (0, "")
    assert "there is no row now" in shown.err
    assert desk.pipeline("run", job).code == 0
    assert "rows    none\n" in desk.pipeline("status", job).out


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("my-job", "my-job"),
        ("Night Jobs_2", "night-jobs-2"),
        ("Größe & Co", "grosse-co"),
        ("jobs/a", "a"),
        ("…", "first-job"),
    ],
)
def test_a_starter_job_is_named_after_its_folder(desk: Desk, folder: str, name: str) -> None:
    assert desk.pipeline("init", folder).code == 0
    job = Path(folder) / "job.yaml"
    assert f"\nname: {name}\n" in (desk.folder / job).read_text()
    assert desk.pipeline("check", job).code == 0


def test_a_starter_job_is_a_folder(desk: Desk) -> None:
    refused = desk.pipeline("init", "my-job.yaml")
    assert refused.code == 2
    assert "pipeline init my-job" in refused.err
    assert not (desk.folder / "my-job.yaml").exists()

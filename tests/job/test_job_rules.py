"""Rules of the API: what is refused before it is sent, what is only warned of, and where neither applies."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from pipeline.errors import JobError
from pipeline.job import Job, Overrides, load
from pipeline.job.rules import CACHE_MINIMUMS, CAPS, RETIREMENTS, RULES, cache_minimum, known_name

Loader = Callable[..., Job]
TOOL = "tools: [{name: t, input_schema: {type: object}}]"
LATER = "input_schema: {type: object}, defer_loading: true"
THOUGHTS = "{type: enabled, budget_tokens: 2048}"
PREFILL = "{messages: [{role: user, content: a}, {role: assistant, content: b}]}"
HERE = "{url: https://api.anthropic.com, version: '2023-06-01'}"
NEW = "{version: '2026-10-21'}"


@pytest.fixture
def job_of(tmp_path: Path) -> Loader:
    def loaded(
        request: str,
        endpoint: str = HERE,
        prompt: str = "{user: a}",
        today: date = date(2026, 11, 22),
        override: str | None = None,
    ) -> Job:
        path = tmp_path / "job.yaml"
        path.write_text(
            f"source: {{path: x.csv}}\nprompt: {prompt}\noutput: {{path: o.parquet}}\nendpoint: {endpoint}\n"
            f"request: {{model: {request}}}\n",
            encoding="utf-8",
        )
        return load(Path("job.yaml"), Overrides(endpoint=override), environ={}, today=today, cwd=tmp_path)

    return loaded


REFUSED = [
    ("claude-sonnet-5, temperature: 0", HERE, "request.temperature: claude-sonnet-5 refuses it; remove it"),
    ("claude-opus-4-7, top_p: 0.5", HERE, "request.top_p: claude-opus-4-7 refuses it"),
    ("claude-fable-5-1, top_k: 5", HERE, "request.top_k: claude-fable-5-1 refuses it"),
    ("claude-haiku-4-5, temperature: 1", NEW, "request.temperature: the API version 2026-10-21 refuses it for every"),
    ("claude-haiku-4-5, top_p: 1", NEW, "request.top_p: the API version 2026-10-21 refuses it"),
    ("anything, top_k: 0", NEW, "request.top_k: the API version 2026-10-21 refuses it"),
    ("claude-opus-5, temperature: 0", NEW, "request.temperature: claude-opus-5 refuses it"),
    ("claude-haiku-4-5, temperature: 1.5", HERE, "request.temperature: is 1.5, and must be a number from 0 to 1"),
    (
        "claude-haiku-4-5, max_tokens: 4096, temperature: 0.5, thinking: {type: enabled, budget_tokens: 2048}",
        HERE,
        "request.temperature: cannot be changed where the model thinks",
    ),
    (
        "claude-haiku-4-5, max_tokens: 4096, top_p: 0.9, thinking: {type: enabled, budget_tokens: 2048}",
        HERE,
        "request.top_p: must be from 0.95 to 1 where the model thinks",
    ),
    (
        "claude-haiku-4-5, max_tokens: 4096, top_k: 5, thinking: {type: enabled, budget_tokens: 2048}",
        HERE,
        "request.top_k: cannot be set where the model thinks",
    ),
    (
        "claude-haiku-4-5, thinking: {type: enabled, budget_tokens: 1023}",
        HERE,
        "request.thinking.budget_tokens: is 1,023, and must be at least 1,024",
    ),
    (
        "claude-haiku-4-5, max_tokens: 2048, thinking: {type: enabled, budget_tokens: 2048}",
        HERE,
        "request.thinking.budget_tokens: is 2,048, which leaves nothing of max_tokens (2,048)",
    ),
    ("claude-haiku-4-5, thinking: {type: enabled}", HERE, "request.thinking: has no budget"),
    (
        "claude-opus-5, thinking: {type: adaptive, budget_tokens: 2048}",
        HERE,
        "request.thinking.budget_tokens: is only for the type enabled, found adaptive",
    ),
    (
        "claude-opus-5, thinking: {type: disabled, display: omitted}",
        HERE,
        "request.thinking.display: is only for the types enabled and adaptive, found disabled",
    ),
    ("claude-haiku-4-5-20251001, thinking: {type: adaptive}", HERE, "type: claude-haiku-4-5-20251001 refuses adaptive"),
    ("claude-haiku-4-5, thinking: {type: between_tools}", HERE, "claude-haiku-4-5 does not know between_tools"),
    *(
        (
            f"{model}, max_tokens: 4096, thinking: {{type: enabled, budget_tokens: 2048}}",
            HERE,
            f"request.thinking.type: {model} refuses enabled; write thinking: {{type: adaptive}}",
        )
        for model in (
            "claude-opus-4-7",
            "claude-opus-4-8",
            "claude-sonnet-5",
            "claude-opus-5",
            "claude-sonnet-5-5",
            "claude-opus-5-5",
            "claude-haiku-5-5",
            "claude-fable-5",
            "claude-mythos-5-2",
        )
    ),
    *(
        (f"{model}, thinking: {{type: disabled}}", HERE, f"request.thinking.type: {model} always thinks")
        for model in ("claude-sonnet-5-5", "claude-opus-5-5", "claude-fable-5", "claude-mythos-5-1")
    ),
    (
        "claude-opus-5, thinking: {type: disabled}, output_config: {effort: max}",
        HERE,
        "request.thinking.type: claude-opus-5 refuses disabled with the effort max",
    ),
    (f"claude-opus-5-5, {TOOL}, tool_choice: required", HERE, "request.tool_choice: claude-opus-5-5 refuses to be"),
    (
        f"claude-sonnet-5-5, {TOOL}, tool_choice: {{type: function, function: {{name: t}}}}",
        HERE,
        "request.tool_choice: claude-sonnet-5-5 refuses to be forced",
    ),
    (
        f"claude-haiku-4-5, max_tokens: 4096, {TOOL}, tool_choice: any, thinking: {THOUGHTS}",
        HERE,
        "request.tool_choice: forces a tool, which cannot be where thinking is enabled",
    ),
    (
        f"m, tools: [{', '.join(f'{{name: t{n}, strict: true, input_schema: {{type: object}}}}' for n in range(21))}]",
        HERE,
        "request.tools: holds 21 strict tools, and 20 is the most",
    ),
    ("m, metadata: {user_id: a, team: b}", HERE, "request.metadata: takes user_id alone, found user_id, team"),
    ("claude-haiku-5-5, metadata: {team: b}", HERE, "request.metadata: takes user_id alone, found team"),
    (
        "claude-haiku-4-5, temperature: 0, top_p: 0.1",
        HERE,
        "request.top_p: stands beside temperature, and claude-haiku-4-5 takes one of the two",
    ),
    ("claude-sonnet-4-6, temperature: 1, top_p: 1", HERE, "request.top_p: stands beside temperature"),
    ("claude-haiku-5-5, stop_sequences: [a, ' ']", HERE, "request.stop_sequences: holds white space alone"),
    ("claude-haiku-4-5, output_config: {effort: low}", HERE, "effort: claude-haiku-4-5 does not know it; remove it"),
    ("claude-sonnet-4-5, output_config: {effort: low}", HERE, "effort: claude-sonnet-4-5 does not know it; remove it"),
    ("claude-opus-4-6, output_config: {effort: xhigh}", HERE, "claude-opus-4-6 does not know xhigh"),
    ("claude-opus-4-5, output_config: {effort: max}", HERE, "claude-opus-4-5 does not know max"),
    (
        "claude-haiku-5-5, thinking: {type: disabled}, output_config: {effort: max}",
        HERE,
        "request.thinking.type: claude-haiku-5-5 refuses disabled with the effort max",
    ),
    (
        f"claude-haiku-5-5, tools: [{{name: t, {LATER}}}]",
        HERE,
        "request.tools: leaves every tool out until it is searched for",
    ),
    (
        f"claude-haiku-5-5, {TOOL[:-1]}, {{name: u, {LATER}, cache_control: {{type: ephemeral}}}}]",
        HERE,
        "request.tools.1.cache_control: stands at a tool with defer_loading",
    ),
    ("claude-sonnet-4-5, inference_geo: us", HERE, "request.inference_geo: claude-sonnet-4-5 refuses it, as all"),
    ("claude-haiku-4-5, max_tokens: 64001", HERE, "max_tokens: is 64,001, and claude-haiku-4-5 writes at most 64,000"),
    ("claude-opus-5-5, max_tokens: 200000", HERE, "is 200,000, and claude-opus-5-5 writes at most 128,000; lower it"),
]


@pytest.mark.parametrize(("request_fields", "endpoint", "words"), REFUSED)
def test_what_the_api_would_refuse_is_said_once_with_its_place(
    job_of: Loader, request_fields: str, endpoint: str, words: str
) -> None:
    with pytest.raises(JobError) as caught:
        job_of(request_fields, endpoint)
    said = [str(complaint) for complaint in caught.value.complaints]
    assert len(said) == 1, said
    assert words in said[0]
    assert said[0].startswith("job.yaml:5:")


@pytest.mark.parametrize(("request_fields", "endpoint", "words"), REFUSED)
def test_elsewhere_it_is_a_warning_for_a_claude_and_nothing_for_other_models(
    job_of: Loader, request_fields: str, endpoint: str, words: str
) -> None:
    elsewhere = endpoint.replace("{", "{url: 'https://api.aimlapi.com/v1', api_key_env: K, ").replace(
        "url: https://api.anthropic.com, ", ""
    )
    job = job_of(request_fields, elsewhere)
    said = [str(warning) for warning in job.warnings if warning.path != "request.model"]
    if request_fields.startswith("claude") and "metadata" not in request_fields:
        assert len(said) == 1, said
        assert words in said[0]
        assert said[0].endswith("(a rule of anthropic.com; api.aimlapi.com may differ)")
        assert said[0].startswith("job.yaml:5:")
    else:
        assert said == []


@pytest.mark.parametrize("override", ["simulator", "embedded", "http://localhost:8080"])
def test_a_job_can_be_rehearsed_though_its_own_endpoint_would_refuse_it(job_of: Loader, override: str) -> None:
    warnings = job_of("claude-opus-5, temperature: 0", override=override).warnings
    assert [warning.path for warning in warnings] == ["request.temperature"]


ACCEPTED = [
    ("claude-haiku-4-5, temperature: 0, top_k: 3", HERE),
    ("claude-haiku-4-5, top_p: 0.1, top_k: 3, stop_sequences: [' .']", HERE),
    ("claude-opus-4-5, output_config: {effort: high}", HERE),
    ("claude-opus-4-6, output_config: {effort: max}", HERE),
    ("claude-haiku-5-5, output_config: {effort: xhigh}", HERE),
    ("claude-haiku-5-5, tools: [{name: t, input_schema: {type: object}, cache_control: {type: ephemeral}}]", HERE),
    ("claude-haiku-5-5, diagnostics: {previous_message_id: msg_1}", HERE),
    ("claude-opus-5, temperature: 1, top_p: 1.0, top_k: 0", HERE),
    ("claude-opus-4-6, temperature: 0", HERE),
    ("claude-haiku-4-5, thinking: {type: enabled, budget_tokens: 1024}, max_tokens: 1025, temperature: 1", HERE),
    ("claude-haiku-4-5, thinking: {type: enabled, budget_tokens: 1024}, max_tokens: 1025, top_p: 0.95", HERE),
    ("claude-haiku-5-5, thinking: {type: disabled}", HERE),
    ("claude-sonnet-5, thinking: {type: disabled}", HERE),
    ("claude-opus-5, thinking: {type: disabled}, output_config: {effort: high}", HERE),
    ("claude-opus-4-6, thinking: {type: adaptive}", HERE),
    ("claude-sonnet-5-5, thinking: {type: between_tools}", HERE),
    (f"claude-haiku-5-5, {TOOL}, tool_choice: required", HERE),
    (f"claude-opus-5-5, {TOOL}, tool_choice: auto", HERE),
    (f"claude-opus-5, thinking: {{type: adaptive}}, {TOOL}, tool_choice: any", HERE),
    ("claude-opus-4-6, inference_geo: us", HERE),
    ("claude-opus-4-8, speed: fast", HERE),
    ("claude-haiku-4-5, max_tokens: 64000", HERE),
    ("claude-opus-5, max_tokens: 300000", "{headers: {anthropic-beta: output-300k-2026-03-24}}"),
    (
        "claude-haiku-4-5, thinking: {type: enabled, budget_tokens: 9000}",
        "{headers: {Anthropic-Beta: interleaved-thinking-2025-05-14}}",
    ),
    ("claude-opus-7, temperature: 0, max_tokens: 500000, thinking: {type: adaptive}", HERE),
    ("m, metadata: {user_id: a}", HERE),
    ("m, metadata: {}", HERE),
]


@pytest.mark.parametrize(("request_fields", "endpoint"), ACCEPTED)
def test_what_the_api_takes_is_not_complained_about(job_of: Loader, request_fields: str, endpoint: str) -> None:
    assert job_of(request_fields, endpoint).warnings == ()


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-sonnet-5", "claude-haiku-5-5", "claude-mythos-5"])
def test_a_last_turn_by_the_assistant_is_refused_from_4_6_on(job_of: Loader, model: str) -> None:
    with pytest.raises(JobError) as caught:
        job_of(model, prompt=PREFILL)
    assert str(caught.value).startswith(f"job.yaml:2:54: prompt.messages.1.role: {model} refuses a last turn by the")


def test_a_last_turn_by_the_assistant_is_taken_by_older_models_that_do_not_think(job_of: Loader) -> None:
    assert job_of("claude-haiku-4-5", prompt=PREFILL).warnings == ()
    with pytest.raises(JobError, match=r"prompt\.messages\.1\.role: is assistant in the last turn"):
        job_of("claude-haiku-4-5, max_tokens: 9999, thinking: {type: enabled, budget_tokens: 1024}", prompt=PREFILL)


TURNS = "{{messages: [{{role: user, content: {0}}}, {{role: assistant, content: {1}}}{2}]}}"
END = ", {role: user, content: c}"
CITED = "[{type: text, text: a, citations: [{type: char_location}]}]"
DOCUMENT = "[{type: document, source: {type: url, url: u}}]"


@pytest.mark.parametrize(
    ("request_fields", "endpoint", "prompt", "words"),
    [
        ("claude-haiku-4-5", HERE, TURNS.format("a", "'b '", ""), "prompt.messages.1.content: ends in white space"),
        (
            "claude-haiku-4-5",
            HERE,
            TURNS.format("a", '[{type: text, text: a}, {type: text, text: "b\\n"}]', ""),
            "prompt.messages.1.content: ends in white space",
        ),
        (
            "claude-haiku-4-5, output_config: {format: {type: json_schema, schema: {type: object}}}",
            HERE,
            PREFILL,
            "prompt.messages.1.role: is assistant in the last turn, which cannot be beside output_config.format",
        ),
        ("m", NEW, TURNS.format(CITED, "b", END), "content.0.citations: the API version 2026-10-21 refuses citations"),
        ("m", NEW, TURNS.format("a", DOCUMENT, END), "messages.1.content.0: the API version 2026-10-21 refuses docu"),
    ],
)
def test_turns_that_the_api_would_refuse_are_said_with_their_place(
    job_of: Loader, request_fields: str, endpoint: str, prompt: str, words: str
) -> None:
    with pytest.raises(JobError) as caught:
        job_of(request_fields, endpoint, prompt)
    assert len(caught.value.complaints) == 1, str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("prompt", [TURNS.format(CITED, "b", END), TURNS.format("a", DOCUMENT, END)])
def test_the_older_version_takes_citations_and_documents_everywhere(job_of: Loader, prompt: str) -> None:
    assert job_of("m", HERE, prompt).warnings == ()


@pytest.mark.parametrize(
    ("request_fields", "words"),
    [
        ("claude-opus-4-1", "request.model: claude-opus-4-1 was retired on 2026-08-05, and calls to it fail"),
        ("claude-sonnet-4-20250514", "claude-sonnet-4-20250514 was retired on 2026-06-15"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-latest was retired on 2025-10-28"),
        ("claude-3-opus-20240229", "claude-3-opus-20240229 was retired on 2026-01-05"),
        ("claude-3-haiku-20240307", "claude-3-haiku-20240307 was retired, and calls to it fail"),
        ("claude-sonnet-4-5", "request.model: claude-sonnet-4-5 retires on 2026-11-30; calls to it fail from then on"),
        (
            "claude-sonnet-4-6, max_tokens: 4096, thinking: {type: enabled, budget_tokens: 2048}",
            "request.thinking.type: enabled is deprecated for claude-sonnet-4-6",
        ),
        ("claude-opus-5-5, thinking: {type: between_tools}", "documented for claude-sonnet-5-5 alone"),
        ("claude-haiku-5-5, cache_control: {type: ephemeral}", "request.cache_control: keeps the whole prompt of each"),
        ("claude-haiku-5-5, speed: fast", "request.speed: fast has a price for claude-opus-5-5"),
    ],
)
def test_what_is_only_worth_knowing_is_a_warning(job_of: Loader, request_fields: str, words: str) -> None:
    warnings = [str(warning) for warning in job_of(request_fields).warnings]
    assert len(warnings) == 1
    assert words in warnings[0]
    assert warnings[0].startswith("job.yaml:5:")


@pytest.mark.parametrize(
    ("today", "word"),
    [
        (date(2026, 9, 30), None),
        (date(2026, 10, 1), "retires on"),
        (date(2026, 11, 29), "retires on"),
        (date(2026, 11, 30), "was retired on"),
    ],
)
def test_a_model_is_warned_of_from_sixty_days_before_it_retires(job_of: Loader, today: date, word: str | None) -> None:
    said = [warning.message for warning in job_of("claude-sonnet-4-5", today=today).warnings]
    assert [word in line for line in said if word] == ([] if word is None else [True])
    assert len(said) == (0 if word is None else 1)


def test_warnings_come_in_the_order_of_the_file_and_hide_what_is_secret(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "request: {speed: fast, model: claude-sonnet-4-5, temperature: 1.5}\nsource: {path: x}\nprompt: {user: a}\n"
        "endpoint: {url: 'https://${env:HOST}', api_key_env: K}\noutput: {path: o.parquet}\n"
    )
    job = load(path, environ={"HOST": "secret.example"}, today=date(2026, 11, 22))
    assert [warning.path for warning in job.warnings] == ["request.speed", "request.model", "request.temperature"]
    assert "secret" not in str(job.warnings)
    assert "${env:HOST} may differ" in job.warnings[2].message


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("claude-sonnet-4-5", "sonnet-4-5"),
        ("claude-sonnet-4-5-20250929", "sonnet-4-5"),
        ("anthropic/claude-sonnet-4.5", "sonnet-4-5"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "sonnet-4-5"),
        ("claude-opus-4-1@20250805", "opus-4-1"),
        ("Claude-3-5-Sonnet-latest", "3-5-sonnet"),
        ("claude-opus-5", "opus-5"),
        ("claude-opus-5-5", "opus-5-5"),
        ("gpt-9", None),
        ("claude", None),
    ],
)
def test_a_model_is_known_under_all_of_its_names(model: str, name: str | None) -> None:
    assert known_name(model) == name


def test_every_rule_has_a_name_of_its_own_a_source_and_a_date() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.source
        assert rule.checked >= date(2026, 11, 22)
        assert rule.words == rule.words.strip(".")
        assert rule.place.startswith(("request.", "prompt.", "{cited}", "{answered_document}"))


@pytest.mark.parametrize("retirement", RETIREMENTS, ids=lambda gone: gone.models[0])
def test_no_model_retires_twice(retirement: object) -> None:
    names = [glob for gone in RETIREMENTS for glob in gone.models]
    assert len(names) == len(set(names))
    assert not any(fnmatchcase(one, other) for one in names for other in names if one is not other)


@pytest.mark.parametrize(
    ("model", "tokens"),
    [
        ("claude-opus-5", 512),
        ("claude-opus-5-5", 512),
        ("claude-haiku-5-5", 512),
        ("claude-mythos-5-1", 512),
        ("claude-opus-4-8", 1024),
        ("claude-sonnet-5", 1024),
        ("anthropic/claude-sonnet-4.6", 1024),
        ("claude-sonnet-4-5-20250929", 1024),
        ("claude-opus-4-7", 2048),
        ("claude-opus-4-6", 4096),
        ("claude-haiku-4-5", 4096),
        ("claude-opus-9", None),
        ("llama", None),
    ],
)
def test_the_shortest_prefix_that_is_kept_depends_on_the_model(model: str, tokens: int | None) -> None:
    assert cache_minimum(model) == tokens


@pytest.mark.parametrize("table", [CACHE_MINIMUMS, CAPS])
def test_no_model_stands_in_a_table_twice(table: tuple[tuple[tuple[str, ...], int], ...]) -> None:
    names = [name for models, _ in table for name in models]
    assert len(names) == len(set(names))

"""The section `request`: each documented field, in each of its spellings, as it goes on the wire."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import JobError
from pipeline.job import Job, RequestFields, Thinking, load

Loader = Callable[..., Job]
TOOLS = "tools: [{name: get_weather, input_schema: {type: object}}, {type: web_search_20260318, name: web_search}]"


@pytest.fixture
def job_of(tmp_path: Path) -> Loader:
    def loaded(fields: str, endpoint: str = "{url: 'http://localhost:1'}") -> Job:
        path = tmp_path / "job.yaml"
        path.write_text(
            f"source: {{path: x.csv}}\nprompt: {{user: a}}\noutput: {{path: o.parquet}}\nendpoint: {endpoint}\n"
            f"request: {{model: m, {fields}}}\n",
            encoding="utf-8",
        )
        return load(Path("job.yaml"), environ={}, today=date(2026, 11, 22), cwd=tmp_path)

    return loaded


def complaints(loader: Loader, fields: str) -> list[str]:
    with pytest.raises(JobError) as caught:
        loader(fields)
    return [str(complaint) for complaint in caught.value.complaints]


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ("", {}),
        ("stream: false", {}),
        ("stream: true", {"stream": True}),
        ("thinking: null", {}),
        ("thinking: {type: adaptive}", {"thinking": {"type": "adaptive"}}),
        (
            "thinking: {type: adaptive, display: omitted}",
            {"thinking": {"type": "adaptive", "display": "omitted"}},
        ),
        ("thinking: {type: disabled}", {"thinking": {"type": "disabled"}}),
        ("thinking: {type: between_tools}", {"thinking": {"type": "between_tools"}}),
        (
            "thinking: {type: enabled, budget_tokens: 1e3}",
            {"thinking": {"type": "enabled", "budget_tokens": 1000}},
        ),
        ("metadata: {user_id: 42}", {"metadata": {"user_id": "42"}}),
        ("metadata: {user_id: no, run: 7}", {"metadata": {"user_id": "no", "run": 7}}),
        ("service_tier: standard_only", {"service_tier": "standard_only"}),
        ("speed: fast", {"speed": "fast"}),
        ("inference_geo: us", {"inference_geo": "us"}),
        ("container: container_011", {"container": "container_011"}),
        ("container: {id: c1}", {"container": {"id": "c1"}}),
        (
            "container: {skills: [{type: anthropic, skill_id: xlsx, version: 20251013}]}",
            {"container": {"skills": [{"type": "anthropic", "skill_id": "xlsx", "version": "20251013"}]}},
        ),
        ("output_config: {effort: xhigh}", {"output_config": {"effort": "xhigh"}}),
        (
            "output_config: {format: {type: json_schema, schema: {type: object, default: null, enum: [no, 007, 7]}}}",
            {
                "output_config": {
                    "format": {
                        "type": "json_schema",
                        "schema": {"type": "object", "default": None, "enum": ["no", "007", 7]},
                    }
                }
            },
        ),
        ("tools: []", {"tools": []}),
        (
            (
                "tools: [{name: a-B_9, type: custom, description: '${x}', strict: false, defer_loading: true, "
                "input_schema: {type: object, properties: {q: {type: string, default: null}}}, "
                "input_examples: [{q: no}], cache_control: {type: ephemeral, ttl: 1h}, allowed_callers: [direct], "
                "eager_input_streaming: true}]"
            ),
            {
                "tools": [
                    {
                        "name": "a-B_9",
                        "input_schema": {
                            "type": "object",
                            "properties": {"q": {"type": "string", "default": None}},
                        },
                        "description": "${x}",
                        "type": "custom",
                        "strict": False,
                        "cache_control": {"type": "ephemeral", "ttl": "1h"},
                        "defer_loading": True,
                        "eager_input_streaming": True,
                        "input_examples": [{"q": "no"}],
                        "allowed_callers": ["direct"],
                    }
                ]
            },
        ),
        (
            "tools: [{type: web_search_20260318, name: web_search, max_uses: 2, allowed_domains: [a.org]}]",
            {
                "tools": [
                    {
                        "type": "web_search_20260318",
                        "name": "web_search",
                        "max_uses": 2,
                        "allowed_domains": ["a.org"],
                    }
                ]
            },
        ),
        ("extra: {thinking: {type: newest, depth: 2}}", {"thinking": {"type": "newest", "depth": 2}}),
        (
            "extra: {tools: [{type: mcp_toolset}]}, tool_choice: required",
            {"tools": [{"type": "mcp_toolset"}], "tool_choice": {"type": "any"}},
        ),
    ],
)
def test_a_field_is_sent_as_the_job_says_it(job_of: Loader, fields: str, sent: dict[str, Any]) -> None:
    job = job_of(fields)
    assert job.request.wire() == {"model": "m", "max_tokens": 1024} | sent
    assert job.warnings == ()


@pytest.mark.parametrize(
    ("written", "native"),
    [
        ("auto", {"type": "auto"}),
        ('"required"', {"type": "any"}),
        ("any", {"type": "any"}),
        ("none", {"type": "none"}),
        ("{type: auto}", {"type": "auto"}),
        ("{type: any, disable_parallel_tool_use: true}", {"type": "any", "disable_parallel_tool_use": True}),
        ("{type: required}", {"type": "any"}),
        ("{type: none}", {"type": "none"}),
        ("{type: tool, name: web_search}", {"type": "tool", "name": "web_search"}),
        ("{type: function, function: {name: get_weather}}", {"type": "tool", "name": "get_weather"}),
    ],
)
def test_a_tool_choice_is_native_whichever_way_it_is_spelled(
    job_of: Loader, written: str, native: dict[str, Any]
) -> None:
    job = job_of(f"{TOOLS}, tool_choice: {written}")
    assert job.request.wire()["tool_choice"] == native
    assert job.request.tool_names == ("get_weather", "web_search")


def test_no_tool_choice_is_sent_for_null(job_of: Loader) -> None:
    assert "tool_choice" not in job_of(f"{TOOLS}, tool_choice: null").request.wire()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ("stream: yes", 'request.stream: must be true or false, found "yes"'),
        ("thinking: adaptive", 'request.thinking: must be a mapping, such as {name: value}; found "adaptive"'),
        ("thinking: {}", "request.thinking.type: is missing; write type: adaptive"),
        (
            "thinking: {type: adaptve}",
            "request.thinking.type: must be one of enabled, adaptive, disabled, between_tools",
        ),
        ("thinking: {type: zzz}", "what is newer than this program goes whole under request.extra"),
        ("thinking: {type: enabled, budget_tokens: 0}", "request.thinking.budget_tokens: must be a whole number of"),
        ("thinking: {type: enabled, budget: 5}", "request.thinking.budget: unknown key; write budget_tokens"),
        ("thinking: {type: enabled, zzz: 5}", "there is type, budget_tokens, display; what is newer"),
        ("output_config: {effort: hgh}", "request.output_config.effort: must be one of low, medium, high"),
        ("output_config: {format: {type: json_schema}}", "request.output_config.format.schema: is missing"),
        ("output_config: {format: {type: json, schema: {}}}", "output_config.format.type: must be one of json_schema"),
        ("service_tier: priority", "request.service_tier: must be one of auto, standard_only"),
        ("speed: faster", "request.speed: must be one of standard, fast"),
        ("metadata: {user_id: [a]}", "request.metadata.user_id: must be text, such as u-007, found a list of 1 item"),
        ("container: [a]", "request.container: must be a mapping"),
        ("container: {skills: [{type: mine, skill_id: a}]}", "request.container.skills.0.type: must be one of"),
        ("workspace_id: a", "request.workspace_id: unknown key; write endpoint.headers"),
        ("tools: {name: a}", "request.tools: must be a list, such as [a, b]; found a mapping with name"),
        ("tools: [a]", "request.tools.0: must be a mapping"),
        ("tools: [{name: 'a b', input_schema: {type: object}}]", "request.tools.0.name: must be 1 to 64 letters"),
        (f"tools: [{{name: {'a' * 65}, input_schema: {{type: object}}}}]", "request.tools.0.name: must be 1 to 64"),
        ("tools: [{name: a}]", "request.tools.0.input_schema: is missing; write input_schema: {type: object"),
        ("tools: [{name: a, input_schema: {}}]", "request.tools.0.input_schema: must have the type object"),
        ("tools: [{name: a, input_schema: {type: array}}]", 'found "array"'),
        ("tools: [{name: a, input_schema: {type: object, x: .inf}}]", "tools.0.input_schema.x: must be something that"),
        ("tools: [{name: a, parameters: {}, input_schema: {type: object}}]", "unknown key; write input_schema"),
        ("tools: [{name: a, input_schema: {type: object}, strict: yes}]", "request.tools.0.strict: must be true or"),
        ("tools: [{type: function, function: {name: a}}]", "request.tools.0.type: function is OpenAI's spelling"),
        ("tools: [{type: web_search}]", "request.tools.0.type: must be custom, be left out, or name a tool of the"),
        ("tools: [{type: [a], name: a, input_schema: {type: object}}]", "tools.0.type: must be one of custom"),
        ("tools: [{type: bash_20250124, name: 'a b'}]", "request.tools.0.name: must be 1 to 64 letters"),
        (f"{TOOLS}, tool_choice: requred", "request.tool_choice: must be auto, required, none"),
        (f"{TOOLS}, tool_choice: get_weather", 'found "get_weather"'),
        (f"{TOOLS}, tool_choice: {{type: function, name: a}}", "request.tool_choice: must be auto, required, none"),
        (f"{TOOLS}, tool_choice: {{name: get_weather}}", "request.tool_choice.type: is missing"),
        (f"{TOOLS}, tool_choice: {{type: tool}}", "request.tool_choice: names no tool; write {type: tool, name: …}"),
        (f"{TOOLS}, tool_choice: {{type: any, name: a}}", "request.tool_choice.name: is only for type tool"),
        (
            f"{TOOLS}, tool_choice: {{type: tool, name: get_wether}}",
            'request.tool_choice.name: "get_wether" is none of the tools; there is get_weather, web_search',
        ),
        (
            f"{TOOLS}, tool_choice: {{type: function, function: {{name: b}}}}",
            'request.tool_choice.name: "b" is none of the tools',
        ),
        (f"{TOOLS}, tool_choice: {{type: none, disable_parallel_tool_use: true}}", "means nothing where no tool"),
        ("tool_choice: auto", "request.tool_choice: chooses among tools, but there are none"),
        (
            "tools: [{name: a, input_schema: {type: object}}, {name: a, input_schema: {type: object}}]",
            'request.tools.1.name: "a" stands twice',
        ),
        (
            "thinking: {type: adaptive}, extra: {thinking: {type: newest}}",
            "request.extra.thinking: stands under request too; keep one of them",
        ),
    ],
)
def test_a_field_that_is_not_as_documented_is_complained_about(job_of: Loader, fields: str, words: str) -> None:
    said = complaints(job_of, fields)
    assert len(said) == 1, said
    assert words in said[0]
    assert said[0].startswith("job.yaml:5:")


def test_a_complaint_about_a_tool_stands_at_its_place(job_of: Loader) -> None:
    assert complaints(job_of, "tools: [{name: a, input_schema: {type: object}, nme: 1}]")[0].startswith(
        "job.yaml:5:69: request.tools.0.nme: unknown key; did you mean name?"
    )


def test_fields_can_be_made_in_code() -> None:
    made = RequestFields(model="m", thinking=Thinking(type="adaptive"), stream=True)
    assert made.wire() == {"model": "m", "max_tokens": 1024, "stream": True, "thinking": {"type": "adaptive"}}


def test_a_request_can_be_written_down_whole_for_comparing_plans(job_of: Loader) -> None:
    request = job_of(f"{TOOLS}, tool_choice: auto, container: {{id: c}}, thinking: {{type: adaptive}}").request
    written = request.model_dump(mode="json")
    assert json.loads(json.dumps(written)) == written
    assert [tool["name"] for tool in written["tools"]] == ["get_weather", "web_search"]
    assert written["container"]["id"] == "c"

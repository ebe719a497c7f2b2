"""The JSON Schema is the reference of the job file, and the committed one is the program's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.job import json_schema, load
from pipeline.job.schema import text

ROOT = Path(__file__).parents[2]


def objects(schema: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Walk everything that has properties."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield name, schema
        for key, value in schema.items():
            yield from objects(value, f"{name}/{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from objects(value, f"{name}/{index}")


def test_the_committed_schema_is_the_programs_own() -> None:
    committed = (ROOT / "docs/job.schema.json").read_text(encoding="utf-8")
    assert committed == text(), "run: python -m pipeline.job > docs/job.schema.json"


def test_the_module_prints_the_schema() -> None:
    printed = subprocess.run([sys.executable, "-m", "pipeline.job"], cwd=ROOT, capture_output=True, check=True)
    assert printed.stdout.decode() == text()


def test_every_mapping_is_closed_and_every_key_described_with_default_and_example() -> None:
    seen = 0
    for name, schema in objects(json_schema()):
        assert schema["additionalProperties"] is False, name
        for key, field in schema["properties"].items():
            if key == "file":
                continue
            seen += 1
            description = field["description"]
            assert "Example: " in description, f"{name}/{key}"
            assert "Default: " in description or "Required" in description, f"{name}/{key}"
            assert ("Required" in description) == (key in schema.get("required", [])), f"{name}/{key}"
    assert seen > 70


def test_the_schema_has_a_title_and_names_what_is_required() -> None:
    schema = json_schema()
    assert schema["title"] == "Pipeline job"
    assert "$id" not in schema
    assert schema["required"] == ["source", "prompt", "request", "output"]


def test_a_number_may_be_a_name_to_fill_in_where_names_are_filled_in() -> None:
    definitions = json_schema()["$defs"]
    filled_in = {"type": "string", "pattern": r"\$\{"}
    assert filled_in in definitions["Limits"]["properties"]["concurrency"]["anyOf"]
    assert "anyOf" not in definitions["RequestFields"]["properties"]["max_tokens"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_job_loads_and_names_the_schema_for_editors(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=../docs/job.schema.json\n")
    assert load(path, environ={}).tests

"""The JSON Schema of the job file, for editors: ``python -m pipeline.job > docs/job.schema.json``."""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from pipeline.job.sections import JobFile


class _WithoutInventedTitles(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - pydantic's interface
        return False


def json_schema() -> dict[str, Any]:
    """Give the JSON Schema of the job file: draft 2020-12, closed mappings, a description for every key."""
    schema = JobFile.model_json_schema(schema_generator=_WithoutInventedTitles)
    schema["$defs"] = {name: schema["$defs"][name] for name in sorted(_needed(schema, schema["$defs"]))}
    # The file's own name stands in for `name` where it is one.
    schema["required"].remove("name")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _needed(schema: dict[str, Any], definitions: dict[str, Any]) -> set[str]:
    """Find the definitions that the properties lead to."""
    needed: set[str] = set()
    pending: list[Any] = [schema["properties"]]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            reference = str(value.get("$ref", "")).removeprefix("#/$defs/")
            if reference in definitions and reference not in needed:
                needed.add(reference)
                pending.append(definitions[reference])
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return needed


def text() -> str:
    """Give it as the text of ``docs/job.schema.json``."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"

"""The job: a YAML file read to values that are complete and checked, each complaint with its place in the file."""

from pipeline.job.answer import Answer, Column
from pipeline.job.endpoint import Endpoint
from pipeline.job.job import Job, Overrides
from pipeline.job.load import load
from pipeline.job.prices import ModelPrice, TokenPrices
from pipeline.job.request import OutputConfig, OutputFormat, RequestFields, Thinking, Tool, ToolChoice
from pipeline.job.schema import json_schema
from pipeline.job.sections import (
    Csv,
    Dataset,
    Example,
    Expect,
    Limits,
    Output,
    ParamValue,
    Prompt,
    Source,
    Turn,
)

__all__ = [
    "Answer",
    "Column",
    "Csv",
    "Dataset",
    "Endpoint",
    "Example",
    "Expect",
    "Job",
    "Limits",
    "ModelPrice",
    "Output",
    "OutputConfig",
    "OutputFormat",
    "Overrides",
    "ParamValue",
    "Prompt",
    "RequestFields",
    "Source",
    "Thinking",
    "TokenPrices",
    "Tool",
    "ToolChoice",
    "Turn",
    "json_schema",
    "load",
]

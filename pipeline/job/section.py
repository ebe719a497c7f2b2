"""What every section of the job file is: a mapping with a closed list of keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from pipeline.job.nodes import Scalar


def is_nothing(value: Any) -> bool:
    """Whether a value is left out, empty, or one of YAML's words for nothing."""
    return value is None or (isinstance(value, Scalar) and value.is_null and not value.broken)


def unless_nothing(value: Any) -> Any:
    """Take a section whose keys are all commented out for an empty one."""
    return {} if is_nothing(value) else value


def list_unless_nothing(value: Any) -> Any:
    """Take a list whose items are all commented out for an empty one."""
    return () if is_nothing(value) else value


def none_if_nothing(value: Any) -> Any:
    """Take nothing for None, where that means something else than an empty section."""
    return None if is_nothing(value) else value


class Section(BaseModel):
    """A mapping with a closed list of keys.

    Attributes:
        LATER: keys that a later version will know.
        WAYS_OUT: what to write instead of a key that people try.
        NEWER: where to write a key that is newer than this program, for the end of a complaint.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    LATER: ClassVar[frozenset[str]] = frozenset()
    WAYS_OUT: ClassVar[Mapping[str, str]] = {}
    NEWER: ClassVar[str] = ""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_empty(cls, value: Any) -> Any:
        return unless_nothing(value)

    @classmethod
    def file_keys(cls) -> dict[str, str]:
        """Give the names of the keys as the file has them, with those of their attributes."""
        return {field.alias or name: name for name, field in cls.model_fields.items()}


def as_sent(value: Any) -> Any:
    """Give what goes on the wire: sections as dicts of what the job says, tuples as lists; nothing is added."""
    if isinstance(value, Section):
        members = ((key, getattr(value, name)) for key, name in value.file_keys().items())
        return {key: as_sent(member) for key, member in members if member is not None}
    return [as_sent(item) for item in value] if isinstance(value, tuple) else value

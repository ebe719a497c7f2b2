"""An output that was found on disk: its files, and what they say of the run they are from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StorageError
from pipeline.job.sections import is_folder
from pipeline.output.parts import read_parts

_OURS = b"pipeline."


@dataclass(frozen=True, slots=True)
class Facts:
    """What an output's metadata say, each name without ``pipeline.``."""

    metadata: Mapping[str, str]

    @property
    def job(self) -> str | None:
        """The job; None where this is no output of this program."""
        return self.metadata.get("job")

    @property
    def run_id(self) -> str:
        """The run."""
        return self.metadata.get("run_id", "")

    @property
    def prefix(self) -> str:
        """What stands before the names of the run's own columns."""
        return self.metadata.get("prefix", "")

    @classmethod
    def of(cls, schema: pa.Schema) -> Facts:
        """Read them from a Parquet file's schema."""
        return cls(
            {
                name.removeprefix(_OURS).decode(): value.decode("utf-8", "replace")
                for name, value in (schema.metadata or {}).items()
                if name.startswith(_OURS)
            }
        )


def files_of(output: Path, run_id: str | None = None) -> list[Path]:
    """The Parquet files that an output is made of, in the order of their rows.

    Args:
        output: a file, or a directory of parts.
        run_id: of a directory, only the parts of this run.

    Raises:
        StorageError: a directory's manifest cannot be read.
    """
    if not is_folder(output) or output.is_file():
        return [output] if output.exists() else []
    return [output / part.name for part in read_parts(output, run_id)]


def owner_of(output: Path, run_id: str) -> Facts:
    """What the file that a run is to replace says of itself; nothing where it is no output, or there is none.

    In a directory a run replaces its own parts alone, so others have no say in it.
    """
    try:
        first = next(iter(files_of(output, run_id)), None)
        return Facts({}) if first is None else Facts.of(pq.read_schema(first))
    except (OSError, pa.ArrowException, StorageError):
        return Facts({})

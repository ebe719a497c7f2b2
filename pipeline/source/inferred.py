"""What a pass over all values has told of the columns, kept so that unchanged files need no second pass."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from pipeline import __version__
from pipeline.source.contract import SourceOptions
from pipeline.source.files import SourceFile, fingerprint


@dataclass(frozen=True, slots=True)
class Inferred:
    """Names and types of columns that hold over all values of all files.

    Attributes:
        mark: hash of the files and of how they are read, as `mark_of` makes it.
        names: all columns.
        schema: the types of those columns that were asked for.
    """

    mark: str
    names: tuple[str, ...]
    schema: pa.Schema

    def covers(self, columns: Sequence[str]) -> bool:
        """Whether the types of all these columns are known."""
        return set(columns) <= set(self.schema.names)

    def as_json(self) -> dict[str, Any]:
        """The same as an object that `from_json` reads."""
        schema = base64.b64encode(self.schema.serialize().to_pybytes()).decode()
        return {"mark": self.mark, "names": list(self.names), "schema": schema}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Self | None:
        """What `as_json` gave; None where it cannot be read, since then it is found out anew."""
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept["schema"])))
            return cls(kept["mark"], tuple(kept["names"]), schema)
        except (ValueError, LookupError, TypeError, pa.ArrowException, OSError):
            return None


def mark_of(files: Sequence[SourceFile], source: SourceOptions) -> str:
    """Hex hash of the files, the options that their text is read by, and the program, whose rules may change.

    Of a file it takes in what no copying tool sets back, too: a value of another type in a file of the same size and
    mtime would be refused, or taken for what it is not.
    """
    csv = source.csv
    read_by = [csv.separator, csv.encoding, list(csv.null_values), dict(source.types), source.format, __version__]
    text = fingerprint(files) + json.dumps([read_by, *map(_changed, files)], sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _changed(file: SourceFile) -> tuple[int, int] | None:
    """The file's inode and the time when anything of it was changed last; None where it is gone by now."""
    try:
        look = Path(file.path).stat()
    except OSError:
        return None
    return look.st_ino, look.st_ctime_ns

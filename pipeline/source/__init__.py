"""The source room: Parquet, CSV and NDJSON files to rows, groups and chunks."""

from pipeline.source.inferred import Inferred
from pipeline.source.reader import Batch, Reader, open_source

__all__ = ["Batch", "Inferred", "Reader", "open_source"]

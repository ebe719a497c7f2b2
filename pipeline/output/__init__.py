"""Plan and answers joined to Parquet, published whole."""

from pipeline.output.columns import OUTPUT_STATUSES, OWN_COLUMNS, output_schema
from pipeline.output.file import Published, check_writable, publish, write_summary
from pipeline.output.found import Facts, files_of, owner_of
from pipeline.output.parts import Part, manifest_path, read_parts, run_mark
from pipeline.output.table import Cells, Tally, table

__all__ = [
    "OUTPUT_STATUSES",
    "OWN_COLUMNS",
    "Cells",
    "Facts",
    "Part",
    "Published",
    "Tally",
    "check_writable",
    "files_of",
    "manifest_path",
    "output_schema",
    "owner_of",
    "publish",
    "read_parts",
    "run_mark",
    "table",
    "write_summary",
]

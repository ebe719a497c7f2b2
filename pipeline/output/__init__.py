"""Plan and answers joined to Parquet, published whole."""

from pipeline.output.columns import OUTPUT_STATUSES, OWN_COLUMNS, output_schema
from pipeline.output.file import Published, check_writable, publish, write_summary
from pipeline.output.table import Cells, Tally, table

__all__ = [
    "OUTPUT_STATUSES",
    "OWN_COLUMNS",
    "Cells",
    "Published",
    "Tally",
    "check_writable",
    "output_schema",
    "publish",
    "table",
    "write_summary",
]

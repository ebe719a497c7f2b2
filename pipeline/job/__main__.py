"""``python -m pipeline.job`` prints the JSON Schema of the job file, as `docs/job.schema.json` holds it."""

import sys

from pipeline.job.schema import text

sys.stdout.buffer.write(text().encode())

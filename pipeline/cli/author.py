"""`schema` and `init`: help for those who write job files."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from pathlib import Path

import click

from pipeline.errors import JobError

FIRST = "first-job"
STARTER_JOB = """\
# A job: rows in, one /messages call each, answers out. `pipeline schema` describes every key.
name: first-job
description: Sort customer messages by topic.

source:
  path: messages.csv
  id: [ticket]

prompt:
  system: You sort customer messages for a shop's support team.
  user: |
    Topics: delivery, refund, product question, praise.
    Answer with the one topic that fits this message best.

    <message from="<<customer>>"><<text>></message>

request:
  model: claude-haiku-4-5
  max_tokens: 60

# The key is read from ANTHROPIC_API_KEY. For another provider:
# endpoint: {url: https://api.aimlapi.com/v1, api_key_env: AIMLAPI_KEY}

limits:
  requests_per_minute: 50
  concurrency: 4

output:
  path: answers.parquet

# The job's own examples: `pipeline check job.yaml` renders them and sends nothing.
tests:
  - name: the message reaches the prompt
    row: {ticket: T-0, customer: Ada, text: "Where is my parcel?"}
    prompt: |
      Topics: delivery, refund, product question, praise.
      Answer with the one topic that fits this message best.

      <message from="Ada">Where is my parcel?</message>
"""

STARTER_ROWS = """\
ticket,customer,text
T-1,Ada,"My parcel was due on Monday, and it is Thursday now."
T-2,Grace,The lamp arrived broken. I would like my money back.
T-3,Alan,Does the desk fit through a door of 80 cm?
T-4,Edsger,"Shortest path from shop to door I have ever seen, thank you!"
"""


def job_name(folder: Path) -> str:
    """Name a job after the folder it is in: lower-case words with dashes between, of at most 100 characters."""
    plain = unicodedata.normalize("NFKD", folder.resolve().name.casefold()).encode("ascii", "ignore").decode()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))
    return words[:100].strip("-") or FIRST


@click.command("schema")
def schema_command() -> int:
    """Print the JSON Schema of the job file, for editors and for reading.

    \b
    Example:
      pipeline schema > job.schema.json
      then, as the first line of a job:  # yaml-language-server: $schema=job.schema.json
    """
    from pipeline.job import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    return 0


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path), default=Path(FIRST), metavar="[FOLDER]")
def init_command(folder: Path) -> int:
    """Write a starter job with sample rows to FOLDER (default: first-job). Replaces nothing.

    \b
    Example:
      pipeline init my-job
      pipeline run my-job/job.yaml --endpoint simulator
    """
    if folder.suffix in (".yaml", ".yml"):
        raise JobError(f"{folder}: init makes a folder with a job file in it: pipeline init {folder.with_suffix('')}")
    files = {
        folder / "job.yaml": STARTER_JOB.replace(FIRST, job_name(folder), 1),
        folder / "messages.csv": STARTER_ROWS,
    }
    for path in files:
        if path.exists():
            raise JobError(f"{path} exists already; choose another folder: pipeline init FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise JobError(f"{folder}: cannot write the starter job: {error.strerror}") from error
    job = folder / "job.yaml"
    print(f"wrote {job} and {folder / 'messages.csv'}; next:")
    word = shlex.quote(str(job))
    print(f"  pipeline run {word} --endpoint simulator    a rehearsal: no key, no cost")
    print(f"  pipeline run {word}                         with ANTHROPIC_API_KEY set")
    return 0

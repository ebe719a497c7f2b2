"""From a job file and a source on disk to prompts, keys and prices, through the rooms below."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from pipeline.errors import JobError
from pipeline.job import load
from pipeline.prompt import KeyRecipe, Prompts, cache_marks, cache_warnings, check_examples, needed_columns
from pipeline.records import Row
from pipeline.source import open_source
from pipeline.wire.encode import body, envelope

JOB = """\
name: books
params: {region: eu, n: 3, b: true}
source: {path: books.csv}
prompt:
  system: You are in <<params.region>>, <<params.n>>, <<params.b>>.
  user: |
    Is <<title>> of <<year>> a book?
request: {model: claude-sonnet-4-5}
output: {path: out.parquet}
tests:
  - {row: {title: Dune, year: 1965}, prompt: "Is Dune of 1965 a book?"}
  - {row: {title: Dune, year: 1965}, prompt: "Is Dune of 1966 a book?"}
"""


def written(directory: Path, job: str) -> Path:
    (directory / "books.csv").write_text('title,pages,year\nDune,412,1965\n"Emma, or",,1815\n', encoding="utf-8")
    (directory / "job.yaml").write_text(job, encoding="utf-8")
    return directory / "job.yaml"


def test_rows_on_disk_become_prompts_with_keys(tmp_path: Path) -> None:
    job = load(written(tmp_path, JOB), environ={})
    reader = open_source(job, needed_columns(job))
    prompts = Prompts(job, reader.columns)
    built = [prompts.build(row) for batch in reader.batches() for row in batch.rows]
    assert prompts.needed == frozenset({"title", "year"})
    assert built == [
        b'"system":"You are in eu, 3, true.","messages":[{"role":"user","content":"Is Dune of 1965 a book?\\n"}]',
        b'"system":"You are in eu, 3, true.","messages":[{"role":"user","content":"Is Emma, or of 1815 a book?\\n"}]',
    ]
    assert len({KeyRecipe(job).key(prompt) for prompt in built}) == 2


def test_complaints_carry_their_place_in_the_file(tmp_path: Path) -> None:
    job = load(written(tmp_path, JOB), environ={})
    (complaint,) = check_examples(job, open_source(job).columns)
    assert complaint.where.endswith("job.yaml:12:46")
    assert complaint.message.startswith("differs at line 1, column 15: ")
    broken = load(written(tmp_path, JOB.replace("<<title>>", "<<titel>>")), environ={})
    with pytest.raises(
        JobError, match=r"job\.yaml:6:9: prompt\.user: names <<titel>>, but the source has title, pages, year; "
    ):
        Prompts(broken, open_source(broken, needed_columns(broken)).columns)


def test_complaints_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    written(tmp_path, JOB)
    turned = JOB.replace("  system: You are in <<params.region>>, <<params.n>>, <<params.b>>.\n", "").replace(
        "    Is <<title>> of <<year>> a book?\n", "    Is <<titel>> of <<yaer>> a book?\n  system: <<pags>>\n"
    )
    job = load(written(tmp_path, turned), environ={})
    with pytest.raises(JobError) as caught:
        Prompts(job, open_source(job, needed_columns(job)).columns)
    found = [(complaint.path, complaint.message.split(",")[0]) for complaint in caught.value.complaints]
    assert found == [
        ("prompt.user", "names <<titel>>"),
        ("prompt.user", "names <<yaer>>"),
        ("prompt.system", "names <<pags>>"),
    ]


def test_a_line_of_a_text_is_not_taken_for_one_of_the_file(tmp_path: Path) -> None:
    job = load(written(tmp_path, JOB.replace("    Is", "    a\n    <<title|uper>>\n    Is")), environ={})
    (complaint,) = check_examples(job)
    assert str(complaint).startswith(f"{tmp_path}/job.yaml:6:9: prompt.user: line 2 of the text: there is no filter")
    job = load(written(tmp_path, JOB.replace("    Is", "    a\n    <<title|uper>> << <% if x %>\n    Is")), environ={})
    (complaint,) = check_examples(job)
    assert complaint.message.startswith("line 2 of the text is no template: ")


MARKED_JOB = """\
name: books
params: {region: eu}
source: {path: books.csv}
prompt:
  cache: 1h
  system:
  - {type: text, text: {file: rules.md}}
  - {type: text, text: "Region: <<params.region>>"}
  messages:
  - role: user
    content:
    - {type: document, source: {type: text, media_type: text/plain, data: A list of books.}}
    - {type: text, text: "Is <<title>> a book?"}
request: {model: claude-opus-5-5}
output: {path: out.parquet}
tests: [{row: {title: Dune}, prompt: "Is Dune a book?"}]
"""


def test_blocks_of_a_job_file_are_sent_with_the_mark_before_what_varies(tmp_path: Path) -> None:
    (tmp_path / "rules.md").write_text("Be kind.\n")
    job = load(written(tmp_path, MARKED_JOB), environ={})
    assert check_examples(job, ("title", "pages", "year")) == []
    prompts = Prompts(job, ("title", "pages", "year"))
    fields = job.request.wire()
    marks = cache_marks(job, prompts, fields)
    sent = orjson.loads(body(envelope(marks.fields), marks.apply(prompts.build(Row("r", ({"title": "Dune"},))))))
    assert sent == {
        "model": "claude-opus-5-5",
        "max_tokens": 1024,
        "system": [{"type": "text", "text": "Be kind.\n"}, {"type": "text", "text": "Region: eu"}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {
                        "type": "document",
                        "source": {"type": "text", "media_type": "text/plain", "data": "A list of books."},
                        "cache_control": {"type": "ephemeral", "ttl": "1h"},
                    },
                    {"type": "text", "text": "Is Dune a book?"},
                ],
            }
        ],
    }
    (warning,) = cache_warnings(job, prompts, fields)
    assert str(warning).startswith(f"{job.shown_file}:5:10: prompt.cache: rows share about ")

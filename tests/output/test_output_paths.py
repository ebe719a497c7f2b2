"""What a job's output path may be: a Parquet file, or a directory of parts that ends in a slash."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import JobError
from pipeline.job import Job, Overrides, load
from pipeline.job.sections import is_folder

JOB = """\
name: small
source: {{path: {source}}}
prompt: {{user: "Say <<name>>"}}
request: {{model: claude-haiku-4-5}}
endpoint: {{url: "http://127.0.0.1:1"}}
output: {{path: {path}}}
"""


def job_of(folder: Path, path: str, overrides: Overrides | None = None, source: str = "rows.csv") -> Job:
    (folder / "job.yaml").write_text(JOB.format(path=path, source=source))
    return load(folder / "job.yaml", overrides or Overrides(), environ={}, cwd=folder)


@pytest.mark.parametrize(
    ("written", "overrides", "path"),
    [
        ("out/d/", Overrides(), "out/d"),
        ("out/d/", Overrides(limit=20), "out/d.first-20"),
        ("out/2026.11/", Overrides(limit=20), "out/2026.11.first-20"),
        ("out/d/", Overrides(endpoint="simulator"), "out/d.simulator"),
        ("out/d/", Overrides(output=Path("one.parquet")), "one.parquet"),
        ("out/d/", Overrides(output=Path("other")), "other"),
        ("out.parquet", Overrides(output=Path("there")), "there"),
    ],
)
def test_a_directory_keeps_its_kind_under_every_name(
    tmp_path: Path, written: str, overrides: Overrides, path: str
) -> None:
    (tmp_path / "there").mkdir()
    job = job_of(tmp_path, written, overrides)
    assert job.output.path == tmp_path / path
    assert is_folder(job.output.path) == (not path.endswith(".parquet"))


@pytest.mark.parametrize(
    ("written", "overrides", "words"),
    [
        ("out.parquet", Overrides(output=Path("answers")), "--output: must end in .parquet"),
        ("taken/", Overrides(), "is to be a directory of parts, but a file stands there"),
        ("folder.parquet", Overrides(), "is a directory with the name of a file"),
        ("out", Overrides(), "or in / for a directory of parts"),
        ("out.csv/", Overrides(output=Path("taken")), "--output: "),
    ],
)
def test_what_is_neither_is_refused_in_words(tmp_path: Path, written: str, overrides: Overrides, words: str) -> None:
    (tmp_path / "taken").write_text("")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(JobError, match=words):
        job_of(tmp_path, written, overrides)


@pytest.mark.parametrize("source", ["out/d/*.parquet", "out/d", "out", "out/**/*.parquet"])
def test_parts_among_what_the_source_reads_are_refused(tmp_path: Path, source: str) -> None:
    (tmp_path / "out/d").mkdir(parents=True)
    with pytest.raises(JobError, match="is among what the source reads"):
        job_of(tmp_path, "out/d/", source=source)

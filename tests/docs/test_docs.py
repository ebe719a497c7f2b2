"""What the documents say is what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.cli.author import STARTER_JOB
from pipeline.cli.reference import reference
from pipeline.job import load

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
JOBS = sorted((ROOT / "configs").glob("*.yaml"))


def snippets() -> list[tuple[str, str]]:
    """Every YAML block that is a whole job, with the page it stands on."""
    blocks = [
        (page.name, block) for page in PAGES for block in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    ]
    return [(name, block) for name, block in blocks if re.search(r"^source:", block, re.MULTILINE)]


@pytest.mark.parametrize(("page", "text"), [*snippets(), ("init", STARTER_JOB)])
def test_every_job_in_the_documents_loads(page: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert load(path, environ={}).request.model, page


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_every_shipped_job_loads_and_names_the_schema(path: Path) -> None:
    assert load(path, environ={}).name == path.stem
    assert path.read_text().startswith("# yaml-language-server: $schema=../docs/job.schema.json")


def test_the_commands_page_is_what_help_says() -> None:
    assert (ROOT / "docs/commands.md").read_text() == reference(), "make reference"


def test_links_between_documents_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"

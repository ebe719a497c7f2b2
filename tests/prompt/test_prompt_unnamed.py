from __future__ import annotations

from datetime import date

import pytest
from prompt_jobs import ADataset, AJob, APrompt, asking

from pipeline.prompt import Prompts, prompt_warnings

COLUMNS = ("name", "Unit Price", "n")


def warned(job: AJob, *columns: str) -> list[str]:
    return [f"{warning.path}: {warning.message}" for warning in prompt_warnings(job, Prompts(job, columns), columns)]


@pytest.mark.parametrize(
    "user", ["Describe it.", "Describe {{nobody}}.", "<<params.region>> ${region}", "<<run_date | string>>"]
)
def test_a_prompt_that_names_no_column_is_warned_of_once(user: str) -> None:
    job = asking(user, params={"region": "eu"}, run_date=date(2026, 1, 2))
    [said] = warned(job, *COLUMNS)
    assert said == (
        "prompt: names no column, so that every row makes the same request; name a column as <<name>>; the source has "
        "name, Unit Price, n"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{{name}}", "<<name>>"),
        ("{{ name }}", "<<name>>"),
        ("{name}", "<<name>>"),
        ("${name}", "<<name>>"),
        ("{{Unit Price}}", '<<row["Unit Price"]>>'),
    ],
)
def test_a_column_in_other_braces_is_shown_as_it_is_named(text: str, shown: str) -> None:
    [said] = warned(asking(f"Describe {text} and {text}."), *COLUMNS)
    assert said == (
        f"prompt.user: names no column ({text} is text to it), so that every row makes the same request; name a column "
        f"as {shown}; the source has name, Unit Price, n"
    )
    assert warned(asking(f"Describe {text} by <<n>>."), *COLUMNS) == [
        f"prompt.user: {text} is sent as it stands; to send the column, write {shown}"
    ]


def test_braces_are_warned_of_where_they_stand() -> None:
    job = AJob(prompt=APrompt(system="For ${name}.", user="<<name>>"))
    assert warned(job, *COLUMNS) == ["prompt.system: ${name} is sent as it stands; to send the column, write <<name>>"]


@pytest.mark.parametrize(
    "user",
    [
        "<<name>>",
        '<<row["Unit Price"]>>',
        "<<row | tojson>>",
        "<<DATASET>>",
        "<% for r in rows %><<r.name>><% endfor %>",
        "<<row_count>> rows",
        'Answer as {"name": "…"} for <<name>>.',
        "Answer as {name}: <<name>>",
        "<<name>> {{nobody}} ${nobody} {nobody}",
    ],
)
def test_a_prompt_of_its_rows_is_not_warned_of(user: str) -> None:
    assert warned(asking(user), *COLUMNS) == []


def test_braces_that_are_the_jobs_delimiters_name_columns() -> None:
    assert warned(asking("{{name}}", delimiters=("{{", "}}")), *COLUMNS) == []
    assert "name a column as {{name}}" in warned(asking("<<name>>", delimiters=("{{", "}}")), *COLUMNS)[0]


def test_a_dataset_of_some_columns_names_them_and_a_source_without_columns_has_none_to_name() -> None:
    assert warned(asking("<<DATASET>>", dataset=ADataset(columns=("n",))), *COLUMNS) == []
    assert warned(asking("Describe it.")) == []


class AShelf:
    """Pictures of one column."""

    columns: tuple[str, ...] = ("photo",)

    def look(self, rows: object) -> None:
        """Find nothing."""

    def blocks(self, row: object) -> bytes:
        del row
        return b""


def test_a_fixed_prompt_beside_pictures_is_not_warned_of() -> None:
    job = asking("What is in this picture?")
    assert prompt_warnings(job, Prompts(job, ("photo",), pictures=AShelf()), ("photo",)) == ()

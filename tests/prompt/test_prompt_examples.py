from __future__ import annotations

from typing import Any

import pytest
from prompt_jobs import ABlock, ADataset, AJob, AnExample, APrompt, ATurn

from pipeline.prompt import check_examples
from pipeline.prompt.examples import first_difference


def checked(prompt: APrompt, *examples: AnExample, columns: tuple[str, ...] | None = None) -> list[str]:
    found = check_examples(AJob(prompt=prompt, tests=examples), columns)
    return [f"{complaint.path}: {complaint.message}" for complaint in found]


DESCRIBE = APrompt(user='Describe "<<TITLE>>" from <<DATASET>>.\n', system="Be <<how>>.")
HARBOUR: dict[str, Any] = {"TITLE": "Harbour at dawn", "DATASET": "coast-2024", "how": "brief"}


def test_an_example_that_comes_out_as_written_is_silent() -> None:
    prompt = 'Describe "Harbour at dawn" from coast-2024.'
    assert checked(DESCRIBE, AnExample(row=HARBOUR, prompt=prompt, system="Be brief.")) == []
    assert checked(DESCRIBE, AnExample(row=HARBOUR, prompt=prompt + "\n"), columns=tuple(HARBOUR)) == []
    assert checked(DESCRIBE, AnExample(row=HARBOUR)) == []


def test_a_difference_is_said_where_it_begins() -> None:
    prompt = 'Describe "Harbour at dawn" from coast-2025.'
    assert checked(DESCRIBE, AnExample(row=HARBOUR, prompt=prompt, system="Be long.")) == [
        'tests.0.system: differs at line 1, column 4: expected "Be long.", the job renders "Be brief."',
        (
            'tests.0.prompt: differs at line 1, column 42: expected …"dawn\\" from coast-2025.", the job renders '
            '…"dawn\\" from coast-2024."'
        ),
    ]


def test_every_example_is_checked() -> None:
    wrong = AnExample(row=HARBOUR, prompt="x")
    right = AnExample(row=HARBOUR)
    assert [line.partition(":")[0] for line in checked(DESCRIBE, wrong, right, wrong)] == [
        "tests.0.prompt",
        "tests.2.prompt",
    ]


def test_rows_of_an_example_are_a_group() -> None:
    prompt = APrompt(user="<<sensor>>:\n<<DATASET>>", dataset=ADataset(columns=("ts",)))
    rows = [{"sensor": "a", "ts": 1}, {"sensor": "a", "ts": 2}]
    assert checked(prompt, AnExample(rows=rows, prompt="a:\nts\n1\n2")) == []
    assert checked(prompt, AnExample(name="two", rows=[*rows, {"sensor": "b", "ts": 3}]))[0].startswith(
        "tests.0: row two: prompt.user: column sensor varies within the group"
    )


def test_of_blocks_the_texts_are_compared_one_right_after_the_other() -> None:
    content = (ABlock("Q: "), {"type": "document", "source": {"type": "url", "url": "u"}}, ABlock("<<q>>?"))
    prompt = APrompt(system=(ABlock("a"), ABlock("b")), messages=(ATurn("user", content),))
    assert checked(prompt, AnExample(row={"q": "x"}, prompt="Q: x?", system="ab")) == []
    assert checked(prompt, AnExample(row={"q": "x"}, prompt="Q: y?"))[0].startswith("tests.0.prompt: differs at line 1")


def test_the_last_user_turn_is_compared() -> None:
    turns = (ATurn("user", "first"), ATurn("assistant", "yes"), ATurn("user", "<<q>>"), ATurn("assistant", "{"))
    assert checked(APrompt(messages=turns), AnExample(row={"q": "second"}, prompt="second")) == []


def test_an_example_without_a_column_that_the_template_names_says_so() -> None:
    assert checked(APrompt(user="<<title>> <<q>>"), AnExample(row={"titel": "x", "q": 1})) == [
        "tests.0.row: prompt.user names <<title>>, but this example has titel, q; did you mean <<titel>>?"
    ]


def test_an_example_with_a_column_that_the_source_lacks_says_so() -> None:
    assert checked(APrompt(user="<<q>>"), AnExample(row={"q": 1, "tilte": 2}), columns=("q", "title")) == [
        "tests.0.row: has the column tilte, but the source has q, title"
    ]


def test_only_names_of_the_source_are_suggested() -> None:
    example = AnExample(row={"id": 1, "nam": 2})
    assert checked(APrompt(user="<<name>>"), example, columns=("id", "name")) == [
        "tests.0.row: has the column nam, but the source has id, name",
        "tests.0.row: prompt.user names <<name>>, but this example has id, nam",
    ]
    assert checked(APrompt(user="<<namm>>"), example, columns=("id", "name"))[1] == (
        "tests.0.row: prompt.user names <<namm>>, but this example has id, nam; did you mean <<name>>?"
    )


def test_columns_given_as_a_set_are_listed_by_name() -> None:
    job = AJob(prompt=APrompt(user="x"), tests=(AnExample(row={"q": 1}),))
    (complaint,) = check_examples(job, frozenset("hgfedcba"))
    assert complaint.message == "has the column q, but the source has a, b, c, d, e, f, g, h"


@pytest.mark.parametrize(
    ("example", "complaint"),
    [
        (AnExample(prompt="x"), "tests.0: has neither row nor rows; one of them would be right"),
        (
            AnExample(rows=[{"q": 1}, {"q": 1, "x": 2}]),
            "tests.0.rows: has x in some rows only; every row of an example has the same columns",
        ),
        (
            AnExample(row={"q": None}),
            "tests.0: row tests.0: prompt.user comes out empty, and the API refuses empty text",
        ),
    ],
)
def test_an_example_that_cannot_be_rendered_says_why(example: AnExample, complaint: str) -> None:
    assert checked(APrompt(user="<<q>>"), example) == [complaint]


def test_broken_templates_are_said_once_and_not_by_each_example() -> None:
    (line,) = checked(APrompt(user="<< q"), AnExample(row={"q": 1}), AnExample(row={"q": 2}))
    assert line.startswith("prompt.user: line 1 of the text is no template")


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        ("a", "a\n\n", None),
        ("", "", None),
        ("a\nb", "a\nc", 'differs at line 2, column 1: expected "a\\nb", the job renders "a\\nc"'),
        ("a", "ab", 'differs at line 1, column 2: expected the end after "a", the job renders "ab"'),
        ("", "b", 'differs at line 1, column 1: expected nothing, the job renders "b"'),
        (" a", "a", 'differs at line 1, column 1: expected " a", the job renders "a"'),
        (
            "é" * 50,
            "é" * 30 + "e",
            'differs at line 1, column 31: expected …"' + "é" * 40 + '", the job renders …"' + "é" * 20 + 'e"',
        ),
    ],
)
def test_the_first_difference_in_words(expected: str, found: str, words: str | None) -> None:
    assert first_difference(expected, found) == words

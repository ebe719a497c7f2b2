from __future__ import annotations

from datetime import date

import orjson
import pytest
from prompt_jobs import ABlock, ADataset, AJob, APrompt, ATurn, asking, group, one

from pipeline.errors import JobError, RowError
from pipeline.prompt import Prompts, estimated_tokens, needed_columns


def complaints(job: AJob, *columns: str) -> list[str]:
    with pytest.raises(JobError) as broken:
        Prompts(job, columns)
    return [f"{complaint.path}: {complaint.message}" for complaint in broken.value.complaints]


def test_a_prompt_is_the_members_that_vary_by_row() -> None:
    job = AJob(prompt=APrompt(user="Describe <<title>>.\n", system='You are "<<role>>".'))
    assert Prompts(job, ("title", "role")).build(one(title="Zoë", role="a\tb")) == (
        '"system":"You are \\"a\\tb\\".","messages":[{"role":"user","content":"Describe Zoë.\\n"}]'.encode()
    )


def test_turns_keep_their_roles_and_order() -> None:
    turns = (ATurn("user", "<<q>>"), ATurn("assistant", "yes"), ATurn("user", "and <<q>>?"), ATurn("assistant", "{"))
    assert Prompts(AJob(prompt=APrompt(messages=turns)), ("q",)).messages(one(q="x")) == {
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": "and x?"},
            {"role": "assistant", "content": "{"},
        ]
    }


BLOCKS = APrompt(
    system=(ABlock("Be <<how>>."), ABlock("Always.", {"cache_control": {"type": "ephemeral"}})),
    messages=(
        ATurn("user", ({"type": "image", "source": {"type": "url", "url": "<<u>>"}}, ABlock("Q: <<q>>"))),
        ATurn("assistant", (ABlock("A.", {"citations": [{"type": "t"}]}), {"type": "tool_use", "id": "i"})),
        ATurn("user", "<<q>>"),
    ),
)


def test_the_texts_of_blocks_are_templates_and_other_blocks_go_as_they_are_without_marks() -> None:
    prompts = Prompts(AJob(prompt=BLOCKS), ("how", "q"))
    assert (
        prompts.build(one(how="é", q='"'))
        == (
            '"system":[{"type":"text","text":"Be é."},{"type":"text","text":"Always."}],"messages":[{"role":"user",'
            '"content":[{"type":"image","source":{"type":"url","url":"<<u>>"}},{"type":"text","text":"Q: \\""}]},'
            '{"role":"assistant","content":[{"type":"text","text":"A.","citations":[{"type":"t"}]},'
            '{"type":"tool_use","id":"i"}]},{"role":"user","content":"\\""}]'
        ).encode()
    )
    assert prompts.needed == needed_columns(AJob(prompt=BLOCKS)) == frozenset({"how", "q"})


def test_a_block_is_named_in_what_is_wrong_with_its_text() -> None:
    assert complaints(AJob(prompt=BLOCKS), "how")[0].startswith("prompt.messages.0.content.1.text: names <<q>>, but")
    broken = APrompt(system=(ABlock("a"), ABlock("<<")), user="b")
    assert complaints(AJob(prompt=broken))[0].startswith("prompt.system.1.text: line 1 of the text is no template")
    blank = APrompt(system=(ABlock("<# a #>"),), user="b")
    assert complaints(AJob(prompt=blank))[0].startswith("prompt.system.0.text: comes out empty")
    with pytest.raises(RowError, match=r"row r1: prompt\.system\.0\.text comes out empty"):
        Prompts(AJob(prompt=APrompt(system=(ABlock("<<x>>"),), user="b")), ("x",)).build(one(x=None))


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        (None, "Reply {{in}} <<JSON>>."),
        ("S", "S\n\nReply {{in}} <<JSON>>."),
        ("<<s>>", "v\n\nReply {{in}} <<JSON>>."),
        ("<# nothing #>", "Reply {{in}} <<JSON>>."),
        ("<<none>>", "Reply {{in}} <<JSON>>."),
        (
            (ABlock("S"),),
            [{"type": "text", "text": "S"}, {"type": "text", "text": "\n\nReply {{in}} <<JSON>>."}],
        ),
    ],
)
def test_instructions_end_the_system_prompt_and_are_no_template(system: str | None, expected: object) -> None:
    job = AJob(prompt=APrompt(user="u", system=system))
    prompts = Prompts(job, ("s", "none"), instructions="Reply {{in}} <<JSON>>.")
    assert prompts.messages(one(s="v", none=None))["system"] == expected


def test_a_system_text_that_comes_out_empty_is_left_out() -> None:
    prompts = Prompts(AJob(prompt=APrompt(user="x", system="<<s>>")), ("s",))
    assert prompts.messages(one(s=None)) == {"messages": [{"role": "user", "content": "x"}]}
    assert prompts.messages(one(s="y")) == {"system": "y", "messages": [{"role": "user", "content": "x"}]}


def test_equal_rows_give_equal_bytes() -> None:
    prompts = Prompts(asking("<<DATASET>> <<rows|tojson>>"), ("b", "a"))
    assert prompts.build(one(a=1, b=2.5)) == prompts.build(one(a=1, b=2.5))
    assert prompts.messages(one(a=1, b=2))["messages"][0]["content"].startswith("b,a\n2,1 ")


def test_a_set_of_columns_is_taken_in_the_order_of_its_names() -> None:
    names = sorted(f"c{index}" for index in range(20))
    (turn,) = Prompts(asking("<<DATASET>>"), frozenset(names)).messages(one(**dict.fromkeys(names, 1)))["messages"]
    assert turn["content"].startswith(",".join(names))


@pytest.mark.parametrize("blank", [None, "", " \n\t", "\u2003"])
def test_a_turn_that_comes_out_blank_fails_the_row(blank: str | None) -> None:
    with pytest.raises(
        RowError, match=r"row r1: prompt\.user comes out empty, and the API refuses empty text"
    ) as failed:
        Prompts(asking("<<x>>"), ("x",)).build(one(x=blank))
    assert failed.value.error_type == "template"


@pytest.mark.parametrize("user", ["<<x>>", "<<x|upper>>", "<<DATASET>>"])
def test_half_a_surrogate_pair_fails_the_row(user: str) -> None:
    with pytest.raises(RowError, match=r"row r1: prompt\.user: .*surrogate") as failed:
        Prompts(asking(user), ("x",)).build(one(x="SECRET \ud83d"))
    assert failed.value.error_type == "template"
    assert "SECRET" not in str(failed.value)


def test_a_prompt_beyond_what_the_api_takes_fails_the_row() -> None:
    with pytest.raises(RowError, match="row r1: the prompt has 34000041 bytes, the API's limit is 33554432") as failed:
        Prompts(asking("<<x>>"), ("x",)).build(one(x="y" * 34_000_000))
    assert failed.value.error_type == "too_long"
    with pytest.raises(RowError, match=r"row r1: prompt\.user: grows beyond") as failed:
        Prompts(asking("<% for i in range(100000) %><<x>><% endfor %>"), ("x",)).build(one(x="y" * 999))
    assert failed.value.error_type == "too_long"


def test_a_megabyte_of_hostile_text_is_inserted_as_it_is() -> None:
    hostile = "<<OTHER>> {{x}} <% for %> \x00 " * 40_000
    built = Prompts(asking("<<x>>"), ("x", "OTHER")).build(one(x=hostile, OTHER="o"))
    assert orjson.loads(b"{" + built + b"}")["messages"][0]["content"] == hostile


def test_a_row_error_names_the_row_the_place_and_the_line() -> None:
    job = AJob(prompt=APrompt(messages=(ATurn("user", "a\n<< n / 0 >>"),)))
    with pytest.raises(RowError, match=r"^row r1: prompt\.messages\.0\.content: line 2: division by zero$"):
        Prompts(job, ("n",)).build(one(n=1))
    with pytest.raises(RowError, match=r"^row g1: prompt\.user: column n varies within the group"):
        Prompts(asking("<<n>>"), ("n",)).build(group({"n": 1}, {"n": 2}))


def test_all_names_that_nothing_provides_are_complained_about_at_once() -> None:
    prompt = APrompt(
        user="<<DATSET>> <<titel>>",
        system='<<row["Unit Prise"]>> <<params.regoin>>',
        messages=(ATurn("user", "<<q>>"),),
        dataset=ADataset(columns=("ts", "title")),
    )
    assert complaints(AJob(prompt=prompt, params={"region": "eu"}), "title", "Unit Price", "DATASET") == [
        "prompt.system: names <<params.regoin>>, but params has region",
        (
            'prompt.system: names <<row["Unit Prise"]>>, but the source has title, Unit Price, DATASET; '
            'did you mean <<row["Unit Price"]>>?'
        ),
        "prompt.user: names <<DATSET>>, but the source has title, Unit Price, DATASET; did you mean <<DATASET>>?",
        "prompt.user: names <<titel>>, but the source has title, Unit Price, DATASET; did you mean <<title>>?",
        (
            "prompt.messages.0.content: names <<q>>, but the source has title, Unit Price, DATASET; "
            "if << is meant as text, choose other prompt.delimiters or use <% raw %>"
        ),
        "prompt.dataset.columns: names ts, but the source has title, Unit Price, DATASET",
    ]


def test_a_built_in_name_is_among_the_nearest() -> None:
    assert complaints(asking("<<DATSET>>"), "a") == [
        "prompt.user: names <<DATSET>>, but the source has a; did you mean <<DATASET>>?"
    ]


def test_columns_are_listed_in_the_order_of_the_source_and_the_first_eight_of_many() -> None:
    assert complaints(asking("<<nmae>> <<nota>>"), "id", "zip", "name", "note") == [
        "prompt.user: names <<nmae>>, but the source has id, zip, name, note; did you mean <<name>>?",
        "prompt.user: names <<nota>>, but the source has id, zip, name, note; did you mean <<note>>?",
    ]
    (message,) = complaints(asking("<<c9x>>"), *(f"c{i}" for i in range(20)))
    assert message == (
        "prompt.user: names <<c9x>>, but the source has c0, c1, c2, c3, c4, c5, c6, c7 and 12 more; "
        "did you mean <<c9>>?"
    )


def test_the_date_of_a_run_without_a_date_is_a_broken_job() -> None:
    (message,) = complaints(asking("<<run_date>>"), "a")
    assert message == (
        "prompt.user: names <<run_date>>, but this run has no date; start it with --date, "
        "or name ${date} in source.path or output.path"
    )
    dated = Prompts(asking("<<run_date>>", run_date=date(2026, 11, 22)), ("a",))
    assert dated.build(one(a=1)) == b'"messages":[{"role":"user","content":"2026-11-22"}]'
    assert Prompts(asking("<<run_date>>"), ("run_date",)).messages(one(run_date="mine"))


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("<< x", "line 1 of the text is no template"),
        ("a \ud83d b", "half of a surrogate pair was found, which no request can carry"),
        (" \n<# only this #>", "comes out empty, and the API refuses empty text"),
    ],
)
def test_a_text_that_can_never_be_sent_is_a_broken_job(user: str, message: str) -> None:
    assert complaints(asking(user), "x")[0].startswith(f"prompt.user: {message}")


def test_delimiters_are_complained_about_at_their_place() -> None:
    assert complaints(asking("x", delimiters=("<%", "%>")))[0].startswith(
        "prompt.delimiters: <% %> are those of blocks"
    )


@pytest.mark.parametrize(
    ("job", "needed", "before"),
    [
        (asking("text"), set(), set()),
        (asking("<<a>> <<row['b']>>"), {"a", "b"}, {"a", "b", "row"}),
        (asking("<<rows>>"), None, None),
        (asking("<<row>>"), None, None),
        (asking("<<row_count>> <<params.x>>", params={"x": 1}), set(), {"row_count", "params"}),
        (asking("<<DATASET>>"), {"a", "b", "c"}, None),
        (asking("<<DATASET>> <<c>>", dataset=ADataset(columns=("a",))), {"a", "c"}, {"a", "c", "DATASET"}),
        (AJob(prompt=APrompt(user="<<a>>", system="<<b>>")), {"a", "b"}, {"a", "b"}),
        (AJob(prompt=APrompt(user="<<a>>", system="<<rows>>")), None, None),
    ],
)
def test_only_columns_that_are_read_are_needed(job: AJob, needed: set[str] | None, before: set[str] | None) -> None:
    assert Prompts(job, ("a", "b", "c")).needed == needed
    assert needed_columns(job) == before


def test_what_is_needed_before_the_source_is_open_covers_columns_with_built_in_names() -> None:
    before = needed_columns(asking("<<DATASET>> <<row_count>>", dataset=ADataset(columns=("a",))))
    after = Prompts(asking("<<DATASET>> <<row_count>>"), ("DATASET", "row_count")).needed
    assert before is not None
    assert after is not None
    assert after <= before


def test_needed_columns_of_a_broken_template_is_a_broken_job() -> None:
    with pytest.raises(JobError):
        needed_columns(asking("<< x"))


@pytest.mark.parametrize(("prompt", "tokens"), [(b"", 0), (b"x", 1), (b"x" * 35, 10), (("ö" * 35).encode(), 10)])
def test_tokens_are_estimated_from_characters(prompt: bytes, tokens: int) -> None:
    assert estimated_tokens(prompt) == tokens


ODD = ("Betrag €", "Unit Price", "E-Mail", "Größe (cm)", "Preis/Stück", "2024", "class", 'Zoll "')


@pytest.mark.parametrize("name", ODD)
def test_every_column_can_be_named_as_an_item_of_its_row(name: str) -> None:
    shown = name.replace('"', '\\"')
    built = Prompts(asking(f'a <<row["{shown}"]>> b'), ODD).messages(one(**dict.fromkeys(ODD, "x")))
    assert built["messages"][0]["content"] == "a x b"


@pytest.mark.parametrize("name", ["Betrag €", "Unit Price", "Artikel-Nr.", "Preis in €"])
def test_a_column_that_is_no_word_is_shown_as_it_is_named(name: str) -> None:
    [said] = complaints(asking(f"one\n<<n>> <<{name}>>"), name, "n")
    assert "line 2 of the text is no template: " in said
    assert f'; a column that is called {name} is written <<row["{name}"]>>; if << or <% is meant' in said


def test_what_is_no_template_and_no_name_either_is_not_shown_as_a_column() -> None:
    for user in ("<<name | >>", "<<name + 'x>>", "<<rows[0 >>"):
        [said] = complaints(asking(user), "name")
        assert "a column that is called" not in said


@pytest.mark.parametrize("name", ["E-Mail", "Größe (cm)", "Preis/Stück", "2024"])
def test_a_column_that_reads_as_an_expression_is_said_to_be_one(name: str) -> None:
    assert complaints(asking(f"<<{name}>>"), name) == [
        f'prompt.user: <<{name}>> is read as an expression; the column {name} is written <<row["{name}"]>>'
    ]


def test_an_expression_over_columns_is_none_of_the_column_that_is_spelled_alike() -> None:
    columns = ("a", "b", "a-b")
    built = Prompts(asking("<<a-b>>"), columns).messages(one(**dict(zip(columns, (5, 3, 9), strict=True))))
    assert built["messages"][0]["content"] == "2"


@pytest.mark.parametrize(
    ("header", "separator"), [("name;size", "';'"), ("name\tsize", '"\\t"'), ("name|size", "'|'"), ("name,size", "','")]
)
def test_a_header_of_one_column_shows_the_separator_to_set(header: str, separator: str) -> None:
    [said] = complaints(asking("<<name>>"), header)
    assert said.endswith(f"; its header was read as one column: set source.csv.separator to {separator}")

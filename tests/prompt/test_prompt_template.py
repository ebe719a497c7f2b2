from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_jobs import group, one

from pipeline.prompt.language import Delimiters, Language
from pipeline.prompt.names import Names
from pipeline.prompt.template import BrokenTemplateError, Reads, RenderError, Template, TooLongError
from pipeline.records import Row

LANGUAGE = Language(Delimiters())


def rendered(source: str, row: Row, *, joined: bool = True, language: Language = LANGUAGE) -> str:
    names = Names(
        columns=tuple(row.rows[0]),
        params={"region": "eu", "n": 3},
        run_date=date(2026, 11, 22),
        dataset_format="csv",
        dataset_columns=tuple(row.rows[0]),
        delimiters=language.delimiters,
    )
    return Template(language, source, joined=joined).bind(names.provider, names.item)(row)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain {{x}} {% y %} ${z} {# c #}", "plain {{x}} {% y %} ${z} {# c #}"),
        ("<<title>>", "Harbour"),
        ("<< title >>!", "Harbour!"),
        ('<<row["Unit Price"]>> <<row.title>>', "1.5 Harbour"),
        ("<< title | upper >>", "HARBOUR"),
        ("<< title | truncate(5, leeway=0) >>", "Ha..."),
        ("<% if paid %>paid<% else %>open<% endif %>", "paid"),
        ("a<# left out #>b", "ab"),
        ("<% raw %><<title>><% endraw %>", "<<title>>"),
        ("<<params.region>> <<params['n'] + 1>>", "eu 4"),
        ("<<run_date>>", "2026-11-22"),
        ("<<row_count>>", "1"),
        ("<% for r in rows %><<r['title']>>;<% endfor %>", "Harbour;"),
        ("<% for row in rows %><<row.title>>;<% endfor %>", "Harbour;"),
        ("<% for i in range(3) %><<i>><% endfor %>", "012"),
        ("<% set ns = namespace(n=1) %><% set ns.n = 2 %><<ns.n>>", "2"),
        ("<<DATASET>>", "title,Unit Price,paid,note,items\nHarbour,1.5,true,,9"),
        ("<<rows | tojson>>", '[{"title":"Harbour","Unit Price":1.5,"paid":true,"note":null,"items":9}]'),
        ("<<[1, '<b>'] | tojson(indent=2)>>", '[\n  1,\n  "<b>"\n]'),
        ("<<paid>> <<not paid>>", "true false"),
        ("<<row.items>> <<row['items']>>", "9 9"),
        ("line\n", "line\n"),
        ("<<title>>\n", "Harbour\n"),
    ],
)
def test_a_template_renders_to(source: str, text: str) -> None:
    row = Row("r1", [{"title": "Harbour", "Unit Price": 1.5, "paid": True, "note": None, "items": 9}])
    assert rendered(source, row) == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("[<<x>>]", "[]"),
        ("[<<x | upper>>]", "[]"),
        ("[<<x | truncate(3) | title>>]", "[]"),
        ("[<<x | round(2)>>]", "[]"),
        ("[<<x | int>> <<x | float>>]", "[ ]"),
        ("[<<x | int(7)>>]", "[7]"),
        ("[<<x | default('n/a')>>]", "[n/a]"),
        ("[<<'a' ~ x ~ 1.5 ~ true>>]", "[a1.5true]"),
        ("[<<[x, 'a', true] | join('-')>>]", "[-a-true]"),
        ("[<<rows | map(attribute='x') | join>>]", "[]"),
        ("[<<rows | join(',', attribute='x')>>]", "[]"),
        ("[<% if x is none %>null<% endif %>]", "[null]"),
    ],
)
def test_null_is_empty_wherever_it_comes_out(source: str, text: str) -> None:
    assert rendered(source, one(x=None)) == text


@pytest.mark.parametrize(
    ("delimiters", "source"),
    [
        (("{{", "}}"), "{{x}}{% if x %}y{% endif %}{# z #} << <% ${"),
        (("[[", "]]"), "[[x]][% if x %]y[% endif %][# z #] << <% ${"),
        (("$(", ")"), "$(x)$% if x %)y$% endif %)$# z #) << <% ${"),
        (("«", "»"), "«x»«% if x %»y«% endif %»«# z #» << <% ${"),
        (("@@", "@@"), "@@x@@@% if x %@y@% endif %@@# z #@ << <% ${"),
    ],
)
def test_blocks_and_comments_follow_the_delimiters(delimiters: tuple[str, str], source: str) -> None:
    assert rendered(source, one(x="v"), language=Language(Delimiters(*delimiters))) == "vy << <% ${"


@pytest.mark.parametrize("pair", [("<%", "%>"), ("<#", "#>"), ("", ">>"), (" ", " ")])
def test_delimiters_that_leave_no_others_are_refused(pair: tuple[str, str]) -> None:
    assert "would be right" in str(Delimiters(*pair).trouble())
    assert Delimiters().trouble() is None


HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["<<other>>", "<% for x in y %>", "<# x", "{{other}}", "%s {0}", "\\1 \\g<0>", "<<" * 9, "\n"]),
)


@settings(deadline=None)
@given(value=HOSTILE, joined=st.booleans())
def test_rendering_is_one_pass(value: str, joined: bool) -> None:
    assert rendered("a <<x>> b <<other>>", one(x=value, other="o"), joined=joined) == f"a {value} b o"
    assert rendered("a << x ~ '' >>", one(x=value), joined=joined) == f"a {value}"


PARTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<")),
    st.sampled_from(["<<a>>", "<< b >>", '<<row["a"]>>', "<<row.b>>", "<<row_count>>", "<<DATASET>>", "<<run_date>>"]),
    st.sampled_from(
        ["<<- a >>", "<< a ->>", "<<params>>", "<<rows>>", "<<row>>", "<# c #>", "<% raw %><<x>><% endraw %>"]
    ),
)
CELLS = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | HOSTILE | st.dates() | st.lists(st.integers(0, 9))
)


@settings(deadline=None)
@given(
    source=st.lists(PARTS, max_size=6).map("".join),
    rows=st.lists(st.fixed_dictionaries({"a": CELLS, "b": CELLS}), min_size=1, max_size=2),
)
def test_a_joined_template_renders_as_jinja_would(source: str, rows: list[Mapping[str, Any]]) -> None:
    def outcome(*, joined: bool) -> str:
        try:
            return rendered(source, Row("r", rows), joined=joined)
        except RenderError as error:
            return str(error).rpartition(": ")[2]  # the short way names the placeholder, Jinja2 the line

    assert outcome(joined=True) == outcome(joined=False)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cout << x;", "line 1 of the text is no template: "),
        ("a\nb << 'x", "line 2 of the text is no template: "),
        ("cat <<EOF > f", "choose other prompt.delimiters or put it between <% raw %> and <% endraw %>"),
        ("a <# b", "line 1 of the text is no template: missing end of comment tag"),
        ("<% if x %>", "line 1 of the text is no template: "),
        ("<< x | uper >>", "line 1 of the text: there is no filter uper; did you mean upper?"),
        ("<< x | random >>", "line 1 of the text: there is no filter random"),
        ("<% if x is odds %><% endif %>", "line 1 of the text: there is no test odds; did you mean odd?"),
        ("a\n<% include 'b' %>", "line 2 of the text: a prompt cannot include or import"),
        ("<% extends 'b' %>", "line 1 of the text: a prompt cannot include or import"),
    ],
)
def test_what_is_no_template_is_said_with_its_line(source: str, message: str) -> None:
    with pytest.raises(BrokenTemplateError) as broken:
        Template(LANGUAGE, source)
    assert message in "; ".join(broken.value.messages)


def test_everything_wrong_with_a_template_is_said_at_once() -> None:
    with pytest.raises(BrokenTemplateError) as broken:
        Template(LANGUAGE, "<< x | uper >>\n<< y | lowr >>")
    assert len(broken.value.messages) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("<<1 / zero>>", "line 1: division by zero"),
        ("\n<<text + zero>>", 'line 2: can only concatenate str (not "int") to str'),
        ("<<nothing + 1>>", "line 1: unsupported operand type(s) for +: 'NoneType' and 'int'"),
        ("<<text.nope>>", "line 1: 'str object' has no attribute 'nope'"),
        ("<<row[text]>>", "line 1: an item is asked for by a name that is not there"),
        ("<<text.__class__>>", "line 1: access to attribute '__class__' of 'str' object is unsafe"),
        ("<<rows.append(1)>>", "line 1: access to attribute 'append' of 'list' object is unsafe"),
        ("<<text.index('q')>>", "line 1: a value does not fit the expression (ValueError)"),
        ("<<data>>", "data: 3 bytes of binary data have no text form"),
        ("<<data | upper>>", "line 1: 3 bytes of binary data have no text form"),
        ("<<DATASET>>", "DATASET: column data: 3 bytes of binary data have no text form; prompt.dataset.columns can"),
        ("<<DATASET | trim>>", "column data: 3 bytes of binary data have no text form; prompt.dataset.columns can"),
        ("<<rows | map('upper')>>", "line 1: a value of type generator has no text form; a list"),
        ("<<row.keys>>", "line 1: a value of type builtin_function_or_method has no text form"),
        ("<<range(1000000)>>", "line 1: range too big"),
        ("<<'x' * 10**9>>", "line 1: a repetition longer than"),
        ("<<[1] * 10**9>>", "line 1: a repetition longer than"),
        ("<<10 ** (10 ** 5)>>", "line 1: a power of more than 4096 bits"),
    ],
)
def test_what_goes_wrong_over_a_row_is_said_without_its_text(source: str, message: str) -> None:
    with pytest.raises(RenderError) as failed:
        rendered(source, one(text="SECRET", zero=0, nothing=None, data=b"\x00\x01\x02"))
    assert str(failed.value).startswith(message)
    assert "SECRET" not in str(failed.value)


def test_a_runaway_template_stops_at_what_the_api_takes() -> None:
    with pytest.raises(TooLongError, match="grows beyond 33554432 characters"):
        rendered("<% for i in range(100000) %><<x>><% endfor %>", one(x="y" * 1_000))


VARIES = "column ts varies within the group: loop over rows, use DATASET, or name a column that is constant"
READINGS = group({"sensor": "a", "ts": 1, "v": None}, {"sensor": "a", "ts": 2, "v": None})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("<<sensor>> <<row_count>>", "a 2"),
        ("<<sensor|upper>> <<row.sensor>> <<row['sensor']>>", "A a a"),
        ("[<<v>>]", "[]"),
        ("<% for r in rows %><<r.ts>>,<% endfor %>", "1,2,"),
        ("<<rows | map(attribute='ts') | sum>>", "3"),
        ("<<DATASET>>", "sensor,ts,v\na,1,\na,2,"),
        ("<% if row_count == 1 %><<ts>><% endif %>one", "one"),
        ("<<ts | default('many')>> <<ts is defined>>", "many false"),
    ],
)
def test_in_a_group_what_is_constant_may_be_named(source: str, text: str) -> None:
    assert rendered(source, READINGS) == text


@pytest.mark.parametrize(
    "source", ["<<ts>>", "<<row.ts>>", "<<ts + 1>>", "<<ts|upper>>", "<% if ts %><% endif %>", "<<row|tojson>>"]
)
def test_in_a_group_what_varies_is_the_rows_error(source: str) -> None:
    with pytest.raises(RenderError, match="column ts varies within the group"):
        rendered(source, READINGS)


def test_not_a_number_is_constant_when_it_is_everywhere() -> None:
    nan = float("nan")
    assert rendered("<<x>>", group({"x": nan}, {"x": float("nan")})) == "NaN"
    with pytest.raises(RenderError, match="column x varies"):
        rendered("<<x>>", group({"x": nan}, {"x": 1.0}))


@pytest.mark.parametrize("name", ["rows", "row", "row_count", "params", "run_date", "DATASET", "range"])
@pytest.mark.parametrize("joined", [True, False])
def test_a_column_comes_before_a_built_in_name(name: str, joined: bool) -> None:
    assert rendered(f"<<{name}>>", Row("r", [{name: "mine"}]), joined=joined) == "mine"


@pytest.mark.parametrize("joined", [True, False])
def test_an_item_of_a_column_called_row_is_its_own(joined: bool) -> None:
    assert rendered("<<row['x']>>", Row("r", [{"row": {"x": "inner"}, "x": "outer"}]), joined=joined) == "inner"


def reads(*names: str, row: tuple[str, ...] = (), whole_row: bool = False, params: tuple[str, ...] = ()) -> Reads:
    return Reads(frozenset(names), frozenset(row), whole_row=whole_row, params=frozenset(params))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("text", reads()),
        ("<<a>> <<row.b>> <<row['c d']>>", reads("a", "row", row=("b", "c d"))),
        ("<<row['c d']|upper>>", reads("row", row=("c d",))),
        ("<% for k, v in row.items() %><<k>><% endfor %>", reads("row", whole_row=True)),
        ("<<row[x]>>", reads("row", "x", whole_row=True)),
        ("<% for row in rows %><<row.b>><% endfor %>", reads("rows", whole_row=True)),
        ("<% set a = b %><<a>><<params.x>>", reads("b", "params", params=("x",))),
        ("<% for i in range(2) %><<loop.index>><<c>><% endfor %>", reads("range", "c")),
        ("<% macro m(x) %><<x>><<y>><% endmacro %><<m(z)>>", reads("y", "z")),
    ],
)
def test_what_a_template_reads_is_known_before_any_row(source: str, expected: Reads) -> None:
    assert Template(LANGUAGE, source).reads == expected


def test_equal_rows_make_equal_prompts() -> None:
    source = "<< rows | tojson >> << row | dictsort >> << ['b','a'] | unique | list >>"
    make: Callable[[], str] = lambda: rendered(source, one(b=1, a=[2]))  # noqa: E731 - said twice below
    assert make() == make()

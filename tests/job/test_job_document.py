"""Reading YAML: hostile files, places, and what YAML 1.1 would have done."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.job.document import MAX_ALIASES, MAX_BYTES, MAX_DEPTH, UnreadableError, decode, parse
from pipeline.job.nodes import Mapping, Mark, Node, Places, Scalar, Sequence, plain_data


def read(text: str) -> tuple[Node | None, list[str]]:
    complaints: list[str] = []
    node = parse(
        text, lambda mark, path, words: complaints.append(f"{mark.line}:{mark.column} {'.'.join(path)}: {words}")
    )
    return node, complaints


def texts(text: str) -> object:
    """Read a sound document to dicts and lists of texts."""
    node, complaints = read(text)
    assert node is not None
    assert complaints == []

    def bare(value: object) -> object:
        if isinstance(value, dict):
            return {key: bare(item) for key, item in value.items()}
        return [bare(item) for item in value] if isinstance(value, list) else getattr(value, "text", value)

    return bare(plain_data(node))


def refused(text: str) -> UnreadableError:
    with pytest.raises(UnreadableError) as caught:
        read(text)
    return caught.value


def test_scalars_keep_their_characters() -> None:
    assert texts("a: 007\nb: 'x'\nc: |\n  one\n  two\nd: [2023-06-01, no]\n") == {
        "a": "007",
        "b": "x",
        "c": "one\ntwo\n",
        "d": ["2023-06-01", "no"],
    }


def test_equal_keys_are_complained_about_with_both_places() -> None:
    _, complaints = read('a: 1\nb:\n  "c": 1\n  c: 2\na: 3\n')
    assert complaints == [
        "4:3 b.c: the key stands here twice, first in line 3; keep one of them",
        "5:1 a: the key stands here twice, first in line 1; keep one of them",
    ]


@pytest.mark.parametrize(
    "tagged", ["!!str 7", "!x a", "! a", "!!python/object:os.system a", "!!binary aGk=", "!!set {a}"]
)
def test_tags_are_refused(tagged: str) -> None:
    _, complaints = read(f"a: {tagged}\n")
    assert len(complaints) == 1
    assert "tags are not read" in complaints[0]


def test_a_merge_key_is_refused_and_says_what_to_write() -> None:
    _, complaints = read("base: &base {x: 1}\nb:\n  <<: *base\n  y: 2\n")
    assert len(complaints) == 1
    assert complaints[0].startswith("3:3 b: << is the merge key of YAML 1.1")
    assert "quote this string, or use a | block" in complaints[0]


def test_an_alias_stands_for_its_anchor() -> None:
    assert texts("a: &x {k: [1]}\nb: *x\n") == {"a": {"k": ["1"]}, "b": {"k": ["1"]}}


def test_a_billion_laughs_are_refused() -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert "more than 100,000 values" in refused("\n".join(lines)).message


def test_a_long_text_behind_many_aliases_is_refused() -> None:
    long = "x" * 400_000
    assert "more than 100,000 values" in refused(f"a: &a {long}\nb: [{', '.join(['*a'] * 500)}]").message


def test_a_file_of_very_many_values_is_refused_before_it_is_walked() -> None:
    assert "more than 100,000 values" in refused(f"a: [{'x,' * 200_000}]").message


def test_many_aliases_are_refused() -> None:
    assert "alias number" in refused(f"a: &a 1\nb: [{', '.join(['*a'] * (MAX_ALIASES + 1))}]").message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 5_000,
        "- " * 5_000,
        "\n".join(" " * n + "a:" for n in range(MAX_DEPTH + 2)),
        f"a: &a {'[' * 32}{']' * 32}\nb: {'[' * 32}*a{']' * 32}\n",
    ],
)
def test_deep_nesting_is_refused_also_by_alias(text: str) -> None:
    assert f"more than {MAX_DEPTH} deep" in refused(text).message


def test_an_alias_inside_of_its_anchor_is_complained_about() -> None:
    _, complaints = read("a: &a [1, *a]\n")
    assert complaints == ["1:11 a.1: *a stands inside of &a, so it would never end"]


def test_an_alias_without_anchor_is_complained_about_with_the_hint_to_quote() -> None:
    _, complaints = read("a: *bold\n")
    assert complaints == [
        "1:4 a: *bold names no anchor, there is no &bold above; if it is text, quote this string, or use a | block"
    ]


def test_keys_that_are_no_text_are_complained_about() -> None:
    _, complaints = read("? [a, b]\n: 1\n? {c: d}\n: 2\n~: 3\nok: 4\n")
    assert [complaint.partition(";")[0] for complaint in complaints] == [
        "1:3 : a key must be text, found a list of 2 items",
        "3:3 : a key must be text, found a mapping with c",
        "5:1 : a key must be text, found ~, which is YAML's word for nothing",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path: [../data/${date}/*.csv]\n", 1),
        ("user: Rate this: <<text>>\n", 1),
        ("a: 1\npath: *.csv\n", 2),
        ("a: 1\nuser: {{ x }} y\n", 2),
        ("a: {b: ${c}}\n", 1),
    ],
)
def test_a_parser_error_near_a_template_sign_says_to_quote(text: str, line: int) -> None:
    error = refused(text)
    assert error.message.endswith("quote this string, or use a | block")
    assert error.mark.line == line


def test_a_parser_error_elsewhere_says_nothing_of_blocks() -> None:
    error = refused("a: b: c\n")
    assert error.message == (
        "this is not YAML: mapping values are not allowed here; a second `: ` stands in this line; put a text that "
        "holds it in quotes, and a key on a line of its own"
    )
    assert error.mark == Mark(1, 5)


def test_tabs_are_named() -> None:
    error = refused("a:\n\tb: 1\n")
    assert "indent with spaces, not with tabs" in error.message
    assert error.mark == Mark(2, 1)


def test_a_tab_near_a_template_sign_is_still_but_a_tab() -> None:
    assert refused('prompt:\n\tuser: "<<a>>"\n').message == (
        "this is not YAML: a tab stands here; indent with spaces, not with tabs"
    )


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ('a: "C:\\data"\n', (1, 8), "write the text in single quotes, or each \\ as \\\\"),
        ('a: "C:\\Users"\n', (1, 9), "write the text in single quotes, or each \\ as \\\\"),
        (
            "a: 1\n b: 2\n",
            (2, 3),
            "it is indented deeper than line 1, which has a value already; indent both alike",
        ),
        ("a:\n  b: 1\n   c: 2\n", (3, 5), "it is indented deeper than line 2, which has a value already"),
        (
            "a:\n  b: 1\n c: 2\n",
            (3, 2),
            "by 1 blank, and what it stands in, from line 1 on, by 0 blanks: give all keys of one section the same",
        ),
        ("a:b\nc: 1\n", (1, 2), "a colon needs a blank behind it; write a: b"),
        ('a: 1\nb: "c\n\nd: 1\n', (2, 4), "the quote that opens here is never closed"),
        ("a: |\nsome words\nb: 1\n", (2, 1), "a text that goes on is indented deeper than its key"),
        ("a: @b\n", (1, 4), "a text that starts with @ needs quotes"),
    ],
)
def test_a_mistake_that_people_make_is_said_with_its_place_and_what_to_write(
    text: str, place: tuple[int, int], words: str
) -> None:
    error = refused(text)
    assert error.mark == Mark(*place)
    assert words in error.message


@pytest.mark.parametrize(
    "text",
    [
        '"\\UFFFFFFFF"',
        '"\\xZZ"',
        "%YAML 2.0\n---\na",
        f"%YAML 1.{'9' * 5000}\n---\na",
        "a: 'b",
        "@a",
        "`a`",
        "a: &\n",
        "\t",
    ],
)
def test_what_is_not_yaml_is_refused_as_such(text: str) -> None:
    assert refused(text).message.startswith("this is not YAML: ")


def test_a_second_document_is_refused_at_its_start() -> None:
    error = refused("a: 1\n---\nb: 2\n")
    assert error.message == "a second document starts here; a file holds one job"
    assert error.mark == Mark(2, 1)


def test_pairs_of_surrogates_are_joined_and_halves_complained_about() -> None:
    assert texts('a: "\\ud83d\\ude00 \ufffd"') == {"a": "😀 \ufffd"}
    _, complaints = read('a: "\\ud83d"')
    assert len(complaints) == 1
    assert "half of a surrogate pair" in complaints[0]


@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufeff", "---\n...\n"])
def test_a_document_of_nothing_is_nothing(text: str) -> None:
    node, complaints = read(decode(text.encode()))
    assert node is None or (isinstance(node, Scalar) and node.is_null)
    assert complaints == []


@pytest.mark.parametrize(
    ("raw", "words", "mark"),
    [
        ("a: ü\nb: é".encode("latin-1"), "the byte 0xfc is not UTF-8", Mark(1, 4)),
        ("a: ü\r\nb: ".encode() + b"\xff", "the byte 0xff is not UTF-8", Mark(2, 4)),
        ("a: 1".encode("utf-16"), "UTF-16", Mark(1, 1)),
        ("a: 1".encode("utf-32-be"), "is not allowed", Mark(1, 1)),
        (b"a: x\n  \x00", "the character U+0000 is not allowed", Mark(2, 3)),
        (b"a: \x1b[31m", "U+001B", Mark(1, 4)),
        (b"a" * (MAX_BYTES + 1), "larger than", Mark(1, 1)),
    ],
)
def test_bytes_that_are_no_utf_8_text_are_refused_at_their_place(raw: bytes, words: str, mark: Mark) -> None:
    with pytest.raises(UnreadableError, match=words.replace("+", r"\+")) as caught:
        decode(raw)
    assert caught.value.mark == mark


def test_a_byte_order_mark_and_windows_line_ends_change_nothing() -> None:
    plain = "a: |\n  one\n  two\nb: 1\n"
    assert texts(decode(b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode())) == texts(plain)


def test_text_stands_at_its_first_character_and_a_section_at_its_key() -> None:
    node, _ = read("a: x\nb:\n  c: [1, two]\n  d.e:\n    f: y\n")
    places = Places(node)
    assert places.at("a") == Mark(1, 4)
    assert places.at("a", key=True) == Mark(1, 1)
    assert places.at("b") == Mark(2, 1)
    assert places.at("b.c.1") == Mark(3, 10)
    assert places.at("b.d.e.f") == Mark(5, 8)
    assert places.at("b.c.7.x") == Mark(3, 3)
    assert places.at("nowhere.at.all") == Mark(1, 1)


plain_texts = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20)


@given(st.recursive(plain_texts, lambda inner: st.lists(inner) | st.dictionaries(plain_texts, inner), max_leaves=20))
def test_what_is_written_as_json_is_read_back(value: object) -> None:
    assert texts(json.dumps({"v": value})) == {"v": value}


@given(st.text(st.sampled_from("ab:-?&*!|>'\"%@`{}[],#~<$ \n\t\\u0") | st.characters(), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        node, _ = read(decode(text.encode("utf-8", "surrogatepass")))
    except UnreadableError as error:
        node, said = None, error.message
    else:
        said = ""
    assert "\n" not in said
    assert node is None or isinstance(node, Mapping | Sequence | Scalar)

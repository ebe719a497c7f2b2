"""The contact sheet: small pictures of some rows of each status, safe to pass on, within a bound."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from desk import Desk
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from test_report_costs_page import HOSTILE
from test_report_run_page import END, Night, answered, failed, key

from pipeline.cli.report import report_command
from pipeline.errors import RowError
from pipeline.job import Overrides, load
from pipeline.prompt.pictures import Shelf
from pipeline.prompt.pictures.cells import Inline, Url
from pipeline.prompt.pictures.reference import Settings, digest_of, written
from pipeline.prompt.pictures.shelf import Known
from pipeline.report.run import Album, Asked, Laid, Line, Pictured, Read, Stretch, Told, run_page
from pipeline.report.run.album import Shot, place_of
from pipeline.report.run.sheet import MOST_CARDS, MOST_OF_A_ROW, TROUBLED, Room, html_bytes, quotas
from pipeline.report.run.thumbs import SIDE, evenly, share, thumb
from pipeline.report.run.view import STATUSES

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 40), (30, 40, 220)
SCHEMA = """\
answer:
  schema:
    type: object
    properties: {caption: {type: string}, alt_text: {type: string}}
    required: [caption, alt_text]
"""


def jpeg(colour: tuple[int, int, int] = RED, size: tuple[int, int] = (400, 300), turned: int = 1, **more: Any) -> bytes:
    """A picture whose upper half is of this colour once it is upright, and whose lower half is white."""
    image = Image.new("RGB", size, "white")
    image.paste(colour, (0, 0, size[0], size[1] // 2))
    exif = image.getexif()
    if turned == 6:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = 6
    exif[0x010E] = "taken at home"
    out = BytesIO()
    image.save(out, "JPEG", quality=90, exif=exif, **more)
    return out.getvalue()


@dataclass
class CardSeen:
    status: str
    pictures: list[tuple[str, str]] = field(default_factory=list)
    """Source and alt."""
    text: list[str] = field(default_factory=list)

    def image(self, nth: int = 0) -> Image.Image:
        head, _, data = self.pictures[nth][0].partition(",")
        assert head == "data:image/jpeg;base64"
        return Image.open(BytesIO(base64.b64decode(data, validate=True)))


class SheetSeen(HTMLParser):
    """What a browser finds in a contact sheet: its cards, its choices, and every tag of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cards: list[CardSeen] = []
        self.choices: list[dict[str, str]] = []
        self.labelled = 0
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._in_card = self._in_label = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append((tag, found))
        if tag == "li" and found.get("class", "").startswith("is-"):
            self.cards.append(CardSeen(found["class"].removeprefix("is-")))
            self._in_card = True
        if tag == "img":
            self.cards[-1].pictures.append((found["src"], found["alt"]))
        if tag == "label":
            self._in_label = True
        if tag == "input":
            self.choices.append(found)
            self.labelled += self._in_label

    def handle_endtag(self, tag: str) -> None:
        self._in_card = self._in_card and tag != "li"
        self._in_label = self._in_label and tag != "label"

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())
            if self._in_card:
                self.cards[-1].text.append(data.strip())


def colour_of(image: Image.Image, x: float = 0.5, y: float = 0.25) -> tuple[int, ...]:
    found = image.convert("RGB").getpixel((int(image.width * x), int(image.height * y)))
    assert isinstance(found, tuple)
    return tuple(int(each) for each in found)


def near(found: tuple[int, ...], wanted: tuple[int, int, int]) -> bool:
    return all(abs(a - b) < 30 for a, b in zip(found, wanted, strict=True))


class Darkroom:
    """A run about pictures: a folder of them, what planning wrote down, the journal, and the page."""

    def __init__(self, folder: Path) -> None:
        self.night = Night(folder)
        self.pictures = folder / "pics"
        self.pictures.mkdir()
        self.shelf = folder / "pictures.sqlite"
        (folder / "job.yaml").write_text(
            "name: nightly\nsource: {path: rows.csv}\nprompt: {user: Look., images: [photo], image_root: pics}\n"
            "request: {model: claude-haiku-4-5}\noutput: {path: out.parquet}\nendpoint: simulator\n"
        )
        self.job = load(folder / "job.yaml", Overrides(), environ={})
        self.prompts: list[bytes | None] = []

    def put(self, name: str, content: bytes) -> bytes:
        """A picture in the folder, found by planning; its digest."""
        path = self.pictures / name
        path.write_bytes(content)
        digest = digest_of(content)
        self.know(Known(str(path), "", digest, "image", 400, 300, len(content)))
        return digest

    def know(self, known: Known) -> None:
        shelf = Shelf(self.shelf)
        shelf.put([known])
        shelf.close()

    def prompt(self, *digests: bytes) -> None:
        """What the row written last asks about."""
        blocks = b",".join(written("image", digest, Settings()) for digest in digests)
        self.prompts.append(b'"messages":[{"role":"user","content":[' + blocks + b"]}]" if digests else None)

    def row(self, number: int, name: str, content: bytes, **more: Any) -> None:
        self.night.row(number, *more.pop("calls", [answered()]), name=name, **more)
        self.prompt(self.put(name, content))

    def page(self, values: Callable[[bytes], dict[str, Any]] | None = None, text: str = "fine", **more: Any) -> str:
        asked = Asked(
            self.night.run.id, self.night.run.run_id, "nightly", "public", "job.yaml", "name: nightly", "asked", "host"
        )
        kept = pa.RecordBatch.from_pylist(self.night.inputs)
        album = Album(self.job, self.shelf)

        def lay() -> Iterator[Laid]:
            for at in range(0, len(self.prompts), 500):
                yield Laid(self.prompts[at : at + 500], kept.slice(at, 500))

        try:
            told = Told(
                asked,
                [Stretch(self.night.lines, kept)],
                lambda used: {each: Read(text, values(each) if values else {}) for each in used},
                Pictured(album, lay, **more),
            )
            return run_page(self.night.path, told, now=END)
        finally:
            album.close()


@pytest.fixture
def room(tmp_path: Path) -> Darkroom:
    return Darkroom(tmp_path)


def test_each_card_has_its_own_picture_upright_with_caption_alt_status_and_cost(room: Darkroom) -> None:
    for number, (name, colour, turned) in enumerate([("a.jpg", RED, 1), ("b.jpg", GREEN, 6), ("c.jpg", BLUE, 1)]):
        room.row(number, name, jpeg(colour, turned=turned), calls=[answered(nanos=62_000 + 1_000 * number)])
    seen = SheetSeen(
        room.page(lambda each: {"note": "first", "caption": f"Of {each[-1]}", "alt_text": f"Seen {each[-1]}"})
    )
    assert [card.pictures[0][1] for card in seen.cards] == ["Seen 0", "Seen 1", "Seen 2"]
    for number, (card, colour) in enumerate(zip(seen.cards, (RED, GREEN, BLUE), strict=True)):
        image = card.image()
        assert image.size == (SIDE, SIDE * 3 // 4)
        assert near(colour_of(image), colour)
        assert near(colour_of(image, y=0.75), (255, 255, 255))
        # What the file said beside its pixels stays at home.
        assert not image.getexif()
        assert {f"{'abc'[number]}.jpg", "✓ ok", f"$0.{62 + number:06}", f"Of {number}"} <= set(card.text)


def test_without_a_column_called_caption_it_is_the_first_text_and_without_columns_the_answer(room: Darkroom) -> None:
    room.row(1, "a.jpg", jpeg())
    (card,) = SheetSeen(room.page(lambda _: {"count": 3, "label": "a dog", "other": "x"})).cards
    assert card.text[card.text.index("$0.000001") + 1] == "a dog"
    assert card.pictures[0][1] == "a.jpg"
    (card,) = SheetSeen(room.page(text="It is a dog.")).cards
    assert card.text[card.text.index("$0.000001") + 1] == "It is a dog."


def test_every_status_is_there_in_words_and_can_be_chosen_by_keyboard(room: Darkroom) -> None:
    for number, status in enumerate(s for s in STATUSES if s != "pending"):
        trouble = {"error": ("timeout", "no answer came")} if status == "failed" else {}
        calls = [failed("timeout")] if status == "failed" else [answered()]
        room.row(number, f"{status}.jpg", jpeg(), status=status, calls=calls, **trouble)
    room.night.line(Line("later.jpg", "pending", key(99)))
    room.prompt(room.put("later.jpg", jpeg()))
    page = room.page()
    seen = SheetSeen(page)
    assert {card.status for card in seen.cards} == set(STATUSES)
    for card in seen.cards:
        assert any(word.endswith(f" {card.status}") for word in card.text), card
    (failure,) = [card for card in seen.cards if card.status == "failed"]
    assert "timeout: no answer came" in failure.text
    # Radio buttons of one name: the arrow keys go from one to the next; each with words of its own.
    assert [each["id"] for each in seen.choices] == ["sheet-all", *(f"sheet-{status}" for status in STATUSES)]
    assert {(each["type"], each["name"]) for each in seen.choices} == {("radio", "sheet")}
    assert [each["id"] for each in seen.choices if "checked" in each] == ["sheet-all"]
    assert seen.labelled == len(seen.choices)
    for status in STATUSES:
        assert f".sheet:has(#sheet-{status}:checked) li:not(.is-{status})" in page
    # A card is opened by its summary, which takes the focus by itself.
    assert sum(tag == "summary" for tag, _ in seen.tags) >= len(seen.cards)
    # Nothing is fetched and nothing runs.
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in page
    assert not {"script", "link", "iframe", "object", "embed", "base", "button"} & {tag for tag, _ in seen.tags}
    for tag, found in seen.tags:
        assert not any(name.startswith("on") for name in found), tag
        assert found.get("src", "data:").startswith("data:image/jpeg;base64,") or tag != "img"
        assert found.get("href", "#").startswith("#")


def test_where_all_rows_are_alike_there_is_nothing_to_choose(room: Darkroom) -> None:
    room.row(1, "a.jpg", jpeg())
    seen = SheetSeen(room.page())
    assert not seen.choices
    assert "All 1 row, in their order." in seen.text


def test_text_of_others_is_shown_and_never_obeyed_on_cards(room: Darkroom) -> None:
    for number, text in enumerate(HOSTILE):
        clean = f"{number}.jpg"
        room.row(number, clean, jpeg(), status="failed", calls=[failed("x", text)], error=("x", text))
        room.night.lines[-1] = Line(text, "ok", key(number), room.night.lines[-1].attempt)
    seen = SheetSeen(room.page(lambda each: {"caption": HOSTILE[each[-1]], "alt_text": HOSTILE[each[-1]]}))
    assert not any(tag == "script" for tag, _ in seen.tags)
    assert not any(name.startswith("on") for _, found in seen.tags for name in found)
    for card, text in zip(seen.cards, HOSTILE, strict=True):
        assert card.pictures[0][1] == text
        assert card.text.count(text) >= 3


def test_a_picture_that_is_gone_or_another_one_by_now_is_told_in_its_place(room: Darkroom) -> None:
    for number, name in enumerate(("gone.jpg", "other.jpg", "cut.jpg", "none.jpg", "fine.jpg")):
        room.row(number, name, jpeg((number * 40, 90, 120))[: 900 if name == "cut.jpg" else None])
    (room.pictures / "gone.jpg").unlink()
    (room.pictures / "other.jpg").write_bytes(jpeg(BLUE))
    room.prompts[3] = None
    gone, other, cut, none, fine = SheetSeen(room.page()).cards
    assert any("no such file" in text for text in gone.text)
    assert "there is another picture now than the one that was asked about" in other.text
    assert any("cannot be decoded" in text for text in cut.text)
    assert "no picture" in none.text
    assert [len(card.pictures) for card in (gone, other, cut, none, fine)] == [0, 0, 0, 0, 1]


def test_a_picture_is_found_again_under_another_name_by_what_it_is(room: Darkroom) -> None:
    room.row(1, "a.jpg", jpeg(GREEN))
    room.put("copy.jpg", jpeg(GREEN))
    (room.pictures / "a.jpg").unlink()
    (card,) = SheetSeen(room.page()).cards
    assert near(colour_of(card.image()), GREEN)


def test_nothing_is_read_outside_of_the_pictures_folder(room: Darkroom, tmp_path: Path) -> None:
    outside = tmp_path / "secret.jpg"
    outside.write_bytes(jpeg(GREEN))
    digest = digest_of(outside.read_bytes())
    for number, place in enumerate((str(outside), str(room.pictures / "link.jpg"))):
        room.night.row(number, answered(), name=f"r{number}")
        room.prompt(digest)
        room.know(Known(place, "", digest, "image", 9, 9, 9))
    (room.pictures / "link.jpg").symlink_to(outside)
    for card in SheetSeen(room.page()).cards:
        assert not card.pictures
        assert any("leads out of" in text for text in card.text)


def test_of_a_url_what_was_kept_is_shown_else_its_place_without_its_query(room: Darkroom) -> None:
    kept, lost = jpeg(BLUE), jpeg(GREEN)
    # Nobody listens there; a report that fetched would wait, or be refused.
    for number, content in enumerate((kept, lost)):
        room.night.row(number, answered(), name=f"r{number}")
        room.prompt(digest_of(content))
        url = f"http://user:word@127.0.0.1:9/p/{number}.jpg?token=hush"
        room.know(Known(url, "", digest_of(content), "image", 400, 300, len(content)))
    shelf = Shelf(room.shelf)
    shelf.keep(digest_of(kept), kept)
    shelf.close()
    page = room.page()
    first, second = SheetSeen(page).cards
    assert near(colour_of(first.image()), BLUE)
    assert "127.0.0.1/p/1.jpg: a report fetches nothing" in second.text
    assert "hush" not in page
    assert "word@" not in page
    album = Album(room.job, room.shelf)
    assert album.content(Shot(None, Url("http://user:word@127.0.0.1:9/p/0.jpg?token=hush"))) == kept
    album.close()


def test_several_pictures_of_a_row_stand_on_its_card_and_the_rest_is_counted(room: Darkroom) -> None:
    room.night.row(1, answered(), name="r")
    room.prompt(*(room.put(f"{n}.jpg", jpeg((40 * n, 0, 200))) for n in range(6)))
    (card,) = SheetSeen(room.page()).cards
    assert [alt for _, alt in card.pictures] == [f"r ({n + 1} of 6: {n}.jpg)" for n in range(MOST_OF_A_ROW)]
    assert near(colour_of(card.image(3)), (120, 0, 200))
    assert "and 2 more pictures" in card.text


def test_what_cost_nothing_says_why(room: Darkroom) -> None:
    room.row(1, "a.jpg", jpeg(), calls=[answered(nanos=None)])
    room.night.line(Line("b.jpg", "ok", key(1), room.night.lines[0].attempt, repeats=True))
    room.prompt(room.put("b.jpg", jpeg()))
    room.night.line(Line("c.jpg", "failed", error=("image_missing", "photo: c.jpg: no such file")))
    room.prompt()
    unknown, equal, unsent = SheetSeen(room.page()).cards
    assert "price unknown" in unknown.text
    assert "$0, as an equal row" in equal.text
    assert "$0, not sent" in unsent.text
    assert "image_missing: photo: c.jpg: no such file" in unsent.text


def test_an_answer_of_another_run_cost_nothing_here(room: Darkroom) -> None:
    room.row(1, "a.jpg", jpeg())
    other = Night(room.shelf.parent, "other")
    room.night.run, room.night.start = other.run, other.start
    (card,) = SheetSeen(room.page()).cards
    assert "$0, reused" in card.text


def test_the_page_of_3000_rows_is_bounded_and_every_status_is_on_it(room: Darkroom) -> None:
    noise = [Image.effect_noise((640, 480), 90).convert("RGB") for _ in range(3)]
    digests = []
    for number, image in enumerate(noise):
        out = BytesIO()
        image.save(out, "JPEG", quality=95)
        digests.append(room.put(f"{number}.jpg", out.getvalue()))
    attempt = {
        "ok": room.night.keep(0, answered()),
        "refused": room.night.keep(1, answered(), status="refused"),
    }
    for number in range(3_000):
        status = "refused" if number == 1_700 else "ok"
        room.night.line(
            Line(f"row-{number}", status, key(int(status == "refused")), attempt[status])
            if number != 2_001
            else Line(f"row-{number}", "failed", error=("template", "no name " * 999))
        )
        room.prompt(*digests)
    page = room.page(lambda _: {"caption": "<&>" * 99_999, "alt_text": '"' * 99_999})
    assert len(page.encode()) < 3_000_000
    cards = SheetSeen(page).cards
    assert len(cards) == MOST_CARDS
    assert {card.status for card in cards} == {"ok", "refused", "failed"}
    places = [int(next(t for t in card.text if t.startswith("row-"))[4:]) for card in cards]
    assert places == sorted(places)
    gaps = [b - a for a, b in pairwise(places)]
    assert max(gaps) <= 27
    assert any(f"{MOST_CARDS} of 3,000 rows are shown" in text for text in SheetSeen(page).text)
    assert len(SheetSeen(room.page(most=7)).cards) == 7
    assert "Contact sheet" not in room.page(most=0)


def test_what_would_take_too_long_is_not_drawn_unless_it_is_asked_for(room: Darkroom) -> None:
    for number in range(4):
        room.row(number, f"{number}.jpg", jpeg((number, 90, 120)))
        content = jpeg((number, 90, 120))
        path = str(room.pictures / f"{number}.jpg")
        room.know(Known(path, "", digest_of(content), "image", 30_000, 30_000, len(content)))
    cards = SheetSeen(room.page()).cards
    assert [len(card.pictures) for card in cards] == [1, 0, 0, 0]
    assert all(any(text.startswith("not drawn: ") for text in card.text) for card in cards[1:])
    assert [len(card.pictures) for card in SheetSeen(room.page(most=4)).cards] == [1, 1, 1, 1]


def test_one_damaged_record_of_pictures_costs_no_page(room: Darkroom) -> None:
    room.row(1, "a.jpg", jpeg())
    room.shelf.write_bytes(b"no database " * 999)
    for path in room.shelf.parent.glob("pictures.sqlite-*"):
        path.unlink()
    (card,) = SheetSeen(room.page()).cards
    assert not card.pictures
    assert "the picture is no longer where it was when it was asked about" in card.text


# ------------------------------------------------------------------------------------ the parts


@given(st.dictionaries(st.sampled_from(STATUSES), st.integers(0, 5_000)), st.integers(1, 300))
def test_cards_are_dealt_out_fully_and_every_status_has_some(rows: dict[str, int], most: int) -> None:
    found = quotas(rows, most)
    assert sum(found.values()) == min(most, sum(rows.values()))
    for status, number in found.items():
        assert number <= rows.get(status, 0)
        assert number or not rows.get(status) or most < 2 * len(STATUSES)
    if any(rows.get(status) for status in TROUBLED):
        assert any(found[status] for status in TROUBLED)


@given(st.integers(0, 300), st.integers(0, 300))
def test_places_are_chosen_evenly(wanted: int, of: int) -> None:
    found = sorted(evenly(wanted, of))
    assert len(found) == min(wanted, of)
    gaps = {b - a for a, b in pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1


@given(st.lists(st.text(max_size=80), max_size=6), st.integers(0, 200))
def test_words_of_a_card_stay_within_its_room(texts: list[str], most: int) -> None:
    room = Room(most)
    kept = [room.fit(text) for text in texts]
    rest = sum(html_bytes(re.sub(r" … and [\d,]+ more characters$", "", text)) for text in kept)
    assert rest <= most
    whole = Room(10_000)
    assert [whole.fit(text) for text in texts] == texts


@pytest.mark.parametrize("pictures", [1, 50, 120, 480, 5_000])
def test_a_thumbnail_keeps_to_its_share(pictures: int) -> None:
    out = BytesIO()
    Image.effect_noise((900, 700), 120).convert("RGB").save(out, "PNG")
    most = share(1_500_000, pictures)
    assert len(thumb(out.getvalue(), "noise.png", most).uri.partition(",")[2]) <= most


def test_colours_are_those_of_the_web_and_the_profile_stays_out() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    # A space of its own, in which what is called red is blue.
    other = profile.replace(b"rXYZ", b"????", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"????", b"bXYZ", 1)
    other = other.replace("sRGB".encode("utf-16-be"), "mine".encode("utf-16-be"))
    for each, wanted in ((profile, (230, 0, 0)), (other, (0, 0, 230)), (b"no profile", (230, 0, 0))):
        found = thumb(jpeg((230, 0, 0), icc_profile=each), "p", 20_000)
        image = Image.open(BytesIO(base64.b64decode(found.uri.partition(",")[2])))
        assert "icc_profile" not in image.info
        assert near(colour_of(image), wanted)


def test_what_is_clear_is_white_and_what_is_no_picture_is_refused() -> None:
    out = BytesIO()
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(out, "PNG")
    found = thumb(out.getvalue(), "clear.png", 20_000)
    assert near(colour_of(Image.open(BytesIO(base64.b64decode(found.uri.partition(",")[2])))), (255, 255, 255))
    for content in (b"", b"text", b"%PDF-1.7 x %%EOF"):
        with pytest.raises(RowError):
            thumb(content, "x", 20_000)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://a.example/p/x.jpg?sig=1#f", "a.example/p/x.jpg"),
        ("http://me:word@a.example:81/x", "a.example/x"),
        ("http://[broken/x?sig=1", "a URL"),
    ],
)
def test_a_url_is_told_without_what_opens_it(url: str, place: str) -> None:
    assert place_of(url) == place


def test_pictures_left_to_the_api_are_told_and_not_fetched(room: Darkroom) -> None:
    album = Album(room.job, room.shelf)
    prompt = (
        b'"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"http://h/a.jpg?k=1"}},'
        b'{"type":"image","source":{"type":"file","file_id":"f1"}},{"type":"text","text":"x"}]},'
        b'{"role":"assistant","content":"y"}]'
    )
    shots = album.shots("row", prompt, {})
    assert shots == [Shot(None, Url("http://h/a.jpg?k=1")), Shot(None, None, "file")]
    for shot, words in zip(shots, ("h/a.jpg: a report fetches nothing", "uploaded to the API"), strict=True):
        with pytest.raises(RowError, match=words):
            album.content(shot)
    assert album.shots("row", None, {"photo": b"bytes"}) == [Shot(None, Inline(b"bytes"))]
    assert album.content(Shot(None, Inline(b"bytes"))) == b"bytes"
    album.close()


# ------------------------------------------------------------------------------------ journey


def test_a_run_over_a_folder_of_photos_has_its_sheet(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    (desk.folder / "photos").mkdir()
    for name, colour in (("red.jpg", RED), ("green.jpg", GREEN), ("blue.jpg", BLUE)):
        (desk.folder / "photos" / name).write_bytes(jpeg(colour))
    (desk.folder / "photos/cut.jpg").write_bytes(jpeg()[:900])
    (desk.folder / "photos/gone.jpg").write_bytes(jpeg((9, 9, 9)))
    job = desk.write(
        "job.yaml",
        "name: shots\nsource: {path: photos}\nprompt: {user: Look.}\nendpoint: simulator\n"
        "request: {model: claude-haiku-4-5, max_tokens: 200}\noutput: {path: out/shots.parquet}\n"
        f"expect: {{max_failed_ratio: 0.5}}\n{SCHEMA}",
    )
    assert desk.pipeline("run", job).code == 0
    (desk.folder / "photos/gone.jpg").unlink()
    before = {path: path.stat().st_mtime_ns for path in sorted(desk.folder.rglob("*.jpg"))}
    ended = desk.pipeline("report", job)
    assert ended.code == 0, ended.err
    seen = SheetSeen(Path(ended.out.strip()).read_text())
    blue, cut, gone, green, red = seen.cards
    for card, colour in ((blue, BLUE), (green, GREEN), (red, RED)):
        assert near(colour_of(card.image()), colour)
        assert card.status == "ok"
    # It failed before anything was sent, and is told as the output tells it.
    assert cut.status == "failed"
    assert "image_corrupt" in cut.text
    assert any("no such file" in text for text in gone.text)
    assert before == {path: path.stat().st_mtime_ns for path in sorted(desk.folder.rglob("*.jpg"))}
    for words, number in ((("--pictures", "0"), 0), (("--pictures", "2"), 2)):
        other = desk.pipeline("report", job, *words)
        assert len(SheetSeen(Path(other.out.strip()).read_text()).cards) == number
    # Without its plan, the pictures are those that the output's columns name.
    shutil.rmtree(desk.folder / ".pipeline/shots.plans")
    report_command.main([str(job)], standalone_mode=False)
    cards = SheetSeen(Path(capsys.readouterr().out.strip()).read_text()).cards
    assert near(colour_of(cards[0].image()), BLUE)


def test_bytes_in_a_column_are_shown_as_long_as_the_program_keeps_them(desk: Desk) -> None:
    import polars as pl

    table = pl.DataFrame({"id": ["a", "b"], "photo": [[jpeg(GREEN), jpeg(RED)], [jpeg(BLUE)]]})
    table.write_parquet(desk.folder / "rows.parquet")
    job = desk.write(
        "job.yaml",
        "name: shots\nsource: {path: rows.parquet, id: [id]}\nprompt: {user: Look., images: [photo]}\n"
        "endpoint: simulator\nrequest: {model: claude-haiku-4-5, max_tokens: 200}\noutput: {path: out/shots.parquet}\n",
    )
    assert desk.pipeline("run", job).code == 0
    two, one = SheetSeen(Path(desk.pipeline("report", job).out.strip()).read_text()).cards
    assert [near(colour_of(two.image(n)), colour) for n, colour in enumerate((GREEN, RED))] == [True, True]
    assert near(colour_of(one.image()), BLUE)


def test_the_prompt_and_the_cards_name_the_picture_and_the_sheet_comes_before_the_texts(desk: Desk) -> None:
    (desk.folder / "photos").mkdir()
    for name in ("red.jpg", "green.jpg"):
        (desk.folder / "photos" / name).write_bytes(jpeg(RED if name == "red.jpg" else GREEN))
    desk.write("rows.csv", "title,photo\nOne,photos/red.jpg\nTwo,photos/green.jpg\nThree,photos/gone.jpg\n")
    job = desk.write(
        "job.yaml",
        "name: shots\nsource: {path: rows.csv}\nprompt: {user: Look., images: [photo]}\nendpoint: simulator\n"
        "request: {model: claude-haiku-4-5, max_tokens: 200}\noutput: {path: out/shots.parquet, keep: [title]}\n"
        "expect: {max_failed_ratio: 0.5}\n",
    )
    assert desk.pipeline("run", job).code == 0
    page = Path(desk.pipeline("report", job).out.strip()).read_text()
    assert "user:\n[image: red.jpg]\nLook." in page
    names = [card.text[0] if card.pictures else card.text[1] for card in SheetSeen(page).cards]
    assert names == ["rows.csv:1 · red.jpg", "rows.csv:2 · green.jpg", "rows.csv:3"]
    assert "title Three" in page
    assert page.index("<h2>Contact sheet") < page.index("<h2>Answers, a sample")

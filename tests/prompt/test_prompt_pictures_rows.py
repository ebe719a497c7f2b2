"""From rows to references, and from references to what is sent."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompt_jobs import ABlock, AJob, AnExample, APrompt, ATurn
from prompt_pictures import (
    OPENED,
    PHOTOS,
    APicturedJob,
    APicturedPrompt,
    ASource,
    one,
    pictures,
    png_bomb,
    saved,
    scene,
)

from pipeline.errors import RowError
from pipeline.prompt import KeyRecipe, Prompts, cache_marks, check_examples, needed_columns
from pipeline.prompt.pictures import Pictures, Shelf, Studio, abbreviated, picture_tokens, references, write_pictures
from pipeline.prompt.pictures.studio import Room
from pipeline.records import Row

COLUMNS = ("photo", "title")


def member(prompt: bytes) -> dict[str, Any]:
    built: dict[str, Any] = json.loads(b"{" + prompt + b"}")
    return built


def content(prompt: bytes, turn: int = -1) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = member(prompt)["messages"][turn]["content"]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("coffee.png", "rocket.jpg", "china.jpg"):
        shutil.copy(PHOTOS / name, tmp_path / name)
    return tmp_path


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def refusal(found: Pictures, row: Row) -> str:
    with pytest.raises(RowError) as caught:
        found.blocks(row)
    return caught.value.error_type


# ------------------------------------------------------------------------------------ where they stand


def test_pictures_stand_before_the_text_of_the_last_turn_of_the_user(folder: Path) -> None:
    prompts = Prompts(AJob(APrompt(user="What is <<title>>?")), COLUMNS, pictures=pictures(folder))
    built = content(prompts.build(one(["rocket.jpg", "coffee.png"], title="this")))
    assert [block["type"] for block in built] == ["image", "image", "text"]
    assert built[2] == {"type": "text", "text": "What is this?"}


def test_in_a_conversation_they_stand_behind_its_blocks_and_before_its_first_text(folder: Path) -> None:
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "rules"}}
    job = AJob(
        APrompt(
            system="See.",
            messages=(
                ATurn("user", "Hello <<title>>"),
                ATurn("assistant", "Hi"),
                ATurn("user", (document, ABlock("Look."), ABlock("At <<title>>."))),
                ATurn("assistant", "I see"),
            ),
        )
    )
    built = member(Prompts(job, COLUMNS, pictures=pictures(folder)).build(one("rocket.jpg", title="it")))
    assert built["messages"][0]["content"] == "Hello it"
    assert [block["type"] for block in built["messages"][2]["content"]] == ["document", "image", "text", "text"]
    assert built["messages"][3]["content"] == "I see"


def test_a_turn_without_text_ends_with_the_pictures(folder: Path) -> None:
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "rules"}}
    job = AJob(APrompt(messages=(ATurn("user", (document,)),)))
    built = content(Prompts(job, COLUMNS, pictures=pictures(folder)).build(one("rocket.jpg")))
    assert [block["type"] for block in built] == ["document", "image"]


def test_the_pictures_of_a_group_come_in_the_order_of_its_rows(folder: Path) -> None:
    found = pictures(folder, columns=("front", "back"))
    rows: list[dict[str, Any]] = [{"front": "rocket.jpg", "back": None}, {"front": "coffee.png", "back": "china.jpg"}]
    whole = found.blocks(Row("g", rows))
    alone = [found.blocks(Row("r", [{"front": name}])) for name in ("rocket.jpg", "coffee.png", "china.jpg")]
    assert whole == b",".join(alone)


def test_a_column_that_the_source_lacks_is_a_broken_job(folder: Path) -> None:
    from pipeline.errors import JobError

    with pytest.raises(
        JobError, match=r"prompt\.images\.0: names phto, but the source has photo, title; did you mean photo"
    ):
        Prompts(AJob(APrompt(user="x")), COLUMNS, pictures=pictures(folder, columns=("phto",)))


def test_the_columns_of_pictures_are_needed(folder: Path) -> None:
    job = AJob(APrompt(user="<<title>>"))
    assert needed_columns(job, also=("photo",)) == frozenset({"photo", "title"})
    assert Prompts(job, COLUMNS, pictures=pictures(folder)).needed == frozenset({"photo", "title"})


def test_examples_are_about_the_text_and_need_no_picture() -> None:
    job = AJob(APrompt(user="What is <<title>>?"), tests=(AnExample(row={"title": "this"}, prompt="What is this?"),))
    assert check_examples(job, COLUMNS) == []


def test_the_cache_keeps_what_stands_before_the_pictures(folder: Path) -> None:
    job = AJob(APrompt(system="s" * 5000, user="What is <<title>>?", cache="1h"))
    prompts = Prompts(job, COLUMNS, pictures=pictures(folder))
    marks = cache_marks(job, prompts, {"model": "claude-sonnet-4-5"})
    built = prompts.build(one("rocket.jpg", title="this"))
    sent = member(marks.apply(built))
    assert sent["system"] == [{"type": "text", "text": "s" * 5000, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert sent["messages"] == member(built)["messages"]
    assert len(references(marks.apply(built))) == 1
    assert marks.varying == "prompt.images"


def test_the_jobs_own_marks_behind_pictures_stay_at_their_blocks_however_many_there_are(folder: Path) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    job = AJob(APrompt(messages=(ATurn("user", (ABlock("one"), ABlock("two <<title>>", mark), ABlock("three"))),)))
    prompts = Prompts(job, COLUMNS, pictures=pictures(folder))
    marks = cache_marks(job, prompts, {})
    for names in (["rocket.jpg"], ["rocket.jpg", "china.jpg", "coffee.png"]):
        sent = content(marks.apply(prompts.build(one(names, title="x"))))
        assert [block.get("text") for block in sent if "cache_control" in block] == ["two x"]


# ------------------------------------------------------------------------------------ what is in the key


def test_a_picture_enters_the_key_by_its_content_and_not_by_its_name(folder: Path) -> None:
    (folder / "sub").mkdir()
    shutil.copy(folder / "rocket.jpg", folder / "sub/renamed.jpg")
    found = pictures(folder)
    inline = (folder / "rocket.jpg").read_bytes()
    encoded = "data:image/jpeg;base64," + base64.b64encode(inline).decode()
    ways = [
        "rocket.jpg",
        "sub/renamed.jpg",
        str(folder / "rocket.jpg"),
        inline,
        encoded,
        {"bytes": inline, "path": None},
    ]
    assert len({found.blocks(one(way)) for way in ways}) == 1
    assert found.blocks(one("coffee.png")) != found.blocks(one("rocket.jpg"))


def test_how_it_is_prepared_is_in_the_key(folder: Path) -> None:
    said: list[dict[str, Any]] = [
        {},
        {"max_side": 100},
        {"format": "png"},
        {"quality": 50},
        {"format": "png", "max_side": 100},
    ]
    assert len({pictures(folder, **one_).blocks(one("rocket.jpg")) for one_ in said}) == len(said)


def test_no_path_stands_in_a_planned_prompt(folder: Path) -> None:
    built = Prompts(AJob(APrompt(user="x")), COLUMNS, pictures=pictures(folder)).build(one("rocket.jpg"))
    assert b"rocket" not in built
    assert str(folder).encode() not in built
    assert KeyRecipe(AJob()).key(built) == KeyRecipe(AJob()).key(bytes(bytearray(built)))


def test_a_row_that_spells_a_reference_out_gets_no_picture_by_it(folder: Path) -> None:
    found = pictures(folder)
    reference = found.blocks(one("rocket.jpg")).decode()
    prompts = Prompts(AJob(APrompt(user="<<title>>")), COLUMNS, pictures=found)
    built = prompts.build(one("coffee.png", title=reference + json.dumps(reference)))
    assert len(references(built)) == 1
    assert content(Studio(found).dress(built))[-1]["text"] == reference + json.dumps(reference)


# ------------------------------------------------------------------------------------ what is remembered


def test_a_resume_opens_no_picture_that_is_known_by_path_size_and_time(folder: Path) -> None:
    shelf = folder / "state/job.pictures.sqlite"
    first = pictures(folder, shelf)
    rows = [one("rocket.jpg"), one(["coffee.png", "china.jpg"])]
    first.look(rows)
    blocks = [first.blocks(row) for row in rows]
    first.close()
    for name in ("rocket.jpg", "coffee.png", "china.jpg"):
        look = (folder / name).stat()
        # Another content of the same size and time: whoever opened it would find another hash.
        (folder / name).write_bytes(bytes(look.st_size))
        os.utime(folder / name, ns=(look.st_atime_ns, look.st_mtime_ns))
    again = pictures(folder, shelf)
    again.look(rows)
    assert [again.blocks(row) for row in rows] == blocks
    again.close()
    assert shelf.stat().st_mode & 0o777 == 0o600


def test_who_only_looks_learns_from_the_shelf_and_leaves_it_as_it_is(folder: Path) -> None:
    path = folder / "state/job.pictures.sqlite"
    look = Pictures(APicturedJob(folder), Shelf(None, below=path))
    blocks = look.blocks(one("rocket.jpg"))
    look.close()
    assert not path.exists()
    first = pictures(folder, path)
    assert first.blocks(one("rocket.jpg")) == blocks
    first.close()
    size = (folder / "rocket.jpg").stat()
    (folder / "rocket.jpg").write_bytes(bytes(size.st_size))
    os.utime(folder / "rocket.jpg", ns=(size.st_atime_ns, size.st_mtime_ns))
    look = Pictures(APicturedJob(folder), Shelf(None, below=path))
    assert look.blocks(one("rocket.jpg")) == blocks, "known by path, size and time"
    assert look.blocks(one("coffee.png"))
    look.close()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM pictures").fetchone() == (1,)
    db.close()


def test_a_picture_that_changed_is_another_one(folder: Path) -> None:
    shelf = folder / "job.pictures.sqlite"
    first = pictures(folder, shelf)
    before = first.blocks(one("rocket.jpg"))
    first.close()
    shutil.copy(PHOTOS / "flower.jpg", folder / "rocket.jpg")
    assert pictures(folder, shelf).blocks(one("rocket.jpg")) != before


def test_a_renamed_picture_is_found_by_its_content_when_it_is_sent(folder: Path) -> None:
    shelf = folder / "job.pictures.sqlite"
    found = pictures(folder, shelf)
    prompts = Prompts(AJob(APrompt(user="x")), COLUMNS, pictures=found)
    built = prompts.build(one("rocket.jpg"))
    shutil.move(folder / "rocket.jpg", folder / "moved.jpg")
    with pytest.raises(RowError) as caught:
        Studio(found).dress(built)
    assert caught.value.error_type == "image_missing"
    assert prompts.build(one("moved.jpg")) == built
    assert content(Studio(found).dress(built))[0]["source"]["media_type"] == "image/jpeg"


def test_a_picture_that_changed_since_it_was_planned_is_not_sent(folder: Path) -> None:
    found = pictures(folder)
    built = Prompts(AJob(APrompt(user="x")), COLUMNS, pictures=found).build(one("rocket.jpg"))
    shutil.copy(PHOTOS / "flower.jpg", folder / "rocket.jpg")
    with pytest.raises(RowError, match=r"rocket\.jpg is another picture than when it was planned") as caught:
        Studio(found).dress(built)
    assert caught.value.error_type == "image_missing"


def test_bytes_of_a_column_are_kept_until_they_are_cleared(folder: Path) -> None:
    shelf = folder / "job.pictures.sqlite"
    given_ = (folder / "rocket.jpg").read_bytes()
    first = pictures(folder, shelf)
    built = b'"messages":[{"role":"user","content":[%b]}]' % first.blocks(one(given_))
    first.close()
    later = pictures(folder, shelf)
    assert base64.b64decode(content(Studio(later).dress(built))[0]["source"]["data"]) == given_
    later.clear()
    with pytest.raises(RowError) as caught:
        Studio(later).dress(built)
    assert caught.value.error_type == "image_missing"


# ------------------------------------------------------------------------------------ what fails


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "image_missing"),
        ("", "image_missing"),
        ([], "image_missing"),
        ([None], "image_missing"),
        ("gone.jpg", "image_missing"),
        ("../x.jpg", "image_blocked"),
        ("file:///etc/passwd", "image_blocked"),
        ("FILE://localhost/etc/passwd", "image_blocked"),
        ("http://127.0.0.1:9/a.jpg", "image_blocked"),
        ("http://169.254.169.254/latest", "image_blocked"),
        ("s3://bucket/a.jpg", "image_unsupported"),
        ("data:image/png;base64,???", "image_corrupt"),
        ("data:image/svg+xml,%3Csvg%3E", "image_unsupported"),
        ("caf\ufffd.jpg", "image_missing"),
        ("rocket.jpg\0.png", "image_missing"),
        ("x/" * 2048, "image_missing"),
        ("http://[::ffff:10.0.0.1]/a.jpg", "image_blocked"),
        ("http://0x0a000001/a.jpg", "image_blocked"),
        ("http://[fe80::1]/a.jpg", "image_blocked"),
        (7, "image_unsupported"),
        (["rocket.jpg"] * 101, "too_long"),
    ],
)
def test_what_cannot_be_had_fails_its_row_before_it_is_sent(folder: Path, value: Any, kind: str) -> None:
    found = pictures(folder)
    assert refusal(found, one(value)) == kind
    found.look([one(value), one("rocket.jpg")])
    assert refusal(found, one(value)) == kind
    assert found.blocks(one("rocket.jpg"))
    found.close()


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (lambda: b"", "image_corrupt"),
        (lambda: b"hello", "image_unsupported"),
        (lambda: saved(scene(300, 200))[:2000], "image_corrupt"),
        (lambda: png_bomb(60_000, 60_000), "image_bomb"),
    ],
)
def test_what_cannot_be_decoded_fails_its_row_as_it_would_be_sent(
    folder: Path, made: Callable[[], bytes], kind: str
) -> None:
    (folder / "bad.png").write_bytes(made())
    found = pictures(folder)
    built = Prompts(AJob(APrompt(user="x")), COLUMNS, pictures=found).build(one("bad.png"))
    with pytest.raises(RowError, match=r"^bad\.png: ") as caught:
        Studio(found).dress(built)
    assert caught.value.error_type == kind


def test_urls_and_file_ids_are_sent_as_they_are_and_nothing_is_fetched(folder: Path) -> None:
    url = "http://127.0.0.1:9/a.jpg?x=1"
    by_url = pictures(folder, as_="url")
    assert json.loads(by_url.blocks(one(url))) == {"type": "image", "source": {"type": "url", "url": url}}
    assert json.loads(by_url.blocks(one("https://h.example/a.PDF?x")))["type"] == "document"
    assert refusal(by_url, one("rocket.jpg")) == "image_unsupported"
    by_file = pictures(folder, as_="file")
    assert json.loads(by_file.blocks(one("file_01A"))) == {
        "type": "image",
        "source": {"type": "file", "file_id": "file_01A"},
    }
    assert refusal(by_file, one("a/b.jpg")) == "image_unsupported"
    assert refusal(by_file, one(b"bytes")) == "image_unsupported"


def test_a_prompt_is_rendered_without_asking_for_its_urls_where_that_is_wanted(folder: Path) -> None:
    found = Pictures(APicturedJob(folder), Shelf(None), fetches=False)
    assert references(found.blocks(one(["http://127.0.0.1:9/a.jpg", "rocket.jpg"])))
    assert refusal(found, one("gone.jpg")) == "image_missing"
    found.close()


def test_the_root_of_a_job_behind_a_link_is_found_from_where_the_link_leads(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real/jobs").mkdir(parents=True)
    (tmp_path / "real/photos").mkdir()
    shutil.copy(folder / "rocket.jpg", tmp_path / "real/photos/a.jpg")
    (tmp_path / "jobs").symlink_to(tmp_path / "real/jobs")
    job = APicturedJob(tmp_path / "jobs", APicturedPrompt(image_root=Path("../photos")))
    found = Pictures(job, Shelf(None))
    assert found.blocks(one("a.jpg"))
    found.close()


def test_a_pdf_comes_by_the_same_door_as_a_document(folder: Path) -> None:
    pdf = b"%PDF-1.7\n1 0 obj\nendobj\ntrailer\n%%EOF\n"
    (folder / "a.pdf").write_bytes(pdf)
    found = pictures(folder)
    built = Prompts(AJob(APrompt(user="x")), COLUMNS, pictures=found).build(one("a.pdf"))
    block = content(Studio(found).dress(built))[0]
    assert (block["type"], block["source"]["media_type"]) == ("document", "application/pdf")
    assert base64.b64decode(block["source"]["data"]) == pdf


def test_a_source_of_pictures_needs_no_column_and_no_root(folder: Path) -> None:
    job = APicturedJob(Path("/nowhere"), source=ASource([str(folder / "*.jpg")]))
    from dataclasses import replace

    found = Pictures(replace(job, prompt=replace(job.prompt, images=())), Shelf(None))
    assert found.columns == ("path",)
    assert references(found.blocks(Row("r", [{"path": "rocket.jpg"}])))


# ------------------------------------------------------------------------------------ sending


def test_many_pictures_in_one_request_stay_below_the_size_that_is_safe(folder: Path) -> None:
    (folder / "wide.png").write_bytes(saved(scene(2500, 300), "PNG"))
    found = pictures(folder, max_side=2400)
    for number, side in ((20, 2400), (21, 2000)):
        built = b'"messages":[{"role":"user","content":[%b]}]' % found.blocks(one(["wide.png"] * number))
        from PIL import Image

        blocks = content(Studio(found).dress(built))
        data = base64.b64decode(blocks[0]["source"]["data"])
        assert len(blocks) == number
        assert max(Image.open(io.BytesIO(data)).size) == side


def test_tokens_are_estimated_from_what_planning_saw(folder: Path) -> None:
    found = pictures(folder)
    built = found.blocks(one(["rocket.jpg", "coffee.png"]))
    assert found.tokens(built) == sum(picture_tokens(*size, "claude-sonnet-4-5") for size in ((640, 427), (600, 400)))
    assert found.tokens(b'"messages":[]') == 0


def test_a_prompt_is_dressed_in_threads_and_its_room_is_given_back(folder: Path) -> None:
    found = pictures(folder)
    prompts = Prompts(AJob(APrompt(user="x")), COLUMNS, pictures=found)
    names = ["rocket.jpg", "coffee.png", "china.jpg"] * 10
    bound = 2_000_000
    studio = Studio(found, bytes_in_flight=bound)

    async def send(name: str) -> bytes:
        async with studio.prepared(prompts.build(one(name))) as dressed:
            assert 0 < studio.room.used <= bound
            await asyncio.sleep(0.005)
            return base64.b64decode(content(dressed)[0]["source"]["data"])

    async def everything() -> list[bytes]:
        return await asyncio.gather(*map(send, names))

    assert asyncio.run(everything()) == [(folder / name).read_bytes() for name in names]
    assert studio.room.used == 0
    assert bound / 2 < studio.room.most <= bound
    studio.close()


def test_a_prompt_without_pictures_waits_for_nothing(folder: Path) -> None:
    async def send() -> bytes:
        async with Studio(pictures(folder), bytes_in_flight=1).prepared(b'"messages":[]') as dressed:
            return dressed

    assert asyncio.run(send()) == b'"messages":[]'


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 150), st.integers(0, 5), st.booleans()), min_size=1, max_size=25))
def test_room_is_never_overdrawn_but_by_one_alone_and_nobody_waits_for_ever(plans: list[tuple[int, int, bool]]) -> None:
    room = Room(100)
    held: list[int] = []

    async def use(size: int, turns: int, *, cancelled: bool) -> None:
        task = asyncio.create_task(room.take(size))
        for _ in range(turns):
            await asyncio.sleep(0)
        if cancelled:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return
        held.append(size)
        assert sum(held) <= 100 or len(held) == 1
        for _ in range(turns):
            await asyncio.sleep(0)
        held.remove(size)
        room.free(size)

    async def everybody() -> None:
        async with asyncio.timeout(5):
            await asyncio.gather(*(use(size, turns, cancelled=gone) for size, turns, gone in plans))

    asyncio.run(everybody())
    assert room.used == 0


# ------------------------------------------------------------------------------------ showing


def test_what_is_shown_is_short_and_what_is_written_is_what_is_sent(folder: Path, tmp_path: Path) -> None:
    found = pictures(folder)
    built = Prompts(AJob(APrompt(user="x")), COLUMNS, pictures=found).build(one(["rocket.jpg", "coffee.png"]))
    body = member(Studio(found).dress(built))
    shown = json.dumps(abbreviated(body))
    assert len(shown) < 600
    assert "characters of base64" in shown
    paths = write_pictures(body, tmp_path / "prepared", "photos/../rocket.jpg")
    assert [path.name for path in paths] == ["photos_.._rocket.jpg-1.jpg", "photos_.._rocket.jpg-2.png"]
    assert paths[0].read_bytes() == (folder / "rocket.jpg").read_bytes()

"""The simulator sees: it decodes pictures, refuses what the API refuses, counts tokens, and says what reached it."""

from __future__ import annotations

import base64
import io
import random
import subprocess
import sys
from hashlib import sha256
from typing import Any

import jsonschema_rs
import orjson
import pytest
from PIL import Image
from serve_clients import VERSION, body_of, run, serving

from pipeline.serve.models import rules_of
from pipeline.serve.sights import picture_tokens

PDF = b"%PDF-1.4\n1 0 obj<</Type /Pages/Count 2>>\n2 0 obj<</Type /Page>>\n3 0 obj<</Type/Page>>\n%%EOF\n"


def picture(size: tuple[int, int] = (56, 28), form: str = "PNG", colour: str = "#336699", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, form, **options)
    return out.getvalue()


def block(content: bytes, media_type: str = "image/png") -> dict[str, Any]:
    kind = "document" if media_type == "application/pdf" else "image"
    data = base64.b64encode(content).decode()
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}


def linked(url: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


def showing(*blocks: dict[str, Any], **members: Any) -> dict[str, Any]:
    text = {"type": "text", "text": "What is it?"}
    return body_of(messages=[{"role": "user", "content": [*blocks, text]}], **members)


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:12]


def test_an_answer_says_of_each_picture_in_order_what_reached_the_server() -> None:
    shown = [
        (picture((40, 30), "JPEG", "#ff0000", quality=100, subsampling=0), "image/jpeg", "JPEG 40 x 30 #fe0000"),
        (picture((30, 40), "PNG", "#00ff00"), "image/png", "PNG 30 x 40 #00ff00"),
        (picture((8, 9), "GIF", "#0000ff"), "image/gif", "GIF 8 x 9 #0000ff"),
        (picture((10, 10), "WEBP", "#ffffff", lossless=True), "image/webp", "WEBP 10 x 10 #ffffff"),
    ]

    async def journey() -> None:
        async with serving() as client:
            got = await client.post(showing(*(block(content, kind) for content, kind, _ in shown)))
            (entry,) = await client.ledger()
        said = [f"{words} {digest(content)}" for content, _, words in shown]
        text = got.json["content"][0]["text"]
        assert text.partition(": ")[2] == "; ".join(said) + " | What is it?"
        assert entry["pictures"] == said

    run(journey())


def test_what_is_only_named_is_named_and_a_document_is_told_by_its_bytes() -> None:
    file = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}

    async def journey() -> None:
        async with serving() as client:
            # Nothing listens there: whoever fetched it would say so.
            got = await client.post(showing(linked("http://127.0.0.1:9/a.png"), file, block(PDF, "application/pdf")))
            (entry,) = await client.ledger()
        assert got.status == 200
        assert entry["pictures"] == [
            "url http://127.0.0.1:9/a.png",
            "file file_1",
            f"PDF {len(PDF)} bytes {digest(PDF)}",
        ]

    run(journey())


PNG = picture()
REFUSED: list[tuple[str, list[dict[str, Any]], str]] = [
    ("not what it is said to be", [block(PNG, "image/jpeg")], "does not match the provided media type image/jpeg"),
    ("no picture", [block(b"no picture")], "does not match the provided media type image/png"),
    ("a format that is not taken", [block(picture(form="BMP"))], "does not match the provided media type image/png"),
    (
        "cut off",
        [block(picture((200, 200), "JPEG", quality=95)[:-200], "image/jpeg")],
        "messages.0.content.0.image.source.base64.data: Could not process image",
    ),
    ("empty", [block(b"")], "cannot be empty"),
    (
        "no base64",
        [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%%%"}}],
        "messages.0.content.0.image.source.base64.data: invalid base64 data",
    ),
    ("too wide", [block(picture((8001, 1)))], "exceed max allowed size: 8000 pixels"),
    (
        "too wide among many",
        [*[block(PNG)] * 20, block(picture((2001, 1)))],
        "messages.0.content.20.image.source.base64.data: At least one of the image dimensions exceed max allowed size",
    ),
    (
        "too tall among many",
        [*[block(PNG)] * 20, block(picture((1, 2001)))],
        "for many-image requests",
    ),
    ("too many", [block(PNG)] * 101, "Too many images in request: 101 > 100"),
    ("no PDF", [block(b"PDF", "application/pdf")], "The PDF specified was not valid"),
]


@pytest.mark.parametrize(("blocks", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_picture_that_the_api_refuses_is_refused_in_its_words(blocks: list[dict[str, Any]], words: str) -> None:
    async def journey() -> None:
        async with serving() as client:
            got = await client.post(showing(*blocks))
        assert got.status == 400, got.raw
        assert got.json["error"]["type"] == "invalid_request_error"
        assert words in got.json["error"]["message"]

    run(journey())


def test_pictures_at_the_limits_are_taken() -> None:
    async def journey() -> None:
        async with serving() as client:
            one = await client.post(showing(block(picture((8000, 1)))))
            many = await client.post(showing(*[block(picture((2000, 1)))] * 20, block(picture((1, 2000)))))
            most = await client.post(showing(*[block(PNG)] * 600, model="claude-opus-4-6"))
        assert (one.status, many.status, most.status) == (200, 200, 200)

    run(journey())


def test_pictures_in_the_result_of_a_tool_are_seen_too() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "look", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [block(PNG)]}
    wrong = {**result, "content": [{"type": "image", "source": {"type": "ftp"}}]}
    turns = [{"role": "user", "content": "look"}, {"role": "assistant", "content": [call]}]
    tools = [{"name": "look", "input_schema": {"type": "object"}}]

    async def journey() -> None:
        async with serving() as client:
            got, bad = [
                await client.post(body_of(messages=[*turns, {"role": "user", "content": [content]}], tools=tools))
                for content in (result, wrong)
            ]
            entries = await client.ledger()
        assert (got.status, bad.status) == (200, 400)
        assert entries[0]["pictures"] == [f"PNG 56 x 28 #336699 {digest(PNG)}"]

    run(journey())


# ------------------------------------------------------------------------------------ with a schema

CAPTIONS = {
    "type": "object",
    "properties": {
        "alt_text": {"type": "string", "description": "What a screen reader says (maxLength: 20)"},
        "colour": {"type": "string", "enum": ["red", "blue"]},
        "seen": {"type": "string", "format": "date"},
        "caption": {"type": "string"},
        "objects": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["alt_text", "colour", "seen", "caption", "objects"],
    "additionalProperties": False,
}
OTHER = {
    **CAPTIONS,
    "properties": {**{k: v for k, v in CAPTIONS["properties"].items() if k != "caption"}, "words": {"type": "string"}},  # type: ignore[attr-defined]
    "required": ["alt_text", "colour", "seen", "words"],
}
SAID = f"PNG 56 x 28 #336699 {digest(PNG)}"


def with_schema(way: str, schema: dict[str, Any]) -> dict[str, Any]:
    if way == "format":
        return showing(block(PNG), output_config={"format": {"type": "json_schema", "schema": schema}})
    if way == "tool":
        tool = {"name": "put", "input_schema": schema}
        return showing(block(PNG), tools=[tool], tool_choice={"type": "tool", "name": "put"})
    return showing(block(PNG), system="JSON Schema: " + orjson.dumps(schema).decode())


@pytest.mark.parametrize("way", ["format", "tool", "words"])
@pytest.mark.parametrize("seed", range(6))
def test_with_a_schema_the_answer_fits_and_its_caption_says_what_was_seen(way: str, seed: int) -> None:
    async def journey() -> None:
        async with serving() as client:
            for schema in (CAPTIONS, OTHER):
                got = await client.post(with_schema(way, {**schema, "title": f"t{seed}"}))
                (said,) = got.json["content"]
                value = said["input"] if way == "tool" else orjson.loads(said["text"])
                jsonschema_rs.validate(schema, value)
                told = [text for text in (value.get("caption"), value.get("words"), *value.get("objects", ())) if text]
                assert SAID in told
                assert len(value["alt_text"]) <= 20
                if schema is CAPTIONS:
                    assert value["caption"] == SAID

    run(journey())


def test_a_schema_without_a_text_that_is_long_enough_is_kept_all_the_same() -> None:
    schema = {
        "type": "object",
        "properties": {"caption": {"type": "string", "enum": ["yes", "no"]}},
        "required": ["caption"],
        "additionalProperties": False,
    }

    async def journey() -> None:
        async with serving() as client:
            got = await client.post(with_schema("format", schema))
        assert orjson.loads(got.json["content"][0]["text"])["caption"] in {"yes", "no"}

    run(journey())


# ------------------------------------------------------------------------------------ tokens


@pytest.mark.parametrize(
    ("size", "model", "tokens"),
    [
        ((200, 200), "claude-sonnet-4-5", 64),
        ((1000, 1000), "claude-sonnet-4-5", 1296),
        ((1092, 1092), "claude-sonnet-4-5", 1521),
        ((1920, 1080), "claude-sonnet-4-5", 1560),
        ((1920, 1080), "claude-opus-4-7", 2691),
        ((3840, 2160), "claude-sonnet-4-5", 1560),
        ((3840, 2160), "claude-opus-4-7", 4784),
        ((1, 8000), "claude-sonnet-4-5", 56),
    ],
)
def test_a_picture_counts_for_its_patches_after_scaling_down(size: tuple[int, int], model: str, tokens: int) -> None:
    assert picture_tokens(*size, rules_of(model)) == tokens


def test_pictures_count_in_usage_in_counts_of_tokens_and_in_the_cache() -> None:
    square = block(picture((1000, 1000)))
    marked = {**square, "cache_control": {"type": "ephemeral"}}

    async def journey() -> None:
        async with serving() as client:
            text = (await client.post(body_of("What is it?"))).json["usage"]["input_tokens"]
            got = await client.post(showing(square, square))
            linked_to = await client.post(showing(linked("https://example.com/a.png")))
            body = {name: value for name, value in showing(square).items() if name != "max_tokens"}
            counted = await client.post(body, path="/v1/messages/count_tokens")
            cached = [await client.post(showing(marked)) for _ in range(2)]
        assert got.json["usage"]["input_tokens"] == text + 2 * 1296
        assert linked_to.json["usage"]["input_tokens"] == text + 1568
        assert counted.json == {"input_tokens": text + 1296}
        assert [one.json["usage"]["cache_creation_input_tokens"] for one in cached] == [1296, 0]
        assert [one.json["usage"]["cache_read_input_tokens"] for one in cached] == [0, 1296]
        assert [one.json["usage"]["input_tokens"] for one in cached] == [text, text]

    run(journey())


def test_pictures_draw_on_the_limit_of_input_tokens() -> None:
    async def journey() -> None:
        async with serving(itpm=60 * 1300) as client:  # one picture a second
            statuses = [(await client.post(showing(block(picture((1000, 1000))), top_k=n))).status for n in (1, 2)]
            text = (await client.post(body_of("x" * 4))).status
        assert statuses == [200, 429]
        assert text in {200, 429}

    run(journey())


# ------------------------------------------------------------------------------------ dialects

INLINE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()}}
FILE = {"type": "image", "source": {"type": "file", "file_id": "file_1"}}


@pytest.mark.parametrize(
    ("dialect", "base64_", "url", "file", "image_url", "document"),
    [
        ("native", 200, 200, 200, 400, 200),
        ("aimlapi", 200, 200, 400, 200, 200),
        ("openai", 200, 200, 400, 200, 200),
        ("vllm", 200, 200, 400, 400, 400),
        ("llamacpp", 200, 200, 400, 400, 400),
        ("ollama", 200, 400, 400, 400, 400),
    ],
)
def test_each_dialect_takes_the_sources_that_its_server_takes(
    dialect: str, base64_: int, url: int, file: int, image_url: int, document: int
) -> None:
    blocks = [block(PNG), linked("https://example.com/a.png"), FILE, INLINE, block(PDF, "application/pdf")]

    async def journey() -> None:
        async with serving(dialect=dialect) as client:
            statuses = [(await client.post(showing(shown), VERSION)).status for shown in blocks]
            damaged = await client.post(showing(block(PNG[:50])))
            entries = await client.ledger()
        assert statuses == [base64_, url, file, image_url, document]
        assert damaged.status == 400
        assert entries[0]["pictures"] == [SAID]
        if image_url == 200:
            assert entries[3]["pictures"] == [SAID]

    run(journey())


# ------------------------------------------------------------------------------------ apart from that


def test_a_server_that_is_shown_no_picture_does_not_load_pillow() -> None:
    code = """
import asyncio, sys
sys.path.insert(0, "tests/serve")
from serve_clients import body_of, serving
async def main():
    async with serving() as client:
        assert (await client.post(body_of("the words image and document"))).status == 200
asyncio.run(main())
assert not any(name.startswith("PIL") for name in sys.modules), "Pillow is loaded"
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_random_bytes_in_place_of_a_picture_are_a_refusal_and_nothing_worse() -> None:
    draw = random.Random(6)
    heads = [picture((64, 64), form) for form in ("JPEG", "PNG", "GIF", "WEBP")]
    kinds = ["image/jpeg", "image/png", "image/gif", "image/webp"]

    async def journey() -> None:
        async with serving() as client:
            for nth in range(120):
                content = bytearray(heads[nth % 4])
                for _ in range(draw.randrange(1, 40)):
                    content[draw.randrange(len(content))] = draw.randrange(256)
                got = await client.post(showing(block(bytes(content), kinds[nth % 4])))
                assert got.status in {200, 400}, got.raw

    run(journey())

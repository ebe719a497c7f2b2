"""Content blocks that a client may send, each with its check (messages-api §1.2, §1.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.serve.fields import Body, bad, mapping, members, one_of, string, text_block

MAX_IMAGE_BASE64_BYTES = 10 * 1024 * 1024

BlockCheck = Callable[[Body, str], None]


_MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")


def _image_block(*sources: str) -> BlockCheck:
    """Check a picture that may come by these kinds of source."""

    def check_image(block: Body, path: str) -> None:
        members(block, f"{path}.image", frozenset({"type", "source", "cache_control", "transformations"}), ("source",))
        place = f"{path}.image.source"
        source = mapping(block["source"], place)
        kind = source.get("type")
        one_of(f"{place}.type", *sources)(kind)
        if kind == "base64":
            _picture(source, f"{place}.base64")
        else:
            string(f"{place}.{kind}")(source.get("url" if kind == "url" else "file_id"))

    return check_image


def _picture(source: Body, place: str) -> None:
    members(source, place, frozenset({"type", "media_type", "data"}), ("media_type", "data"))
    one_of(f"{place}.media_type", *_MEDIA_TYPES)(source["media_type"])
    string(f"{place}.data")(source["data"])
    if len(source["data"]) > MAX_IMAGE_BASE64_BYTES:
        raise bad(f"{place}: image exceeds 10 MB maximum: {len(source['data'])} bytes > {MAX_IMAGE_BASE64_BYTES} bytes")


_IMAGE = _image_block("base64", "url", "file")


def _block_with(*required: str) -> BlockCheck:
    def check_block(block: Body, path: str) -> None:
        for name in required:
            if name not in block:
                raise bad(f"{path}.{block['type']}.{name}: Field required")

    return check_block


def _tool_use(block: Body, path: str) -> None:
    path = f"{path}.{block['type']}"
    for name in ("id", "name", "input"):
        if name not in block:
            raise bad(f"{path}.{name}: Field required")
    string(f"{path}.id")(block["id"])
    string(f"{path}.name")(block["name"])
    mapping(block["input"], f"{path}.input")


def _tool_result(block: Body, path: str) -> None:
    path = f"{path}.tool_result"
    allowed = frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})
    members(block, path, allowed, ("tool_use_id",))
    string(f"{path}.tool_use_id")(block["tool_use_id"])
    content = block.get("content")
    if content is not None and not isinstance(content, str | list):
        raise bad(f"{path}.content: Input should be a valid string or list")
    for index, inner in enumerate(content if isinstance(content, list) else ()):
        place = f"{path}.content.{index}"
        if mapping(inner, place).get("type") == "image":
            _IMAGE(inner, place)


_SERVER_RESULTS = (
    *("web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result", "tool_search_tool_result"),
    *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result"),
)

NATIVE_BLOCKS: Mapping[str, BlockCheck] = {
    "text": text_block,
    "image": _IMAGE,
    "document": _block_with("source"),
    "search_result": _block_with("source", "title", "content"),
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "thinking": _block_with("thinking", "signature"),
    "redacted_thinking": _block_with("data"),
    "server_tool_use": _tool_use,
    **dict.fromkeys(_SERVER_RESULTS, _block_with("tool_use_id", "content")),
    "container_upload": _block_with("file_id"),
}
OPENAI_BLOCKS: Mapping[str, BlockCheck] = {
    **NATIVE_BLOCKS,
    "image": _image_block("base64", "url"),
    "image_url": _block_with("image_url"),
}
LOCAL_BLOCKS: Mapping[str, BlockCheck] = {
    "text": text_block,
    "image": _image_block("base64", "url"),
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "thinking": _block_with("thinking"),
    "redacted_thinking": _block_with("data"),
}
OLLAMA_BLOCKS: Mapping[str, BlockCheck] = {**LOCAL_BLOCKS, "image": _image_block("base64")}

SERVER_TURNS = frozenset({"server_tool_use", *_SERVER_RESULTS})
"""Blocks that an assistant's turn ends with when the server's own tools were at it, so that it can be sent back."""

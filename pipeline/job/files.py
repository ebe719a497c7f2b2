"""What stands in files of its own: prompt texts, ``user: {file: prompts/user.md}``, and the schema of answers."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

from pipeline.job.core import core
from pipeline.job.document import MAX_BYTES as LARGEST_DOCUMENT
from pipeline.job.document import MAX_DEPTH, UnreadableError, decode, parse
from pipeline.job.fields import ProblemError, path_text
from pipeline.job.nodes import Mapping, Mark, Node, Path, Scalar, Sequence, plain_data
from pipeline.job.words import found, one_line, shown_path

MAX_BYTES = 16 * 1024 * 1024

Complain = Callable[[Path, str], None]


def put_files(root: Mapping, directory: FilePath, complain: Complain) -> Mapping:
    """Put the text of each file that the prompt names in the place of its ``{file: path}``."""
    prompt = root.entries.get("prompt")
    if not isinstance(prompt, Mapping):
        return root
    entries = dict(prompt.entries)
    for key in ("system", "user"):
        if key in entries:
            entries[key] = _content(entries[key], ("prompt", key), directory, complain)
    messages = entries.get("messages")
    if isinstance(messages, Sequence):
        turns = tuple(_turn(turn, index, directory, complain) for index, turn in enumerate(messages.items))
        entries["messages"] = replace(messages, items=turns)
    return replace(root, entries=root.entries | {"prompt": replace(prompt, entries=entries)})


def _turn(turn: Node, index: int, directory: FilePath, complain: Complain) -> Node:
    if not isinstance(turn, Mapping) or "content" not in turn.entries:
        return turn
    path = ("prompt", "messages", str(index), "content")
    content = _content(turn.entries["content"], path, directory, complain)
    return replace(turn, entries=turn.entries | {"content": content})


def _content(node: Node, path: Path, directory: FilePath, complain: Complain) -> Node:
    """Put in the text of one file, or in a list of blocks that of each."""
    if not isinstance(node, Sequence):
        return _put(node, path, directory, complain)
    blocks = (_block(block, (*path, str(index)), directory, complain) for index, block in enumerate(node.items))
    return replace(node, items=tuple(blocks))


def _block(block: Node, path: Path, directory: FilePath, complain: Complain) -> Node:
    if not isinstance(block, Mapping) or "text" not in block.entries:
        return block
    text = _put(block.entries["text"], (*path, "text"), directory, complain)
    return replace(block, entries=block.entries | {"text": text})


def _put(node: Node, path: Path, directory: FilePath, complain: Complain) -> Node:
    if not isinstance(node, Mapping) or set(node.entries) != {"file"}:
        return node
    named = node.entries["file"]
    if not isinstance(named, Scalar) or named.is_null or not named.text:
        complain((*path, "file"), "must be the path of a text file, such as prompts/user.md")
        return Scalar("", node.mark, broken=True)
    if named.broken:
        return named
    try:
        return Scalar(read_text(directory, named.text), node.mark, plain=False)
    except ProblemError as problem:
        complain((*path, "file"), problem.words)
        return replace(named, broken=True)


def read_text(directory: FilePath, named: str) -> str:
    r"""Read a UTF-8 text file; a byte order mark is dropped and ``\r\n`` becomes ``\n``, as in the job file itself.

    Raises:
        ProblemError: missing, not a regular file, too large, or not UTF-8.
    """
    path = directory / path_text(named)
    raw = _raw(path, MAX_BYTES, "prompt")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ProblemError(f"{shown_path(path)} is not UTF-8 in its line {line}; save it as UTF-8") from error


def _raw(path: FilePath, most: int, section: str) -> bytes:
    """Read a regular file of at most so many bytes."""
    hint = f"; ${{…}} is not filled in inside of {section}" if "${" in str(path) else ""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ProblemError(f"{shown_path(path)} is not a regular file; name a text file")
        with path.open("rb") as file:
            raw = file.read(most + 1)
    except OSError as error:
        raise ProblemError(f"cannot read {shown_path(path)}: {(error.strerror or 'error').lower()}{hint}") from error
    if len(raw) > most:
        raise ProblemError(f"{shown_path(path)} is larger than {most:,} bytes, which is more than the {section} can be")
    return raw


def put_schema(data: dict[str, Any], directory: FilePath, complain: Complain) -> None:
    """Put the content of the file that `answer.schema` names in the place of its path, or of its ``{file: path}``.

    Args:
        data: the file as dicts and lists; the dict of the section `answer` is changed.
        directory: where relative paths start.
        complain: takes complaints.
    """
    answer = data.get("answer")
    if not isinstance(answer, dict) or "schema" not in answer:
        return
    named = answer["schema"]
    path: Path = ("answer", "schema")
    if isinstance(named, dict) and set(named) == {"file"}:
        named, path = named["file"], (*path, "file")
    elif not isinstance(named, Scalar) or named.is_null:
        return
    if isinstance(named, Scalar) and named.broken:
        answer["schema"] = named
        return
    answer["schema"] = Scalar("", broken=True)
    if not isinstance(named, Scalar) or named.is_null or not named.text:
        complain(path, "must be the path of a JSON or YAML file, such as label.schema.json")
        return
    try:
        answer["schema"] = read_schema(directory, named.text)
    except ProblemError as problem:
        complain(path, problem.words)


def read_schema(directory: FilePath, named: str) -> dict[str, Any]:
    """Read a JSON Schema from a file: JSON where its name ends in .json, else YAML; nothing is filled in.

    Raises:
        ProblemError: missing, not a regular file, too large, not JSON or YAML, or no mapping.
    """
    path = directory / path_text(named)
    raw = _raw(path, LARGEST_DOCUMENT, "answer")
    read = _json(path, raw) if path.suffix.lower() == ".json" else _yaml(path, raw)
    if not isinstance(read, dict):
        raise ProblemError(f"{shown_path(path)} must hold a mapping, such as {{type: object}}; found {found(read)}")
    return read


def _yaml(path: FilePath, raw: bytes) -> Any:
    wrong: list[tuple[Mark, str]] = []
    try:
        root = parse(decode(raw), lambda mark, _, words: wrong.append((mark, words)))
    except UnreadableError as error:
        wrong.append((error.mark, error.message))
        root = None
    if wrong:
        mark, words = min(wrong)
        raise ProblemError(f"{shown_path(path)}:{mark.line}:{mark.column}: {words}")
    return None if root is None else plain_data(root)


def _json(path: FilePath, raw: bytes) -> Any:
    try:
        read = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once, parse_int=_whole)
        # Halves of surrogate pairs are found by writing.
        json.dumps(read, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ProblemError(
            f"{shown_path(path)}:{error.lineno}:{error.colno}: this is not JSON: {error.msg.lower()}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{shown_path(path)} is not JSON in UTF-8: {one_line(str(error))}") from error
    level = [read]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise ProblemError(f"{shown_path(path)} holds lists and mappings in each other more than {MAX_DEPTH} deep")
    return read


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for key, value in pairs:
        if key in read:
            raise ValueError(f'the key "{key}" stands twice; keep one of them')
        read[key] = value
    return read


def _whole(text: str) -> int | float:
    """Read a whole number; one that has more than 64 bits is a float, as it is in most programs."""
    value = core(text) if len(text) < 40 else text
    return value if isinstance(value, int) else float(text)

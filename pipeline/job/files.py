"""Prompt texts that stand in files of their own: ``user: {file: prompts/user.md}``."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path as FilePath

from pipeline.job.fields import ProblemError, path_text
from pipeline.job.nodes import Mapping, Node, Path, Scalar, Sequence
from pipeline.job.words import shown_path

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
            entries[key] = _put(entries[key], ("prompt", key), directory, complain)
    messages = entries.get("messages")
    if isinstance(messages, Sequence):
        turns = tuple(_turn(turn, index, directory, complain) for index, turn in enumerate(messages.items))
        entries["messages"] = replace(messages, items=turns)
    return replace(root, entries=root.entries | {"prompt": replace(prompt, entries=entries)})


def _turn(turn: Node, index: int, directory: FilePath, complain: Complain) -> Node:
    if not isinstance(turn, Mapping) or "content" not in turn.entries:
        return turn
    path = ("prompt", "messages", str(index), "content")
    return replace(turn, entries=turn.entries | {"content": _put(turn.entries["content"], path, directory, complain)})


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
    hint = "; ${…} is not filled in inside of prompt" if "${" in named else ""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ProblemError(f"{shown_path(path)} is not a regular file; name a text file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ProblemError(f"cannot read {shown_path(path)}: {(error.strerror or 'error').lower()}{hint}") from error
    if len(raw) > MAX_BYTES:
        raise ProblemError(f"{shown_path(path)} is larger than {MAX_BYTES:,} bytes, which is more than a prompt can be")
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ProblemError(f"{shown_path(path)} is not UTF-8 in its line {line}; save it as UTF-8") from error

"""Combinations that no single key shows to be wrong: each check gives places, with words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline.job.answer import Answer
from pipeline.job.blocks import Block, blocks_of, check_content, member
from pipeline.job.endpoint import Endpoint
from pipeline.job.request import RequestFields
from pipeline.job.rules import Facts, Finding, judge
from pipeline.job.sections import Example, Prompt, Source, is_folder
from pipeline.job.urls import target
from pipeline.job.words import quoted, shown_path

Found = Iterator[tuple[str, str]]

PART = "part-00000000-00000.parquet"
"""Such files an output has that is a directory."""


def check_prompt(prompt: Prompt, written: frozenset[str]) -> Found:
    """One way of asking, turns in order, delimiters that can be told apart.

    Args:
        prompt: the section.
        written: the keys that could be read or were complained about already.
    """
    if prompt.user is not None and prompt.messages:
        yield "prompt.messages", "stands beside user; keep one of them: user for one turn, messages for several"
    if prompt.user is None and not prompt.messages and not written & {"user", "messages"}:
        yield "prompt", 'asks nothing; write user: with a template, such as user: "Summarise: <<text>>"'
    elif prompt.user is None and not prompt.messages:
        yield "prompt", "asks nothing: user and messages are empty; give one of them"
    before = None
    for index, turn in enumerate(prompt.messages):
        if turn.role == before:
            yield (
                f"prompt.messages.{index}.role",
                f"is {turn.role}, as the turn before it; turns alternate: join the two",
            )
        before = turn.role
    if prompt.messages and prompt.messages[0].role != "user":
        yield "prompt.messages.0.role", "must be user: a conversation starts with the user's turn"
    opening = prompt.delimiters[0] if prompt.delimiters else "<<"
    if prompt.system is not None:
        yield from check_content(prompt.system, "prompt.system", "system", opening)
    for index, turn in enumerate(prompt.messages):
        yield from check_content(turn.content, f"prompt.messages.{index}.content", turn.role, opening)
    yield from _check_images(prompt)
    yield from _check_delimiters(prompt.delimiters)


def _check_images(prompt: Prompt) -> Found:
    """What is said of preparing goes with pictures that are prepared here."""
    image = prompt.image
    if image.as_ == "base64":
        if image.format == "png" and image.quality is not None:
            yield "prompt.image.quality", "stands beside format: png, which has no quality; remove one of them"
        return
    for name in ("max_side", "format", "quality"):
        if getattr(image, name) is not None:
            yield f"prompt.image.{name}", f"stands beside as: {image.as_}, which prepares nothing; remove one of them"
    if not prompt.images:
        yield "prompt.image.as", f"is {image.as_}, but prompt.images names no column that would hold it"


def _check_delimiters(delimiters: tuple[str, ...]) -> Found:
    path = "prompt.delimiters"
    if len(delimiters) != 2:
        yield path, f'must be two texts, such as ["<<", ">>"]; found {len(delimiters)}'
    elif delimiters[0] == delimiters[1]:
        yield path, f'must be two different texts, such as ["<<", ">>"]; found {quoted(delimiters[0])} twice'
    elif any(part.split() != [part] for part in delimiters):
        yield path, 'must hold no white space, such as ["<<", ">>"]'


def check_source(source: Source) -> Found:
    """Sorting by a column once."""
    bare = [name.removeprefix("-") for name in source.sort_by]
    for index, name in enumerate(bare):
        if name in bare[:index]:
            yield f"source.sort_by.{index}", f"sorts by {name} a second time; keep one of them"


def check_rules(prompt: Prompt | None, request: RequestFields, endpoint: Endpoint, today: date) -> Iterator[Finding]:
    """What Anthropic's API would refuse; elsewhere it is only worth knowing, for models that come from there."""
    if prompt is not None and prompt.images and endpoint.scope == "embedded":
        yield Finding("prompt.images", "the embedded model cannot see pictures; endpoint: simulator can", refused=True)
    betas = ",".join(value for name, value in endpoint.headers.items() if name.lower() == "anthropic-beta")
    anthropic = endpoint.url is not None and target(endpoint.url).is_anthropic
    facts = _facts(prompt, Facts(request, None, endpoint.version, betas, today))
    for finding in judge(facts, anthropic=anthropic):
        if finding.refused and not anthropic:
            words = f"{finding.words} (a rule of anthropic.com; {endpoint.host} may differ)"
            yield replace(finding, words=words, refused=False)
        else:
            yield finding


def _facts(prompt: Prompt | None, facts: Facts) -> Facts:
    """Add what the turns show."""
    if prompt is None or prompt.user is not None or not prompt.messages:
        return facts
    placed = [
        (turn.role, f"prompt.messages.{number}.content.{index}", block)
        for number, turn in enumerate(prompt.messages)
        for index, block in enumerate(blocks_of(turn.content))
    ]
    cited = (f"{at}.citations" for role, at, block in placed if role == "user" and _is_cited(block))
    documents = (at for role, at, block in placed if role == "assistant" and member(block, "type") == "document")
    facts = replace(facts, cited=next(cited, None), answered_document=next(documents, None))
    last = prompt.messages[-1]
    if last.role != "assistant":
        return facts
    texts = [last.content] if isinstance(last.content, str) else [member(block, "text") for block in last.content[-1:]]
    return replace(facts, prefill=len(prompt.messages) - 1, prefilled=(texts or [""])[0] or "")


def _is_cited(block: Block) -> bool:
    """Whether a text says what it cites; a document's own citations are a setting."""
    return member(block, "type") == "text" and bool(member(block, "citations"))


def check_format(answer: Answer, request: RequestFields) -> Found:
    """One way of asking for a form."""
    if answer.json_schema is not None and request.output_config is not None and request.output_config.format:
        yield "request.output_config.format", "stands beside answer.schema, which asks for the form; keep one of them"


def check_tests(tests: tuple[Example, ...], source: Source | None) -> Found:
    """Each example has a row or rows, and rows only where requests are made of several."""
    for index, example in enumerate(tests):
        path = f"tests.{index}"
        if example.row is None and example.rows is None:
            yield path, "has no row; write row: {column: value}, or rows: with a list of them"
        elif example.row is not None and example.rows is not None:
            yield f"{path}.rows", "stands beside row; keep one of them"
        elif (
            example.rows is not None and source is not None and not source.group_by and source.rows_per_request is None
        ):
            yield f"{path}.rows", "this job asks once per row, without group_by or rows_per_request; write row: instead"


def check_output(
    path: Path, patterns: tuple[str, ...], source_format: str, place: str, *, folder: bool = False
) -> Found:
    """A Parquet file or a directory of parts, and none that the source reads.

    Args:
        path: absolute.
        patterns: the source's absolute paths and globs.
        source_format: what the source reads in a directory.
        place: the dotted path, or the option, that names the output.
        folder: it may be a directory of parts.
    """
    text = str(path)
    if is_folder(path) and not (folder or path.is_dir()):
        yield (
            place,
            f"must end in .parquet, such as out/answers.parquet, or be a directory; found {quoted(path.name)}",
        )
    elif is_folder(path) and path.exists() and not path.is_dir():
        yield place, f"{shown_path(text)} is to be a directory of parts, but a file stands there"
    elif not is_folder(path) and path.is_dir():
        yield place, f"{shown_path(text)} is a directory with the name of a file; name a file, or another directory"
    for pattern in patterns:
        if _is_read(path / PART if is_folder(path) else path, pattern, source_format):
            yield (
                place,
                f"{shown_path(text)} is among what the source reads ({shown_path(pattern)}); write it elsewhere",
            )
            return


def _is_read(path: Path, pattern: str, source_format: str) -> bool:
    """Whether the source would read the output, as that file, by a glob, or in a directory it reads to its depths."""
    if str(path) == pattern or _matches(path.parts, Path(pattern).parts):
        return True
    directory = Path(pattern)
    if directory not in path.parents or source_format not in {"auto", "parquet"}:
        return False
    return not any(part.startswith((".", "_")) for part in path.relative_to(directory).parts)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path falls under a glob, part by part; ``**`` is any number of parts."""
    if "**" in pattern:
        at = pattern.index("**")
        if not _matches(parts[:at], pattern[:at]):
            return False
        rest = pattern[at + 1 :]
        return any(_matches(parts[start:], rest) for start in range(at, len(parts) + 1)) if len(parts) >= at else False
    return len(parts) == len(pattern) and all(
        fnmatchcase(part, glob) for part, glob in zip(parts, pattern, strict=True)
    )

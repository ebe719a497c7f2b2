"""Columns that a prompt does not name: what is no mistake in itself, and hardly ever meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from pipeline.errors import Complaint
from pipeline.prompt.language import Delimiters
from pipeline.prompt.names import expression_of
from pipeline.prompt.nearest import listed
from pipeline.prompt.prompts import Prompts, in_file_order
from pipeline.prompt.shape import PromptJob

VARYING = frozenset({"DATASET", "row", "row_count", "rows"})
"""Built-in names that stand for something of the rows."""

# The placeholders of other tools: {{name}}, ${name}, {name}.
BRACES = re.compile(r"(\{\{|\$\{|\{)[ \t]*([^{}\n]+?)[ \t]*(?:\}\}|\})")


def prompt_warnings(job: PromptJob, prompts: Prompts, columns: Sequence[str]) -> tuple[Complaint, ...]:
    """Warn of a prompt that is the same for every row, and of columns in the braces of other tools.

    Args:
        job: whose section `prompt` it is.
        prompts: the same, prepared.
        columns: those of the source, in its order; without any there is nothing to name.
    """
    if not columns:
        return ()
    delimiters = Delimiters(*job.prompt.delimiters)
    braces = list(dict.fromkeys(_in_braces(prompts, frozenset(columns))))
    if not _varies(prompts):
        shown = delimiters.value(expression_of(braces[0][2] if braces else columns[0]))
        found = f" ({braces[0][1]} is text to it)" if braces else ""
        words = (
            f"names no column{found}, so that every row makes the same request; name a column as {shown}; the source "
            f"has {listed(columns)}"
        )
        return (job.complain(braces[0][0] if braces else "prompt", words),)
    return tuple(
        in_file_order(
            job.complain(path, f"{text} is sent as it stands; to send the column, write {delimiters.value(shown)}")
            for path, text, shown in ((path, text, expression_of(name)) for path, text, name in braces)
        )
    )


def _varies(prompts: Prompts) -> bool:
    reads = [cell.template.reads.names for cell in prompts.cells if cell.template is not None]
    return prompts.needed is None or bool(prompts.needed) or any(names & VARYING for names in reads)


def _in_braces(prompts: Prompts, columns: frozenset[str]) -> Iterator[tuple[str, str, str]]:
    """Yield place, text and name of each column in braces.

    One in single braces that the prompt names too may well be meant as text: ``<<name>> as {name}: …``.
    """
    named = prompts.needed or frozenset()
    for cell in prompts.cells:
        for text in cell.template.texts if cell.template is not None else ():
            for found in BRACES.finditer(text):
                if found[2] in columns and not (found[1] == "{" and found[2] in named):
                    yield cell.path, found[0], found[2]

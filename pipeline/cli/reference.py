"""`docs/commands.md`: every command's `--help`, for reading. `python -m pipeline.cli.reference > docs/commands.md`."""

from __future__ import annotations

import click

from pipeline.cli.main import cli

HEAD = """\
# Commands

What `--help` says, for reading at leisure. Written by `make reference`.
"""
COLUMNS = 100


def reference() -> str:
    """The page, in Markdown."""
    pages = [HEAD, _page(cli, "pipeline", None)]
    for name in cli.list_commands(click.Context(cli)):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        parent = click.Context(cli, info_name="pipeline", help_option_names=["-h", "--help"])
        pages.append(_page(command, name, parent))
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=name, parent=parent)
            pages += [_page(inner, inner_name, context) for inner_name, inner in sorted(command.commands.items())]
    return "\n".join(pages)


def _page(command: click.Command, name: str, parent: click.Context | None) -> str:
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=COLUMNS,
        max_content_width=COLUMNS,
        help_option_names=["-h", "--help"],
    )
    text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    return f"## {context.command_path}\n\n```\n{text}\n```\n"


if __name__ == "__main__":
    print(reference(), end="")

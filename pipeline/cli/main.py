"""The command group, and the one place where errors become words and exit codes."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from pipeline import __version__
from pipeline.errors import PipelineError

COMMANDS = {
    "run": ("pipeline.cli.run", "Run a job: ask what is not answered yet, write the output."),
    "check": ("pipeline.cli.look", "Check a job and its own examples; sends nothing."),
    "preview": ("pipeline.cli.look", "Show the exact requests of the first rows; sends nothing."),
    "status": ("pipeline.cli.look", "Show what is done, failed, left and spent."),
    "estimate": ("pipeline.cli.look", "Estimate what a run would still cost, and how long it would take."),
    "limits": ("pipeline.cli.look", "Change limits of a run while it is under way."),
    "export": ("pipeline.cli.run", "Write the output again from what is answered so far."),
    "report": ("pipeline.cli.report", "Write one page of a run: outcome, spend, pace, errors, answers."),
    "verify": ("pipeline.cli.verify", "Derive an output again, and say what does not hold."),
    "journal": ("pipeline.cli.journal", "Check, measure, prune or compact a job's journal."),
    "costs": ("pipeline.cli.costs", "Report what was paid, by outputs or journals."),
    "prices": ("pipeline.cli.costs", "Show what would be charged for a model, and why."),
    "schema": ("pipeline.cli.author", "Print the JSON Schema of the job file."),
    "init": ("pipeline.cli.author", "Write a starter job that runs."),
    "serve": ("pipeline.cli.serve", "Serve /messages on loopback: a simulator, or a small model."),
}

EPILOG = """\b
Start here:
  pipeline init first-job                      a job, sample rows, ready to run
  pipeline run first-job/job.yaml --endpoint simulator
  pipeline check configs/anomaly.yaml          is the job sound? sends nothing
  pipeline run configs/anomaly.yaml            ask what is not answered yet

\b
Exit codes:
  0   complete
  1   stopped by a bug or the disk
  2   broken job or usage, a missing key variable too
  3   complete, but more rows failed than `expect` allows
  4   stopped at a limit of yours, resumable
  5   the API rejects every row alike: key, credit, model
  6   a guard on the input failed, or consent is missing; nothing sent
  75  try again later: another run holds the journal, or the API is out
  130 Ctrl-C, 143 SIGTERM, both resumable
"""


class LazyGroup(click.Group):
    """Loads a command's module only when it is run, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Names, in the order of a job's life."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The command itself."""
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command = getattr(import_module(module), f"{cmd_name}_command")
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without loading them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="pipeline")
def cli() -> None:
    """Batch pipeline for LLM /messages calls.

    A job is a YAML file: it says where rows come from, the prompt made of each, and where answers go. A run asks
    only what is not answered yet, so running it again is always right.
    """


def say(text: str) -> None:
    """A message, to stderr; control characters of foreign text are shown, not obeyed."""
    shown = "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)
    # Nobody may be reading any more; that is no reason to stop.
    with suppress(OSError, ValueError):
        print(shown, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; ends the process with the exit codes that `--help` lists."""
    # Started without stdout or stderr (`>&-`), Python has none either.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - open as long as the process lives
    # Arrow's own allocator keeps what batches leave free: 20 to 40 MiB more at the peak, for 4 to 9 % less CPU.
    # It is chosen when the library is loaded, which is later.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    code = exit_code(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    except (OSError, ValueError) as error:
        say(f"error: stdout: {getattr(error, 'strerror', None) or error}")
        code = code or 1
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    # Not sys.exit: an Arrow thread that reads ahead in a file we have given up would ask for the interpreter while
    # it is taken down, and abort the process instead of returning the code. Nothing is left to do at exit.
    os._exit(code)


def exit_code(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        result: Any = cli.main(arguments, prog_name="pipeline", standalone_mode=False)
    except PipelineError as error:
        for line in str(error).splitlines():
            say(f"error: {line}")
        return error.exit_code
    except click.UsageError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return int(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader of stdout went away (`| head`): nothing to say, and nothing more to write.
        return 141
    except OSError as error:
        # What files of ours meet is told by rooms of its own; without a name it is stdout, such as on a full disk.
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT) or error.filename is not None:
            raise
        say(f"error: stdout: {error.strerror}")
        return 1
    return result if isinstance(result, int) else 0

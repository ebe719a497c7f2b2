"""Options that every command taking a JOB has, and how a job is loaded by them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from datetime import date, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.job import Job, Overrides


WAIT = click.option(
    "--wait",
    "wait_secs",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECS",
    help="Wait so long for another run to end.",
)
"""Of every command that takes the journal's lock."""


class Parameter(click.ParamType[tuple[str, str]]):
    """``name=value``."""

    name = "k=v"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Split at the first ``=``."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not name=value, such as region=us", param, ctx)
        return name, text


class RunDate(click.ParamType[date]):
    """An ISO date."""

    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Read YYYY-MM-DD."""
        if isinstance(value, date):
            return value
        try:
            return datetime.strptime(str(value), "%Y-%m-%d").date()  # noqa: DTZ007 - a date has no zone
        except ValueError:
            self.fail(f"{value!r} is not a date such as 2026-11-22", param, ctx)


def job_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command its JOB argument and the options that select a run of it; it is called with `job_args`."""

    @click.argument("job", type=click.Path(path_type=Path), metavar="JOB")
    @click.option("--param", "params", type=Parameter(), multiple=True, help="Set a param of the job; repeatable.")
    @click.option("--date", "run_date", type=RunDate(), help="The run's date, for ${date}; default: today.")
    @click.option("--endpoint", metavar="WORD|URL", help="embedded, simulator, or another /messages URL.")
    @click.option("--api-key-env", metavar="NAME", help="Variable that holds the key for --endpoint URL.")
    @click.option("--output", type=str, metavar="FILE", help="Write here instead; a directory of parts ends in /.")
    @wraps(command)
    def wrapped(
        job: Path,
        params: tuple[tuple[str, str], ...],
        run_date: date | None,
        endpoint: str | None,
        api_key_env: str | None,
        output: str | None,
        **rest: Any,
    ) -> Any:
        from pipeline.job import Overrides

        overrides = Overrides(
            params=dict(params),
            date=run_date,
            endpoint=endpoint,
            api_key_env=api_key_env,
            output=None if output is None else Path(output),
            output_folder=output is not None and output.endswith("/"),
            limit=rest.get("limit"),
            budget=rest.get("budget"),
        )
        return command(job, overrides, **rest)

    return wrapped


def selection(job: Path, overrides: Overrides) -> str:
    """The words that select the same run again on a command line."""
    words = [str(job)]
    for name, value in overrides.params.items():
        words += ["--param", f"{name}={value}"]
    for flag, given in (
        ("--date", overrides.date),
        ("--endpoint", overrides.endpoint),
        ("--api-key-env", overrides.api_key_env),
        ("--output", f"{overrides.output}/" if overrides.output_folder else overrides.output),
    ):
        words += [flag, str(given)] if given is not None else []
    return shlex.join(words)


def load_job(path: Path, overrides: Overrides) -> Job:
    """Load the job by the command line's words and this process's environment."""
    from pipeline.job import load

    return load(path, overrides, environ=os.environ)

"""`check`, `preview`, `status`, `estimate`, `limits`: commands that look at a job or its run."""

from __future__ import annotations

import json
import os
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli.main import say
from pipeline.cli.options import job_options, load_job, selection
from pipeline.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.cli.console import Terminal
    from pipeline.errors import Complaint, RowError
    from pipeline.job import Job, Overrides
    from pipeline.prompt import Prompts
    from pipeline.source import Reader

RENDERED = 100
TUNABLE = ("requests_per_minute", "input_tokens_per_minute", "output_tokens_per_minute", "concurrency")
MOST_OF_A_LIMIT = 1e12
SAMPLED = (0, 3)


@click.command("check")
@job_options
def check_command(job: Path, overrides: Overrides) -> int:
    """Check JOB: the file, the source's real columns against the placeholders, and the job's own `tests:`.

    Sends nothing and writes nothing. Says every complaint with file, line and column.

    \b
    Example:
      pipeline check configs/anomaly.yaml
    """
    from pipeline.output import output_schema
    from pipeline.prompt import check_examples
    from pipeline.run.ready import make_ready

    loaded = load_job(job, overrides)
    ready = make_ready(loaded, fetches=False)
    reader, contract = ready.reader, ready.contract
    output_schema(loaded, reader.kept_schema, contract.reading.fields)
    complaints = check_examples(loaded, reader.columns)
    if complaints:
        raise JobError(*complaints)
    rendered, verdict = _rendered(loaded, reader, ready.prompts)
    for warning in (*ready.warnings, *_of_the_endpoint(loaded)):
        say(f"warning: {warning}")
    print(f"{job}: {verdict}")
    print(f"  source   columns {', '.join(reader.columns)}")
    print(f"  rows     {rendered}")
    columns = ", ".join([*reader.kept_schema.names, *contract.reading.fields.names]) or "no input columns"
    print(f"  output   {loaded.mask(str(loaded.output.path))}: {columns}, then the run's own columns")
    print(f"  asks     {loaded.request.model} at {loaded.endpoint.url or loaded.endpoint.word}")
    if contract.way is not None:
        print(f"  answers  {_WAYS[contract.way]}")
    for field in contract.reading.fields:
        print(f"           {field.name}: {field.type}")
    if contract.dropped:
        print(f"           the API takes no {', '.join(contract.dropped)}: told in words, and checked here")
    print(
        f"  tests    {len(loaded.tests)} passed" if loaded.tests else "  tests    none; add `tests:` to hold the prompt"
    )
    return 0


_WAYS = {
    "format": "by the API's structured output (output_config.format)",
    "tool": "by a tool that the model is made to call",
    "prompt": "asked for in the system prompt",
}


def _of_the_endpoint(job: Job) -> Iterator[Complaint | str]:
    """What a run would stumble over that is no matter of the job file: its key, and its model's price.

    Nothing where the endpoint wants no key, as simulators and servers of one's own do not.
    """
    from pipeline.cost import Pricer, user_book
    from pipeline.errors import JobError
    from pipeline.records import Usage
    from pipeline.run.coordinator import now
    from pipeline.run.money import check_price, terms_asked

    endpoint = job.endpoint
    if endpoint.key_name is None and endpoint.keyless_because is None:
        return
    try:
        endpoint.api_key(os.environ)
    except JobError as error:
        yield from error.complaints
    pricer = Pricer(job.prices, user=user_book(os.environ), free=endpoint.scope == "embedded")
    try:
        check_price(job, pricer, now())
    except JobError as error:
        yield from error.complaints
    else:
        model = job.request.model
        terms = terms_asked(job)
        price = pricer.price(Usage(1, 1), answered=None, asked=model, at=now(), reported_nanos=None, terms=terms)
        if price.nanos is None:
            yield f"no price is known for {model}: cost will be null; set prices: in the job"


def _rendered(job: Job, reader: Reader, prompts: Prompts) -> tuple[str, str]:
    """How the first requests render, in words, and what is to be thought of the job.

    All rows are read where the job says what their values are: one that does not fit would break the run.

    Raises:
        JobError: none of them does, for a reason that is in the templates; a value does not fit the job.
    """
    from itertools import chain, islice

    from pipeline.errors import JobError, RowError

    number = 0
    failures: list[RowError] = []
    rows = chain.from_iterable(batch.rows for batch in reader.batches())
    for row in islice(rows, RENDERED):
        number += 1
        try:
            prompts.build(row)
        except RowError as error:
            failures.append(error)
    if number and all(error.error_type == "template" for error in failures) and len(failures) == number:
        raise JobError(job.complain("prompt", f"none of the first {number} requests can be made: {failures[0]}"))
    more = next(rows, None) is not None
    if more and (job.source.types or job.source.where):
        deque(rows, maxlen=0)
    if not number:
        needs = "" if job.expect.min_rows == 0 else "; a run would need expect.min_rows: 0"
        return f"none now{needs}", "sound"
    of = f"the first {number} requests" if more else "the only request" if number == 1 else f"all {number} requests"
    if failures:
        few = of if len(failures) == number else f"{len(failures)} of {of}"
        told = f"{few} fail{'s' if number == 1 else ''} before sending"
        return f"{told}, such as: {failures[0]}", f"sound, but {told}"
    return f"{of} render{'s' if of == 'the only request' else ''}", "sound"


@click.command("preview")
@job_options
@click.option("-n", "number", type=click.IntRange(min=1), default=3, show_default=True, help="How many requests.")
@click.option(
    "--pictures",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write the pictures there as they would be sent.",
)
def preview_command(job: Path, overrides: Overrides, *, number: int, folder: Path | None) -> int:
    """Show the exact request bodies of the first rows of JOB, with estimated tokens; asks the API nothing.

    Pictures are shown as their size and the beginning of their bytes.

    \b
    Examples:
      pipeline preview configs/classify.yaml -n 1
      pipeline preview configs/classify.yaml | jq .body.messages
      pipeline preview configs/captions.yaml --pictures prepared/
    """
    from itertools import chain, islice

    from pipeline.errors import RowError
    from pipeline.run.preview import preview
    from pipeline.run.ready import make_ready

    loaded = load_job(job, overrides)
    ready = make_ready(loaded)
    shown: dict[str, Any] | None = None
    try:
        for row in islice(chain.from_iterable(batch.rows for batch in ready.reader.batches()), number):
            try:
                shown = preview(loaded, ready, row, folder)
            except RowError as error:
                shown = {"row": row.id, "error_type": error.error_type, "error_message": str(error)}
            print(json.dumps(shown, indent=2, ensure_ascii=False))
    finally:
        ready.close()
    if shown is None:
        say("there is no row now, so there is no request to show")
    return 0


@click.command("status")
@job_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status_command(job: Path, overrides: Overrides, *, as_json: bool) -> int:
    """Show what of a run of JOB is done, failed, left and spent; of a run in progress too. Sends nothing.

    Without --date it is the run that was started last, of those that --param and --endpoint fit.

    \b
    Example:
      pipeline status nightly.yaml
    """
    from pipeline.cli.looking import chosen_by
    from pipeline.cost import usd_text
    from pipeline.run.look import standing_of

    state = standing_of(load_job(job, overrides), chosen=chosen_by(overrides))
    if as_json:
        print(json.dumps(state.as_json()))
        return 0
    print(f"run     {state.run_id}: {state.words}")
    by_status = ", ".join(f"{n:,} {s}" for s, n in state.rows.items() if n)
    print(f"rows    {sum(state.rows.values()):,}: {by_status}" if by_status else "rows    none")
    print(f"calls   {state.calls:,}, of which {state.in_flight:,} in flight")
    maybe = f", up to {usd_text(state.maybe_nanos)} more for calls that were lost" if state.maybe_nanos else ""
    print(f"cost    {'≥ ' if state.unpriced else ''}{usd_text(state.cost_nanos)}{maybe}")
    if (pulse := state.pulse) is not None:
        print(
            f"rate    {pulse.answers_per_minute:,.0f} answers, {pulse.input_tokens_per_minute:,.0f} input and "
            f"{pulse.output_tokens_per_minute:,.0f} output tokens a minute"
        )
        print(f"bound   {(pulse.bound_by or 'not known yet').replace('_', ' ')}")
    return 0


class Setting(click.ParamType[tuple[str, float]]):
    """``key=value`` of the limits that can change while a run is under way."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        """Check the key, and read the number."""
        if isinstance(value, tuple):
            return value
        name, _, text = str(value).partition("=")
        if name not in TUNABLE:
            self.fail(f"{name!r} is not among {', '.join(TUNABLE)}", param, ctx)
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if not 0 < number <= MOST_OF_A_LIMIT or (name == "concurrency" and not number.is_integer()):
            wanted = "a whole number from 1" if name == "concurrency" else "a number above 0"
            self.fail(f"{name} must be {wanted}, found {text!r}", param, ctx)
        return name, number


@click.command("limits")
@job_options
@click.argument("settings", type=Setting(), nargs=-1, required=True, metavar="KEY=VALUE…")
def limits_command(job: Path, overrides: Overrides, *, settings: tuple[tuple[str, float], ...]) -> int:
    """Change limits of JOB's run while it is under way; it takes them over within seconds, without a burst.

    KEY is requests_per_minute, input_tokens_per_minute, output_tokens_per_minute or concurrency. The job file stays as
    it is: write there what the next run is to have.

    \b
    Example:
      pipeline limits nightly.yaml requests_per_minute=500 concurrency=16
    """
    from pipeline.cli.looking import chosen_by
    from pipeline.run.look import set_limits

    run = set_limits(load_job(job, overrides), dict(settings), chosen=chosen_by(overrides))
    say(f"asked of run {run}: " + ", ".join(f"{name} {value:g}" for name, value in settings))
    return 0


@click.command("estimate")
@job_options
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Ask the first N requests first, and go by their answers; they are part of the run and paid once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, last on stdout.")
def estimate_command(job: Path, overrides: Overrides, *, sample: int | None, as_json: bool) -> int:
    """Estimate what a run of JOB would still cost: rows left to pay for, tokens, USD (low to high), and how long.

    Without --sample nothing is sent, and until there are answers to go by the range is wide: it reaches from short
    answers to `max_tokens` in each.

    \b
    Examples:
      pipeline estimate nightly.yaml
      pipeline estimate nightly.yaml --sample 20
    """
    from pipeline.cli.console import Terminal
    from pipeline.run.estimate import estimate, estimate_text

    console = Terminal()
    if sample is not None:
        code = _ask_sample(job, replace(overrides, limit=sample), sample, console)
        if code not in SAMPLED:
            return code
    found = estimate(load_job(job, overrides), console, environ=os.environ)
    print(json.dumps(found.as_json()) if as_json else estimate_text(found))
    return 0


def _ask_sample(job: Path, overrides: Overrides, number: int, console: Terminal) -> int:
    """Run the first requests as a trial; gives its exit code."""
    from pipeline.cli.serve import local_server
    from pipeline.run.start import Options, Start, interruptible

    options = Options(limit=number, command="pipeline estimate", selection=selection(job, overrides))
    with interruptible():
        summary = Start(load_job(job, overrides), options, console, environ=os.environ, serve=local_server).execute()
    return summary.exit_code

"""The job file's sections as models; the descriptions are the reference: meaning, unit, default, example of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag

from pipeline.job.answer import Answer
from pipeline.job.blocks import Content, SystemContent
from pipeline.job.fields import (
    Checked,
    Choice,
    FilePath,
    FinishTime,
    Flag,
    Free,
    FreeRows,
    Kind,
    Number,
    Params,
    ProblemError,
    PromptText,
    Schema,
    Seconds,
    Text,
    TextMap,
    Texts,
    Whole,
    WholeOrAuto,
    path_text,
)
from pipeline.job.nodes import Scalar
from pipeline.job.prices import Prices
from pipeline.job.request import RequestFields
from pipeline.job.section import Section, list_unless_nothing
from pipeline.job.urls import DEFAULT_URL, SCOPES, WORDS, target
from pipeline.job.words import did_you_mean, found, hide_keys, quoted

NAME = r"[a-z0-9](?:[a-z0-9-]{0,98}[a-z0-9])?"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
PARAM_NAME = r"[A-Za-z_][A-Za-z0-9_]*"

ParamValue = str | int | float | bool | None


def separator_char(text: str) -> str:
    """Let one printable ASCII character, or a tab, pass."""
    if len(text) == 1 and (text == "\t" or " " <= text <= "~") and text != '"':
        return text
    hint = '; write a tab as "\\t", in double quotes' if text in {"\\t", "tab", "TAB"} else ""
    raise ProblemError(f'must be one ASCII character other than ", such as ";"; found {quoted(text)}{hint}')


def encoding_name(text: str) -> str:
    """Let the name of a text encoding pass."""
    try:
        # Of an empty text Python would not even look the encoding up.
        b"a".decode(text)
    except UnicodeError:
        return text
    except (LookupError, ValueError) as error:
        raise ProblemError(
            f"must be a text encoding, such as utf-8, latin-1 or cp1252; found {quoted(text)}"
        ) from error
    return text


class Csv(Section):
    """How CSV and TSV files are written."""

    separator: Annotated[str | None, Checked(optional=True, by=separator_char, wanted="one character")] = Field(
        None,
        description='The character between two fields; one ASCII character, a tab as "\\t". Default: a tab for files '
        'named .tsv or .tab, a comma for all else. Example: ";".',
    )
    encoding: Annotated[str, Checked(by=encoding_name, wanted="a text encoding")] = Field(
        "utf-8", description="The files' text encoding, by any name that Python knows. Default: utf-8. Example: cp1252."
    )
    null_values: Annotated[tuple[str, ...], Texts(item=Text(empty=True), null_words=True)] = Field(
        (),
        description="Texts that mean: no value. An empty field always does. Default: []. Example: [NA, n/a].",
    )


Format = Literal["auto", "parquet", "csv", "ndjson", "images"]
ColumnType = Literal["string", "integer", "number", "boolean", "date", "datetime"]
COLUMN_TYPES = get_args(ColumnType)


class Source(Section):
    """The table that the requests are made of."""

    LATER = frozenset({"window"})

    path: Annotated[
        tuple[str, ...], Texts(item=Checked(by=path_text, wanted="a path"), one=True, at_least=1, unique=True)
    ] = Field(
        description="What to read: a file, a glob, a directory, or a list of these. Relative paths start at the job "
        "file's directory. The files of a glob are read in byte order of their paths. ${name}, ${date} and "
        '${env:NAME} are filled in. Required. Example: "../data/readings/${date}/*.parquet".'
    )
    format: Annotated[Format, Choice(words=("auto", "parquet", "csv", "ndjson", "images"))] = Field(
        "auto",
        description="What the files hold: auto goes by their names (.parquet, .csv, .tsv, .ndjson, .jsonl, each of "
        "the text formats also with .gz or .zst; or pictures, where there are no others). images takes the pictures "
        "themselves, by the endings of their names, for rows with path, name, size, modified, format, width, height "
        "and taken, and leaves out other files. Default: auto. Example: csv.",
    )
    csv: Csv = Field(
        Csv(),
        description="How CSV files are written. Default: commas, UTF-8. Example: {separator: ';', null_values: [NA]}.",
    )
    types: Annotated[dict[str, ColumnType], TextMap(item=Choice(words=COLUMN_TYPES))] = Field(
        {},
        description="Types of columns, by name, instead of those that would be inferred from CSV and NDJSON: string, "
        "integer, number, boolean, date or datetime. Default: {}. Example: {ticket_id: string}.",
    )
    where: Annotated[str | None, Text(optional=True, wanted="a condition in SQL")] = Field(
        None,
        description="Which rows to take: a condition in polars' SQL, as it would stand in SELECT … FROM rows WHERE …, "
        "on one row at a time. It sees every column. Text beside a number is refused: say which is meant, as in "
        "CAST(value AS DOUBLE) > 10.5 or id = '10'. Default: all rows. Example: value IS NOT NULL.",
    )
    columns: Annotated[tuple[str, ...] | None, Texts(optional=True, at_least=1, unique=True)] = Field(
        None,
        description="The columns that templates may name and outputs may keep; `where`, `id`, `sort_by` and "
        "`group_by` still see the others. Default: all columns. Example: [sensor_id, ts, value].",
    )
    id: Annotated[tuple[str, ...] | None, Texts(optional=True, one=True, at_least=1, unique=True)] = Field(
        None,
        description="Columns whose values name a row in messages; they must be unique together. Default: the file and "
        "the row's number, or the group's keys and chunk. Example: [sensor_id, ts].",
    )
    limit: Annotated[int | None, Whole(optional=True, at_least=1)] = Field(
        None, description="Take this many input rows, counted after `where`. Default: all. Example: 1000."
    )
    sort_by: Annotated[
        tuple[str, ...], Texts(one=True, unique=True, item=Text(wanted="a column, such as ts or -ts"))
    ] = Field(
        (),
        description="Columns to sort by; a minus in front sorts descending. Ties keep the source's order. Default: "
        "the source's order. Example: [ts] or [-ts].",
    )
    group_by: Annotated[tuple[str, ...], Texts(one=True, unique=True)] = Field(
        (),
        description="One request for each group of rows that have equal values in these columns; the output is "
        "ordered by them, nulls first. One group must fit in memory. Default: one request per row. Example: "
        "[sensor_id].",
    )
    rows_per_request: Annotated[int | None, Whole(optional=True, at_least=1)] = Field(
        None,
        description="One request for this many consecutive rows, counted anew in each group, or in each file where "
        "there are no groups. Default: one request per row, or per group. Example: 200.",
    )


class Turn(Section):
    """One turn of a conversation."""

    role: Annotated[Literal["user", "assistant"], Choice(words=("user", "assistant"), literal=True)] = Field(
        description="Who speaks. Required; no default. Example: user."
    )
    content: Content = Field(
        description="What is said: a template, {file: path}, or a list of content blocks, in which the text of text "
        "blocks is a template and any other block goes as it is written. Required; no default. Example: "
        '"Is <<title>> a book?".'
    )


DatasetFormat = Literal["csv", "json", "ndjson", "markdown"]


class Dataset(Section):
    """How <<DATASET>> renders the rows of a request."""

    format: Annotated[DatasetFormat, Choice(words=("csv", "json", "ndjson", "markdown"), literal=True)] = Field(
        "csv",
        description="csv, json (a list of objects), ndjson or markdown (a table). Default: csv. Example: markdown.",
    )
    columns: Annotated[tuple[str, ...] | None, Texts(optional=True, at_least=1, unique=True, literal=True)] = Field(
        None, description="The columns that are shown, in this order. Default: all of them. Example: [ts, value]."
    )


def allowed_host(text: str) -> str:
    """Let the name of a host, with or without a port, an address or a network pass."""
    if re.match(r"[a-z]+://", text):
        raise ProblemError(f"must be a host, such as images.local; found {quoted(text)}, which is a URL")
    if "/" in text:
        try:
            ip_network(text.strip("[]"))
        except ValueError as error:
            raise ProblemError(f"must be a host or a network, such as 10.1.0.0/16; found {quoted(text)}") from error
    elif not re.fullmatch(r"\[?[A-Za-z0-9_.:-]+\]?(?::[0-9]+)?", text):
        raise ProblemError(f"must be a host, such as images.local or images.local:8080; found {quoted(text)}")
    return text


class Image(Section):
    """How pictures are prepared; one that the API takes as it is is not touched."""

    as_: Annotated[Literal["base64", "url", "file"], Choice(words=("base64", "url", "file"), literal=True)] = Field(
        "base64",
        alias="as",
        description="How pictures are sent: base64 reads and prepares them; url sends the URL that the column holds "
        "and downloads nothing; file sends the id of an uploaded file that the column holds. Default: base64. "
        "Example: url.",
    )
    max_side: Annotated[int | None, Whole(optional=True, literal=True, at_least=28, at_most=8_000)] = Field(
        None,
        description="Pixels that the longer side may have; larger pictures are made smaller. Default: what the model "
        "looks at anyway, 1568 or 2576, and as many tokens. Example: 800.",
    )
    format: Annotated[
        Literal["jpeg", "png", "webp"] | None, Choice(optional=True, words=("jpeg", "png", "webp"), literal=True)
    ] = Field(
        None,
        description="The format of all pictures: jpeg, png or webp. Default: that of each picture, where the API takes "
        "it, else jpeg, or png for what is transparent. Example: jpeg.",
    )
    quality: Annotated[int | None, Whole(optional=True, literal=True, at_least=1, at_most=100)] = Field(
        None,
        description="Quality of the JPEG and WebP that are written, 1 to 100; lowered where a picture would be too "
        "large to send. Default: 85. Example: 70.",
    )
    allow_hosts: Annotated[
        tuple[str, ...],
        Texts(
            one=True, unique=True, literal=True, item=Checked(by=allowed_host, wanted="a host, such as images.local")
        ),
    ] = Field(
        (),
        description="Hosts, addresses or networks that pictures may come from although their addresses are private, "
        "loopback or link-local. Default: []. Example: [images.local, 10.1.0.0/16].",
    )


CacheSpan = Literal[False, "5m", "1h"]


@dataclass(frozen=True, slots=True)
class Span(Kind):
    """How long the API keeps a prefix; true is the shorter span."""

    def read(self, value: Any) -> Literal[False, "5m", "1h"]:
        """Give the span, or False for none."""
        text = value.text if isinstance(value, Scalar) else value
        if text in ("5m", "1h"):
            return "5m" if text == "5m" else "1h"
        try:
            return "5m" if Flag().read(value) else False
        except ProblemError as problem:
            raise ProblemError(f"must be true, false, 5m or 1h; found {found(value)}") from problem

    def shape(self) -> Schema:
        """The words, or true or false."""
        return {"anyOf": [{"type": "boolean"}, {"type": "string", "enum": ["5m", "1h"]}]}


class Prompt(Section):
    """What is asked, as templates. ${name} is plain text here; columns and params are named in << >>."""

    WAYS_OUT: ClassVar[Mapping[str, str]] = {
        "file": "name the file under the text it holds, as in user: {file: prompt.md}",
        "template": "write user: instead",
        "text": "write user: instead",
        "assistant": "write messages: with a turn of role assistant",
        "cache_control": "write cache: true, or cache: 1h",
    }

    system: SystemContent = Field(
        None,
        description="The system prompt: a template, {file: path}, or a list of text blocks. Default: none is sent. "
        "Example: You are a seasoned data scientist.",
    )
    user: Annotated[str | None, PromptText(optional=True, literal=True)] = Field(
        None,
        description="What the user says: a template, or {file: path}. Either this or `messages` is required. <<name>> "
        'is a column\'s value, <<params.x>> a param, <<DATASET>> all rows of the request, <<row["Unit Price"]>> a '
        'column with any name. Default: none. Example: "Summarise: <<text>>".',
    )
    messages: Annotated[tuple[Turn, ...], BeforeValidator(list_unless_nothing)] = Field(
        (),
        description="Several turns instead of `user`; they alternate, the first is the user's, and a last one by the "
        "assistant is a beginning of its answer. Default: []. Example: [{role: user, content: Hello}, {role: "
        "assistant, content: Hi}, {role: user, content: <<text>>}].",
    )
    dataset: Dataset = Field(
        Dataset(),
        description="How <<DATASET>> renders its rows. Default: csv with all columns. Example: {format: markdown, "
        "columns: [ts, value]}.",
    )
    images: Annotated[tuple[str, ...], Texts(one=True, unique=True, literal=True)] = Field(
        (),
        description="Columns that hold pictures: a path, an http or https URL, bytes, or a list of these; PDFs too. "
        "They come before the text of the last turn of the user. Default: none, or the pictures themselves where "
        "they are the source. Example: [image_path].",
    )
    image_root: Annotated[Path | None, FilePath(optional=True, literal=True)] = Field(
        None,
        description="The folder that picture files come from: relative paths start there, and none leads out of it. "
        "Default: the folder of the source where that is pictures, else the job file's directory. Example: "
        "../data/photos.",
    )
    image: Image = Field(
        Image(), description="How pictures are prepared. Default: as the model takes them. Example: {max_side: 800}."
    )
    cache: Annotated[CacheSpan, Span(literal=True)] = Field(
        default=False,
        description="Whether the API keeps what all rows share for the next row, which then costs a tenth of its "
        "price or less: all before the first text that names a row's value (tools, system, turns, and the beginning "
        "of that text) is marked with cache_control. true or 5m keeps it for 5 minutes after each use, 1h for an hour; "
        "writing it costs 1.25 times the price of input, for an hour 2 times. What is asked stays the same. Default: "
        "false. Example: 1h.",
    )
    delimiters: Annotated[
        tuple[str, ...], Texts(item=Text(wanted="a delimiter, such as <<"), at_least=1, literal=True)
    ] = Field(
        ("<<", ">>"),
        description='What stands around a value in templates: two different texts. Default: ["<<", ">>"]. Example: '
        '["[[", "]]"].',
    )


_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ENV = r"\$\{env:[A-Za-z_][A-Za-z0-9_]*\}"
_SECRET_VALUE = re.compile(rf"(?:[A-Za-z][A-Za-z0-9-]* )?{_ENV}|[A-Za-z0-9_.-]+={_ENV}(?:; ?[A-Za-z0-9_.-]+={_ENV})*")
SECRET_HEADERS = frozenset({"authorization", "x-api-key", "api-key", "cookie", "proxy-authorization"})
"""Headers whose values are secrets; their names in lower case."""

_OWN_HEADERS = {
    "anthropic-version": "write endpoint.version instead",
    "connection": "the program sets it",
    "content-length": "the program sets it",
    "content-type": "the program sets it",
    "accept-encoding": "the program sets it",
    "host": "the program sets it",
    "transfer-encoding": "the program sets it",
}


def header(name: str, value: Any) -> None:
    """Refuse header names and values that cannot be sent, or that hold a secret in plain sight."""
    if not _HEADER.fullmatch(name):
        raise ProblemError(f"{quoted(name)} is no name of a header; letters, digits and - are")
    if way_out := _OWN_HEADERS.get(name.lower()):
        raise ProblemError(f"the header {name} cannot be set here; {way_out}")
    text = value.text if isinstance(value, Scalar) else value
    written = (value.written or value.text) if isinstance(value, Scalar) else value
    if not isinstance(text, str):
        return
    if name.lower() in SECRET_HEADERS and not _SECRET_VALUE.fullmatch(str(written)):
        raise ProblemError(
            f"the header {name} holds a secret, which must not stand in the file; write it as ${{env:NAME}}, such as "
            f"{name}: {'Bearer ' if name.lower() == 'authorization' else ''}${{env:API_TOKEN}}, and export that "
            f"variable"
        )
    if hide_keys(str(written)) != written:
        raise ProblemError("holds what looks like an API key; write it as ${env:NAME} and export that variable")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ProblemError("holds a line break or another control character, which no header may")
    if not text.isascii():
        raise ProblemError("holds characters beyond ASCII, which no header may")


def looks_like_a_key(text: str) -> bool:
    """Whether text that should name a variable is rather the key itself."""
    plain = re.sub(r"[^A-Za-z0-9]", "", text)
    digits = sum(char.isdigit() for char in plain)
    return text.startswith("sk-") or (len(text) >= 20 and digits >= 4 and "_" not in text)


def variable(text: str) -> str:
    """Let the name of an environment variable pass; never show what may be a key."""
    if looks_like_a_key(text):
        raise ProblemError(
            "holds what looks like the key itself; export the key (export ANTHROPIC_API_KEY=…) and write the "
            "variable's name, as in api_key_env: ANTHROPIC_API_KEY"
        )
    if not re.fullmatch(VARIABLE, text):
        raise ProblemError(
            "must be the name of an environment variable, such as ANTHROPIC_API_KEY, without a $ in front"
        )
    return text


def _url(text: str) -> str:
    target(text)
    return text


_LITERAL_KEY = (
    "a key must not stand in the file; export it (export ANTHROPIC_API_KEY=…) and write the variable's name, as in "
    "api_key_env: ANTHROPIC_API_KEY, or the file that holds it, as in api_key_file: key.txt"
)


class EndpointFields(Section):
    """Where requests go, and how they prove who sends them."""

    WAYS_OUT: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            ("api_key", "key", "apikey", "api-key", "token", "api_token", "secret", "password"), _LITERAL_KEY
        ),
        "base_url": "write url",
        "timeout": "write limits.timeout_secs",
    }

    url: Annotated[str, Checked(by=_url, wanted=f"a URL, such as {DEFAULT_URL}")] = Field(
        DEFAULT_URL,
        description="The service. /messages is appended; a URL that ends in /messages is taken as it is; a bare host "
        "gets /v1/messages. Queries, and names or passwords before the host, are refused. "
        f"Default: {DEFAULT_URL}. Example: https://api.aimlapi.com/v1.",
    )
    api_key_env: Annotated[
        str | None, Checked(optional=True, by=variable, wanted="the name of an environment variable")
    ] = Field(
        None,
        description="The environment variable that holds the API key. Default: ANTHROPIC_API_KEY, but none for a host "
        "on this machine or a private or link-local address, nor where a header carries the key; null sends none. "
        "Example: AIMLAPI_KEY.",
    )
    api_key_file: Annotated[Path | None, FilePath(optional=True)] = Field(
        None,
        description="A file that holds the API key and nothing else, instead of a variable; a line break at its end "
        "does not count. Default: none. Example: /run/secrets/anthropic.",
    )
    auth: Annotated[Literal["bearer", "x-api-key"] | None, Choice(optional=True, words=("bearer", "x-api-key"))] = (
        Field(
            None,
            description="How the key is sent: `Authorization: Bearer …` or `x-api-key: …`. Default: x-api-key at "
            "anthropic.com, bearer elsewhere. Example: bearer.",
        )
    )
    version: Annotated[
        str | None, Text(optional=True, pattern=r"[\x21-\x7e]{1,100}", wanted='a version, such as "2023-06-01"')
    ] = Field(
        "2023-06-01",
        description="The header anthropic-version; null sends none. It is part of what an answer is kept under. "
        'Default: "2023-06-01", the last that takes sampling parameters. Example: "2026-10-21".',
    )
    headers: Annotated[dict[str, str], TextMap(item=Text(empty=True), check=header)] = Field(
        {},
        description="Further headers. authorization, x-api-key, api-key and cookie take only ${env:NAME}. Default: "
        "{}. Example: {anthropic-beta: output-300k-2026-03-24}.",
    )
    scope: Annotated[
        Literal["embedded", "simulator", "local", "public"] | None, Choice(optional=True, words=SCOPES)
    ] = Field(
        None,
        description="Who may share answers with this endpoint: embedded, simulator, local or public. Default: local "
        "for localhost and for loopback, private and link-local addresses, else public. Example: local.",
    )


def _endpoint_kind(value: Any) -> str:
    is_word = isinstance(value, str) or (isinstance(value, Scalar) and not value.is_null)
    return "<word>" if is_word else "<section>"


EndpointWord = Literal["embedded", "simulator"]


class EndpointChoice(Choice):
    """One of the words that name a server of our own."""

    def read(self, value: Any) -> str:
        """Give the word; for a URL, say where to write it."""
        text = value.text if isinstance(value, Scalar) else value
        if isinstance(text, str) and re.match(r"https?://", text):
            raise ProblemError("a URL stands under the key url; write endpoint: {url: …}")
        if isinstance(text, str) and text in WORDS:
            return text
        raise ProblemError(
            f"must be embedded, simulator, or a mapping such as {{url: {DEFAULT_URL}}}; found "
            f"{found(value)}{did_you_mean(str(text), WORDS)}"
        )


class Limits(Section):
    """How fast, how long and how often to try. Every *_secs also takes 30s, 10m, 8h."""

    LATER = frozenset({"shared"})
    WAYS_OUT: ClassVar[Mapping[str, str]] = {
        "rpm": "write requests_per_minute",
        "retries": "write attempts, which counts the first one too",
    }

    requests_per_minute: Annotated[float | None, Number(optional=True, above=0)] = Field(
        None,
        description="Requests started per minute, at most. Default: what the server's headers and refusals teach. "
        "Example: 1000.",
    )
    input_tokens_per_minute: Annotated[float | None, Number(optional=True, above=0)] = Field(
        None,
        description="Input tokens sent per minute, at most; those read from the API's cache do not count. Default: "
        "what the server's headers and refusals teach. Example: 2000000.",
    )
    output_tokens_per_minute: Annotated[float | None, Number(optional=True, above=0)] = Field(
        None,
        description="Output tokens per minute, at most; known only afterwards, so held by an estimate that errs high "
        "until it has settled. Default: what the server's headers and refusals teach. Example: 400000.",
    )
    concurrency: Annotated[int | Literal["auto"], WholeOrAuto(whole=Whole(at_least=1, at_most=10_000))] = Field(
        "auto",
        description="Calls in flight at once: a number, or auto, which starts low and grows while more answers come of "
        "it. Default: auto. Example: 64.",
    )
    attempts: Annotated[int, Whole(at_least=1, at_most=1_000)] = Field(
        6,
        description="How often a row is sent before it fails, the first time included; refusals during a pause that "
        "all rows share do not count. Default: 6. Example: 3.",
    )
    timeout_secs: Annotated[float, Seconds(above=0)] = Field(
        600, description="Seconds that one attempt may take. Default: 600. Example: 10m."
    )
    row_deadline_secs: Annotated[float, Seconds(above=0)] = Field(
        3600,
        description="Seconds that a row's own attempts and waits may take together; pauses that all rows share stop "
        "this clock. Default: 3600. Example: 1h.",
    )
    image_bytes_in_flight: Annotated[int, Whole(at_least=1024 * 1024)] = Field(
        256 * 1024 * 1024,
        description="Bytes that prepared pictures on their way may take together, however many calls are in flight; "
        "one request alone may be larger. Default: 268435456, which is 256 MiB. Example: 67108864.",
    )
    give_up_after_secs: Annotated[float, Seconds(at_least=0)] = Field(
        1800, description="Seconds that an outage of the API may last before the run ends. Default: 1800. Example: 8h."
    )
    grace_secs: Annotated[float, Seconds(at_least=0)] = Field(
        30,
        description="Seconds to let calls in flight finish on Ctrl-C, SIGTERM or finish_by. Default: 30. Example: 2m.",
    )
    finish_by: Annotated[str | float | None, FinishTime(optional=True)] = Field(
        None,
        description="When to be done: the next such time of day in `timezone`, or a span from the start. No call "
        "starts that would not be answered in time; the run ends with exit 4 and can be resumed. Default: no limit. "
        'Example: "06:00".',
    )


class Budget(Section):
    """Money that is not to be passed. What a call may cost at most is reserved before it is made."""

    run_usd: Annotated[float | None, Number(optional=True, at_least=0)] = Field(
        None,
        description="USD that a run may cost since it was last complete; --budget takes its place. Default: no cap. "
        "Example: 25.",
    )
    month_usd: Annotated[float | None, Number(optional=True, at_least=0)] = Field(
        None,
        description="USD that all runs of this job may cost in a calendar month (UTC), at the same kind of endpoint. "
        "Default: no cap. Example: 400.",
    )


class Expect(Section):
    """Guards: what a sound run looks like."""

    min_rows: Annotated[int, Whole(at_least=0)] = Field(
        1,
        description="Requests that the source must come to, at least; 0 accepts an empty source. Default: 1. Example: "
        "1000.",
    )
    max_failed_ratio: Annotated[float | None, Number(optional=True, at_least=0, at_most=1)] = Field(
        None,
        description="The share of rows that may fail before the run counts as spoiled (exit code 3), 0 to 1. Default: "
        "none may fail. Example: 0.01.",
    )


def output_path(text: str) -> Path:
    """Let the path of a Parquet file pass, or of a directory of parts."""
    path = Path(path_text(text))
    if text.endswith("/") == is_folder(path):
        return path
    if text.endswith("/"):
        raise ProblemError(
            f"{quoted(text)} is a directory of parts with the name of a file; leave out the / or the .parquet"
        )
    raise ProblemError(f"must end in .parquet, or in / for a directory of parts; found {quoted(text)}")


def is_folder(path: Path) -> bool:
    """Whether an output of this path is a directory of parts: all but those that end in .parquet are."""
    return path.suffix != ".parquet"


class Output(Section):
    """The table that comes out."""

    path: Annotated[Path, Checked(by=output_path, wanted="the path of a file, or of a directory ending in /")] = Field(
        description="The Parquet file to write, its name ending in .parquet, or a directory of parts, ending in /; "
        "directories are made. Relative paths start at the job file's directory. ${name}, ${date} and ${env:NAME} are "
        'filled in. Required; no default. Example: "../out/anomaly/${date}.parquet".'
    )
    rows_per_file: Annotated[int, Whole(at_least=1)] = Field(
        1_000_000,
        description="Rows of each part, where path is a directory. Default: 1000000. Example: 100000.",
    )
    keep: Annotated[tuple[str, ...] | Literal["all", "none"], Texts(words=("all", "none"), unique=True)] = Field(
        "all",
        description="Input columns that the output has too: a list, all (but those of binary values), or none. "
        "Default: all. Example: [sensor_id, ts].",
    )
    prefix: Annotated[
        str, Text(empty=True, pattern=r"[A-Za-z0-9_.-]{0,100}", wanted="letters, digits, _ . or -, such as llm_")
    ] = Field(
        "",
        description="Put before the run's own columns, so that they clash with none of the input. Default: nothing. "
        "Example: llm_.",
    )


class Example(Section):
    """An example of the job itself: `pipeline check` renders it and sends nothing."""

    name: Annotated[str, Text(literal=True)] = Field(
        "example", description="What the example shows. Default: its number. Example: the dataset reaches the prompt."
    )
    row: Annotated[dict[str, Any] | None, Free(optional=True, literal=True)] = Field(
        None,
        description="A row, as the source would give it. Either this or `rows` is required. Default: none. Example: "
        "{title: Dune}.",
    )
    rows: Annotated[tuple[dict[str, Any], ...] | None, FreeRows(optional=True, literal=True)] = Field(
        None,
        description="The rows of one request, for jobs with group_by or rows_per_request. Default: none. Example: "
        "[{ts: 1}, {ts: 2}].",
    )
    prompt: Annotated[str, Text(literal=True, wanted="the text that is expected")] = Field(
        description="What the last turn of the user must come out as; a line break at its end does not count. "
        "Required; no default. Example: Is Dune a book?"
    )
    system: Annotated[str | None, Text(optional=True, literal=True)] = Field(
        None,
        description="What the system prompt must come out as. Default: not compared. Example: You are a librarian.",
    )


def zone(text: str) -> str:
    """Let the name of a time zone pass."""
    if text == "UTC":
        # It needs no data: containers often come without a zone database.
        return text
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError) as error:
        hint = did_you_mean(text, available_timezones())
        raise ProblemError(f"must be a time zone, such as Europe/Berlin; found {quoted(text)}{hint}") from error
    return text


class JobFile(Section):
    """A job: which rows to read, what to ask about each, whom to ask, how fast, and where the answers go."""

    model_config = ConfigDict(title="Pipeline job")
    LATER = frozenset({"mode", "engine", "extends"})
    WAYS_OUT: ClassVar[Mapping[str, str]] = {
        "system": "write it as prompt.system",
        "user": "write it as prompt.user",
        "input": "write source",
        "vars": "write params",
    }

    name: Annotated[str, Text(pattern=NAME, wanted="lower-case letters, digits and -, such as anomaly-nightly")] = (
        Field(
            description="The job's name: lower-case letters, digits and -, at most 100. It names the journal, so "
            "renaming a job forgets its answers. Default: the file's name without its ending, where that is such a "
            "name. Example: anomaly-nightly."
        )
    )
    description: Annotated[str, Text(empty=True)] = Field(
        "", description="What the job is for, in a sentence. Default: none. Example: Night report on sensor readings."
    )
    params: Annotated[dict[str, ParamValue], Params()] = Field(
        {},
        description="Names with values, filled in where ${name} stands, and <<params.name>> in templates. --param "
        "name=value replaces one, read by the type of the value here; a null must be given so. A param may name "
        "${date} and the params above it. Default: {}. Example: {region: eu}.",
    )
    timezone: Annotated[str, Checked(by=zone, wanted="a time zone, such as Europe/Berlin")] = Field(
        "UTC", description="The time zone in which ${date} is today. Default: UTC. Example: Europe/Berlin."
    )
    tags: Annotated[dict[str, str], TextMap()] = Field(
        {},
        description="Labels for cost reports, kept in the journal and in the output's metadata. Default: {}. Example: "
        "{team: quality}.",
    )
    reuse: Annotated[bool, Flag()] = Field(
        default=True,
        description="Whether rows that ask the same share one answer, in this run and with earlier ones; false asks "
        "for each row anew in each run. Default: true. Example: false.",
    )
    state: Annotated[Path, FilePath()] = Field(
        Path(".pipeline"),
        description="The directory where journal and plans live; relative to the job file's directory. Default: "
        ".pipeline. Example: /var/lib/pipeline.",
    )
    source: Source = Field(
        description="The table that the requests are made of. Required; no default. Example: {path: data.csv}."
    )
    prompt: Prompt = Field(
        description='What is asked, as templates. Required; no default. Example: {user: "Summarise: <<text>>"}.'
    )
    request: RequestFields = Field(
        description="What goes on the wire beside the prompt. Required; no default. Example: {model: "
        "claude-haiku-4-5, max_tokens: 512}."
    )
    answer: Answer = Field(
        Answer(),
        description="What an answer must look like, and what of it becomes columns. Default: its text alone. Example: "
        "{schema: label.schema.json}.",
    )
    endpoint: Annotated[
        Annotated[EndpointWord, EndpointChoice(words=WORDS), Tag("<word>")]
        | Annotated[EndpointFields, Tag("<section>")],
        Discriminator(_endpoint_kind),
    ] = Field(
        EndpointFields(),
        description="Whom to ask: embedded (a small model on this machine), simulator (a rehearsal), or a mapping "
        "with a url. Default: Anthropic, with the key in ANTHROPIC_API_KEY. Example: {url: "
        "https://api.aimlapi.com/v1, api_key_env: AIMLAPI_KEY}.",
    )
    limits: Limits = Field(
        Limits(),
        description="How fast, how long and how often to try. Default: as fast as the server allows, 6 attempts. "
        "Example: {requests_per_minute: 1000, concurrency: 64}.",
    )
    budget: Budget = Field(
        Budget(),
        description="Money that is not to be passed. Default: no cap; the first line of a run says what it may cost. "
        "Example: {run_usd: 25, month_usd: 400}.",
    )
    prices: Prices = Field(
        {},
        description="Prices by model, USD per million tokens, instead of the built-in table's; or a list of them, each "
        "with the days it holds for. Default: {}. Example: {my-model: {input: 3, output: 15}}.",
    )
    expect: Expect = Field(
        Expect(),
        description="Guards on the run. Default: at least one row, none failed. Example: {max_failed_ratio: 0.01}.",
    )
    output: Output = Field(
        description="The table that comes out. Required; no default. Example: {path: ../out/answers.parquet}."
    )
    tests: Annotated[tuple[Example, ...], BeforeValidator(list_unless_nothing)] = Field(
        (),
        description="Examples that `pipeline check` renders, sending nothing. Default: []. Example: [{row: {text: "
        'Hi}, prompt: "Summarise: Hi"}].',
    )


PLAIN_TEXT_SECTIONS = frozenset({"prompt", "request", "answer", "tests"})
"""Where ``${name}`` is text like any other."""

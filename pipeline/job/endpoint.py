"""Whom a run asks, with which key: the job's own endpoint, or the one that the command line puts in its place."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import Complaint, JobError
from pipeline.job.fields import ProblemError
from pipeline.job.nodes import Mapping as MappingNode
from pipeline.job.nodes import Scalar
from pipeline.job.sections import SECRET_HEADERS, EndpointFields, EndpointWord, variable
from pipeline.job.urls import DEFAULT_URL, SCOPES, WORDS, Scope, Target, target
from pipeline.job.words import did_you_mean, hide_keys, mask, one_line, quoted

DEFAULT_VARIABLE = "ANTHROPIC_API_KEY"
DEFAULT_VERSION = "2023-06-01"
_LARGEST_KEY_FILE = 64 * 1024
_KEY = re.compile(r"[\x21-\x7e]+")

Say = Callable[[str, str], None]
"""Takes a dotted path, or an option of the command line, and the words of a complaint about it."""


class Endpoint(BaseModel):
    """Whom a run asks, everything resolved. Its text form holds neither key nor headers.

    Attributes:
        url: where to post, ending in ``/messages``; None for the words, whose server is started with the run.
        word: `embedded` or `simulator`; None for a URL.
        scope: who may share answers with it.
        home_scope: the scope of the job file itself, whatever ``--endpoint`` says.
        auth: how the key is sent.
        version: `anthropic-version`; None sends none.
        headers: further headers, names filled in.
        host: as the output's column `endpoint` shows it: the host, with a port that is not the scheme's own, or the
            word.
        key_variable: the environment variable that holds the key; None for none.
        key_file: the file that holds the key; None for none.
        keyless_because: set where no key is sent although the service surely wants one: what to do about it.
        where: ``file:line:column`` of what names the key.
        secret_names: values from the environment with their variables, masked in messages.
    """

    model_config = ConfigDict(frozen=True)

    url: str | None
    word: EndpointWord | None
    scope: Literal["embedded", "simulator", "local", "public"]
    home_scope: Literal["embedded", "simulator", "local", "public"]
    auth: Literal["bearer", "x-api-key"]
    version: str | None
    headers: dict[str, str] = Field(repr=False)
    host: str
    key_variable: str | None = None
    key_file: Path | None = None
    keyless_because: str | None = None
    where: str = ""
    secret_names: dict[str, str] = Field(default_factory=dict, repr=False, exclude=True)

    @property
    def key_name(self) -> str | None:
        """Where the key comes from, for messages: ``$ANTHROPIC_API_KEY``, or a file; None where none is sent."""
        if self.key_variable is not None:
            return f"${self.key_variable}"
        return None if self.key_file is None else str(self.key_file)

    def api_key(self, environ: Mapping[str, str]) -> str | None:
        """Give the key, or None where none is needed.

        Raises:
            JobError: the variable or file is missing, empty, or holds what cannot be a key. The key is never shown.
        """
        if self.keyless_because is not None:
            raise JobError(Complaint("", "--endpoint", self.keyless_because))
        if self.key_variable is not None:
            return self._variable(self.key_variable, environ)
        return None if self.key_file is None else self._file(self.key_file)

    def _variable(self, name: str, environ: Mapping[str, str]) -> str:
        key = environ.get(name)
        if not key:
            state = "is not set" if key is None else "is empty"
            raise self._error(
                "endpoint.api_key_env",
                f"the environment variable {name} {state}, and {self.host} wants a key; export {name}=… and start "
                f"again",
            )
        if not _KEY.fullmatch(key):
            raise self._error(
                "endpoint.api_key_env",
                f"the environment variable {name} holds white space or characters that no key has; export the key "
                f"alone",
            )
        return key

    def _file(self, path: Path) -> str:
        try:
            with path.open("rb") as file:
                raw = file.read(_LARGEST_KEY_FILE + 1)
        except OSError as error:
            raise self._error(
                "endpoint.api_key_file",
                f"cannot read {path}: {(error.strerror or 'error').lower()}; it must hold the API key and nothing else",
            ) from error
        key = raw.decode("latin-1").removesuffix("\n").removesuffix("\r")
        if not key:
            raise self._error("endpoint.api_key_file", f"{path} is empty; it must hold the API key")
        if len(raw) > _LARGEST_KEY_FILE or not _KEY.fullmatch(key):
            raise self._error(
                "endpoint.api_key_file",
                f"{path} holds white space or characters that no key has; it must hold the API key and nothing else",
            )
        return key

    def _error(self, path: str, words: str) -> JobError:
        return JobError(Complaint(self.where, path, one_line(mask(words, self.secret_names))))


def resolve(
    written: EndpointFields | EndpointWord | None,
    *,
    directory: Path,
    override: str | None,
    key_variable: str | None,
    secret_headers: frozenset[str],
    say: Say,
) -> Endpoint | None:
    """Decide whom to ask.

    Args:
        written: the job's section; None where it is broken.
        directory: where the job's relative paths start.
        override: what ``--endpoint`` says.
        key_variable: what ``--api-key-env`` says.
        secret_headers: those of the job's headers that hold a value from the environment; they go to no other host.
        say: takes complaints.

    Returns:
        None where something was wrong.
    """
    home = None if written is None else _home(written, directory, say)
    if key_variable is not None:
        key_variable = _named(key_variable, say)
    if override is None:
        return None if home is None else _with_key(home, key_variable, "--api-key-env", say)
    home_scope: Scope = "public" if home is None else home.scope
    if override in WORDS:
        if key_variable is not None:
            say("--api-key-env", f"{override} takes no key; leave it out")
        return _server(override, home_scope)
    try:
        wanted = target(override)
    except ProblemError as problem:
        words = problem.words
        if "://" not in override:
            shown = hide_keys(quoted(override.rpartition("@")[2]))
            words = (
                f"must be embedded, simulator, or a URL such as https://api.anthropic.com/v1; found "
                f"{shown}{did_you_mean(override, WORDS)}"
            )
        say("--endpoint", words)
        return None
    fields = written if isinstance(written, EndpointFields) else None
    if home is not None and fields is not None and target(fields.url).same_host(wanted):
        moved = home.model_copy(update={"url": wanted.url, "host": wanted.host})
        return _checked(_with_key(moved, key_variable, "--api-key-env", say), wanted, "--endpoint", say)
    return _elsewhere(fields, wanted, home_scope, key_variable, secret_headers, say)


def _named(text: str, say: Say) -> str | None:
    try:
        return variable(text)
    except ProblemError as problem:
        say("--api-key-env", problem.words)
        return None


def _server(word: str, home_scope: Scope) -> Endpoint:
    known: EndpointWord = "embedded" if word == "embedded" else "simulator"
    return Endpoint(
        url=None,
        word=known,
        scope=known,
        home_scope=home_scope,
        auth="x-api-key",
        version=DEFAULT_VERSION,
        headers={},
        host=known,
    )


def _home(written: EndpointFields | EndpointWord, directory: Path, say: Say) -> Endpoint | None:
    """Resolve the job's own endpoint."""
    if not isinstance(written, EndpointFields):
        return _server(written, _scope(written))
    wanted = target(written.url)
    if written.api_key_env is not None and written.api_key_file is not None:
        say("endpoint.api_key_file", "stands beside api_key_env; keep one of them")
    scope = _scope(written.scope) if written.scope is not None else wanted.scope
    endpoint = Endpoint(
        url=wanted.url,
        word=None,
        scope=scope,
        home_scope=scope,
        auth=written.auth or _usual_auth(wanted),
        version=written.version,
        headers=written.headers,
        host=wanted.host,
        key_variable=_variable_of(written, wanted),
        key_file=None if written.api_key_file is None else directory / written.api_key_file,
    )
    carrying = [name for name in written.headers if name.lower() in {"authorization", "x-api-key"}]
    sent = "authorization" if endpoint.auth == "bearer" else "x-api-key"
    if endpoint.key_name is not None and any(name.lower() == sent for name in carrying):
        say(
            "endpoint.headers", f"the key of {endpoint.key_name} is sent as the header {sent} already; keep one of them"
        )
    return _checked(endpoint, wanted, "endpoint.url", say)


def _variable_of(written: EndpointFields, wanted: Target) -> str | None:
    if "api_key_env" in written.model_fields_set or written.api_key_file is not None:
        return written.api_key_env
    carried = any(name.lower() in SECRET_HEADERS - {"cookie"} for name in written.headers)
    return None if carried or wanted.local else DEFAULT_VARIABLE


def _elsewhere(
    fields: EndpointFields | None,
    wanted: Target,
    home_scope: Scope,
    key_variable: str | None,
    secret_headers: frozenset[str],
    say: Say,
) -> Endpoint | None:
    """Point the job at another host: it gets the job's dialect, but neither its key nor its secret headers."""
    headers = {} if fields is None else fields.headers
    endpoint = Endpoint(
        url=wanted.url,
        word=None,
        scope=wanted.scope,
        home_scope=home_scope,
        auth=(fields.auth if fields is not None else None) or _usual_auth(wanted),
        version=DEFAULT_VERSION if fields is None else fields.version,
        headers={
            name: value
            for name, value in headers.items()
            if name not in secret_headers and name.lower() not in SECRET_HEADERS
        },
        host=wanted.host,
        key_variable=key_variable,
        keyless_because=(
            f"{wanted.host} is another host than the job's, so it does not get the job's key, and it takes no calls "
            f"without one; add --api-key-env NAME, such as --api-key-env {DEFAULT_VARIABLE}"
            if key_variable is None and wanted.is_anthropic
            else None
        ),
    )
    return _checked(endpoint, wanted, "--endpoint", say)


def _with_key(endpoint: Endpoint, key_variable: str | None, option: str, say: Say) -> Endpoint:
    if key_variable is None:
        return endpoint
    if endpoint.word is not None:
        say(option, f"{endpoint.word} takes no key; leave it out")
        return endpoint
    changed = endpoint.model_copy(update={"key_variable": key_variable, "key_file": None})
    _checked(changed, target(endpoint.url or ""), option, say)
    return changed


def _checked(endpoint: Endpoint, wanted: Target, place: str, say: Say) -> Endpoint:
    """Refuse to show a key to the network."""
    secret = endpoint.key_name or next((name for name in endpoint.headers if name.lower() in SECRET_HEADERS), None)
    if wanted.scheme == "http" and not wanted.loopback and secret is not None:
        say(
            place,
            f"would be asked over http, which shows {secret} to the network; use https, or api_key_env: null where the "
            "server wants no key",
        )
    return endpoint


def _usual_auth(wanted: Target) -> Literal["bearer", "x-api-key"]:
    return "x-api-key" if wanted.is_anthropic else "bearer"


def _scope(word: str) -> Scope:
    for scope in SCOPES:
        if scope == word:
            return scope
    raise ProblemError(f"{word} is no scope")


def is_same_host(section: MappingNode, override: str) -> bool:
    """Whether an override names the server that a section names, so that its headers and key still go there."""
    node = section.entries.get("url")
    written = DEFAULT_URL if node is None else node.text if isinstance(node, Scalar) and not node.broken else ""
    try:
        return target(written).same_host(target(override))
    except ProblemError:
        return False

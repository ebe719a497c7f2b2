"""Loading a job: every step complains into one list, and the job is broken if the list is not empty."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path as FilePath
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from pipeline.errors import Complaint, JobError
from pipeline.job import checks, endpoint, params
from pipeline.job.answer import check_answer
from pipeline.job.document import MAX_BYTES as LARGEST_FILE
from pipeline.job.document import UnreadableError, decode, parse
from pipeline.job.fields import ProblemError
from pipeline.job.files import put_files, put_schema
from pipeline.job.interpolate import Names, Problem, fill_tree, names_date
from pipeline.job.job import Job, Overrides
from pipeline.job.marks import check_marks
from pipeline.job.nodes import START, Mark, Node, Path, Places, Scalar, dotted, plain_data, scalars
from pipeline.job.nodes import Mapping as MappingNode
from pipeline.job.request import check_request
from pipeline.job.sections import NAME, PLAIN_TEXT_SECTIONS, Budget, Example, Output, Source, is_folder, zone
from pipeline.job.validate import read_sections
from pipeline.job.words import found, mask, one_line

_T = TypeVar("_T")

NO_OVERRIDES = Overrides()


def load(
    path: FilePath,
    overrides: Overrides = NO_OVERRIDES,
    *,
    environ: Mapping[str, str],
    today: date | None = None,
    cwd: FilePath | None = None,
) -> Job:
    """Read a job file.

    Args:
        path: the job file, as it is to be shown in complaints.
        overrides: what the command line says.
        environ: where ``${env:NAME}`` is looked up; the API key is not read here.
        today: the date that ``${date}`` stands for without ``--date``; by default today in the job's time zone.
        cwd: where relative paths of the command line start; by default the process's directory.

    Raises:
        JobError: with every complaint there is, in the order of the file, those about the command line last.
    """
    return _Loading(path, overrides, environ, today, FilePath.cwd() if cwd is None else cwd).job()


@dataclass
class _Loading:
    """One loading: what was complained about so far, and where things stand."""

    path: FilePath
    overrides: Overrides
    environ: Mapping[str, str]
    today: date | None
    cwd: FilePath
    warnings: list[tuple[str, str]] = field(default_factory=list)
    complaints: dict[tuple[Mark | None, str, str], None] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    places: Places = field(default_factory=Places)

    def job(self) -> Job:
        file = self.cwd / self.path
        directory = file.parent
        root = self._parsed(file)
        zone_name, run_date, resolved, as_written = self._params(root)
        tree, secret_headers = self._filled(root, resolved, run_date)
        tree = put_files(tree, directory, self._say)
        data = plain_data(tree)
        put_schema(data, directory, self._say)
        data["params"] = resolved.values()
        if "name" not in data and re.fullmatch(NAME, file.stem):
            data["name"] = file.stem
        parts = read_sections(data, self._say)
        target = self._endpoint(parts, directory, secret_headers)
        source = self._source(parts.get("source"), directory)
        output = self._output(parts.get("output"), source, target, directory, run_date)
        self._check(parts, data)
        if target is not None and "request" in parts:
            self._judge(parts, target, zone_name)
        self._raise_if_broken()
        assert target is not None
        return Job(
            file=file,
            directory=directory,
            name=parts["name"],
            description=parts["description"],
            params=resolved.values(),
            changed_params={n: v for n, v in resolved.values().items() if (v, type(v)) != as_written.get(n)},
            run_date=run_date,
            timezone=zone_name,
            tags=parts["tags"],
            reuse=parts["reuse"],
            state=absolute(directory, parts["state"]),
            source=_there(source),
            prompt=parts["prompt"],
            request=parts["request"],
            endpoint=target,
            limits=parts["limits"],
            prices=parts["prices"],
            expect=parts["expect"],
            output=_there(output),
            tests=_named(parts["tests"]),
            secrets=frozenset(self.secrets),
            shown_file=str(self.path),
            places=self.places,
            secret_names=dict(self.secrets),
            answer=parts["answer"],
            budget=self._budget(parts["budget"]),
            warnings=self._warnings(),
        )

    def _budget(self, budget: Budget) -> Budget:
        given = self.overrides.budget
        return budget if given is None else budget.model_copy(update={"run_usd": given})

    # -------------------------------------------------------------------------------- complaints

    def _say(self, path: Path, words: str, *, of_key: bool = False) -> None:
        name = dotted(path)
        self.complaints[self.places.at(name, key=of_key), name, words] = None

    def _say_place(self, place: str, words: str) -> None:
        """Complain about a dotted path, or about an option of the command line."""
        mark = None if place.startswith("--") else self.places.at(place)
        self.complaints[mark, place, words] = None

    def _where(self, mark: Mark) -> str:
        return one_line(f"{self.path}:{mark.line}:{mark.column}")

    def _raise_if_broken(self) -> None:
        if not self.complaints:
            return
        # Those about the command line have no place in the file; they come last.
        ordered = sorted(self.complaints, key=lambda complaint: complaint[0] or Mark(2**62, 0))
        raise JobError(*(self._complaint(mark, name, words) for mark, name, words in ordered))

    def _complaint(self, mark: Mark | None, place: str, words: str) -> Complaint:
        where = "" if mark is None else self._where(mark)
        return Complaint(where, one_line(place), one_line(mask(words, self.secrets)))

    # -------------------------------------------------------------------------------- steps

    def _parsed(self, file: FilePath) -> MappingNode:
        """Read the file to a mapping; where that fails there is nothing more to complain about."""
        try:
            with file.open("rb") as opened:
                raw = opened.read(LARGEST_FILE + 1)
        except (OSError, ValueError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise JobError(Complaint(one_line(str(self.path)), "", f"cannot read the job file: {reason}")) from error
        root: Node | None = None
        try:
            root = parse(decode(raw), self._note)
        except UnreadableError as error:
            self._note(error.mark, (), error.message)
            self._raise_if_broken()
        if root is None or (isinstance(root, Scalar) and root.is_null):
            self._note(START, (), "the file is empty; a job has at least source, prompt, request and output")
            self._raise_if_broken()
        elif not isinstance(root, MappingNode):
            self._note(root.mark, (), f"a job is a mapping, such as name: my-job; found {found(plain_data(root))}")
            self._raise_if_broken()
        assert isinstance(root, MappingNode)
        self.places = Places(root)
        return root

    def _note(self, mark: Mark, path: Path, words: str) -> None:
        self.complaints[mark, dotted(path), words] = None

    def _params(self, root: MappingNode) -> tuple[str, date | None, params.Resolved, dict[str, tuple[Any, type]]]:
        """Read params, time zone and date, which need each other in this order."""
        section, given = root.entries.get("params"), self.overrides.params
        undated = params.resolve(section, given, None, self.environ)
        zone_name = self._zone(root, undated)
        dated = any(
            names_date(scalar.text) for path, scalar in scalars(root) if path and path[0] not in PLAIN_TEXT_SECTIONS
        )
        run_date = self.overrides.date
        if run_date is None and dated:
            zone_info = UTC if zone_name == "UTC" else ZoneInfo(zone_name)
            run_date = self.today if self.today is not None else datetime.now(zone_info).date()
        as_written = params.resolve(section, {}, run_date, self.environ)
        resolved = params.resolve(section, given, run_date, self.environ)
        for path, words in (*as_written.in_file, *resolved.in_file):
            self._say(path, words)
        for name, words in resolved.on_command_line:
            self._say_place(f"--param {name}", words)
        return zone_name, run_date, resolved, {n: (v, type(v)) for n, v in as_written.values().items()}

    def _zone(self, root: MappingNode, undated: params.Resolved) -> str:
        """Read the time zone before the date is known, which is today in it; complaints about it come later."""
        node = root.entries.get("timezone")
        if not isinstance(node, Scalar) or node.broken:
            return "UTC"
        text = node.text
        if "${" in text:
            reason = "today depends on the time zone"
            names = Names(undated.texts(), None, self.environ, undated=reason)
            text, problems = names.fill(text, env=False)
            if problems:
                if names_date(node.text) or any(f"${{{name}}}" in node.text for name in undated.dated):
                    self._say(("timezone",), f"cannot name ${{date}}, also not by a param: {reason}")
                return "UTC"
        try:
            return str(zone(text))
        except ProblemError:
            return "UTC"

    def _filled(
        self, root: MappingNode, resolved: params.Resolved, run_date: date | None
    ) -> tuple[MappingNode, frozenset[str]]:
        """Fill in names, and tell which headers hold something of the environment."""
        names = Names(resolved.texts(), run_date, self.environ, self.secrets)
        problems: list[tuple[Path, Problem]] = []
        tree = fill_tree(root, names, lambda path, problem: problems.append((path, problem)))
        assert isinstance(tree, MappingNode)
        section = tree.entries.get("endpoint")
        replaced = self.overrides.endpoint is not None and not (
            isinstance(section, MappingNode) and endpoint.is_same_host(section, self.overrides.endpoint)
        )
        for path, problem in problems:
            # A job must be rehearsable where the variables of its own endpoint are not set.
            if not (problem.missing_variable and replaced and path[0] == "endpoint"):
                self._say(path, problem.words)
        headers = section.entries.get("headers") if isinstance(section, MappingNode) else None
        entries = headers.entries if isinstance(headers, MappingNode) else {}
        return tree, frozenset(
            name for name, node in entries.items() if isinstance(node, Scalar) and "${env:" in (node.written or "")
        )

    def _endpoint(
        self, parts: dict[str, Any], directory: FilePath, secret_headers: frozenset[str]
    ) -> endpoint.Endpoint | None:
        target = endpoint.resolve(
            parts.get("endpoint"),
            directory=directory,
            override=self.overrides.endpoint,
            key_variable=self.overrides.api_key_env,
            secret_headers=secret_headers,
            say=self._say_place,
        )
        where = self._where(self.places.at("endpoint.api_key_env"))
        known = {"where": where, "secret_names": dict(self.secrets)}
        return None if target is None else target.model_copy(update=known)

    def _source(self, source: Source | None, directory: FilePath) -> Source | None:
        if source is None:
            return None
        return source.model_copy(update={"path": tuple(pattern(directory, text) for text in source.path)})

    def _output(
        self,
        output: Output | None,
        source: Source | None,
        target: endpoint.Endpoint | None,
        directory: FilePath,
        run_date: date | None,
    ) -> Output | None:
        given, limit = self.overrides.output, self.overrides.limit
        if limit is not None and limit < 1:
            self._say_place("--limit", f"must be at least 1, found {limit}")
        patterns = () if source is None else source.path
        kind = "auto" if source is None else source.format
        own = None if output is None else absolute(directory, output.path)
        if own is not None:
            for place, words in checks.check_output(own, patterns, kind, "output.path", folder=True):
                self._say_place(place, words)
        if given is not None:
            path = absolute(self.cwd, given)
            folder = self.overrides.output_folder or (own is not None and is_folder(own))
            for place, words in checks.check_output(path, patterns, kind, "--output", folder=folder):
                self._say_place(place, words)
        elif own is None:
            return None
        else:
            if run_date is not None and run_date.isoformat() not in str(own) and not is_folder(own):
                words = "does not name ${date}: the run of each date replaces the output of the one before"
                self.warnings.append(("output.path", f"{words}. Such as {own.stem}.${{date}}.parquet keeps them all"))
            foreign = target is not None and self.overrides.endpoint is not None and target.scope != target.home_scope
            path = trial_path(own, target.scope if foreign and target is not None else None, limit)
        return None if output is None else output.model_copy(update={"path": path})

    def _check(self, parts: dict[str, Any], data: dict[str, Any]) -> None:
        if "prompt" in parts:
            written = data.get("prompt")
            keys = frozenset(written) if isinstance(written, dict) else frozenset[str]()
            self._say_all(checks.check_prompt(parts["prompt"], keys))
        if "source" in parts:
            self._say_all(checks.check_source(parts["source"]))
        if "request" in parts:
            self._say_all(check_request(parts["request"]))
        if "prompt" in parts and "request" in parts:
            self._say_all(check_marks(parts["prompt"], parts["request"]))
        if "answer" in parts:
            self._say_all(check_answer(parts["answer"]))
        if "answer" in parts and "request" in parts:
            self._say_all(checks.check_format(parts["answer"], parts["request"]))
        if "tests" in parts:
            self._say_all(checks.check_tests(parts["tests"], parts.get("source")))

    def _judge(self, parts: dict[str, Any], target: endpoint.Endpoint, zone_name: str) -> None:
        """Say what the API would refuse, and keep what is only worth knowing."""
        zone_info = UTC if zone_name == "UTC" else ZoneInfo(zone_name)
        today = self.today if self.today is not None else datetime.now(zone_info).date()
        for finding in checks.check_rules(parts.get("prompt"), parts["request"], target, today):
            if finding.refused:
                self._say_place(finding.place, finding.words)
            else:
                self.warnings.append((finding.place, finding.words))

    def _warnings(self) -> tuple[Complaint, ...]:
        placed = sorted((self.places.at(place), place, words) for place, words in self.warnings)
        return tuple(self._complaint(mark, place, words) for mark, place, words in placed)

    def _say_all(self, complaints: Iterable[tuple[str, str]]) -> None:
        for place, words in complaints:
            self._say_place(place, words)


def absolute(directory: FilePath, path: FilePath) -> FilePath:
    """Make a path absolute and short; ``..`` leaves the directory that links really lead to."""
    if path.is_absolute() or ".." not in path.parts:
        return FilePath(os.path.normpath(directory / path)) if ".." not in path.parts else path
    return FilePath(os.path.normpath(FilePath(os.path.realpath(directory)) / path))


def pattern(directory: FilePath, text: str) -> str:
    """Make a path or glob absolute; only what the job wrote is a glob, not the directory it lives in."""
    path = FilePath(text)
    if path.is_absolute():
        return text
    base = directory if ".." not in path.parts else FilePath(os.path.realpath(directory))
    if not glob.has_magic(text):
        return os.path.normpath(base / path)
    ups = 0
    while ups < len(path.parts) and path.parts[ups] == "..":
        ups += 1
        base = base.parent
    return glob.escape(str(base)).rstrip("/") + "/" + "/".join(path.parts[ups:])


def trial_path(own: FilePath, scope: str | None, limit: int | None) -> FilePath:
    """Name a trial's or rehearsal's output, so that it never takes the place of the job's own."""
    marks = [part for part in (scope, None if limit is None else f"first-{limit}") if part is not None]
    if not marks:
        return own
    named = [own.name, *marks] if is_folder(own) else [own.stem, *marks, "parquet"]
    return own.with_name(".".join(named))


def _named(tests: tuple[Example, ...]) -> tuple[Example, ...]:
    return tuple(
        test if "name" in test.model_fields_set else test.model_copy(update={"name": f"example {index}"})
        for index, test in enumerate(tests, start=1)
    )


def _there(value: _T | None) -> _T:
    assert value is not None
    return value

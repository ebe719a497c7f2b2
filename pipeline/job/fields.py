"""The kinds of values that job fields hold: how each is read, what it accepts, and how editors see it.

Each kind is metadata for `typing.Annotated` that takes over reading and the JSON Schema of the type it annotates.
Reading takes a `Scalar` (or dicts and lists of them) by the field's type: a text field takes ``007`` and ``2023-06-01``
as they are written, a number field takes ``1e3``. Values of Python are taken as well, so that models can be made in
code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from pipeline.job.core import BOOLEANS, core, number
from pipeline.job.mistakes import number_meant
from pipeline.job.nodes import Scalar
from pipeline.job.words import did_you_mean, found, listed

PROBLEM = "job"
"""The type of our own validation errors; their context holds `problems`: sub-path and words of each."""

FILLED_IN = {"type": "string", "pattern": r"\$\{"}
"""What a field that is not text may hold besides: a text with a name to fill in."""

Schema = dict[str, Any]


Place = tuple[str | int, ...]


class ProblemError(Exception):
    """A value is not what its field wants.

    Attributes:
        problems: where in the value, and what is wrong; None where a complaint was made already.
    """

    def __init__(self, words: str | None, at: Place = ()) -> None:
        self.problems: list[tuple[Place, str | None]] = [(at, words)]
        super().__init__(words)

    @property
    def words(self) -> str:
        """What is wrong first of all."""
        return self.problems[0][1] or ""


class _Items:
    """Reads the items of a value, and goes on where one is not right, so that all complaints come at once."""

    def __init__(self) -> None:
        self._problems: list[tuple[Place, str | None]] = []

    def read(self, part: str | int, item: Any, reader: Callable[[Any], Any]) -> Any:
        if isinstance(item, Scalar) and item.broken:
            self._problems.append(((part,), None))
            return None
        try:
            return reader(item)
        except ProblemError as problem:
            self._problems += [((part, *at), words) for at, words in problem.problems]
            return None

    def add(self, part: str | int, words: str) -> None:
        self._problems.append(((part,), words))

    def done(self) -> None:
        if self._problems:
            problem = ProblemError(None)
            problem.problems = self._problems
            raise problem


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value.

    Attributes:
        optional: nothing (`null`, or an empty value) is taken as None.
        literal: the field stands where ``${name}`` is plain text, so editors need not expect it.
    """

    optional: bool = False
    literal: bool = False

    @property
    def fillable(self) -> bool:
        """Whether a text with ``${name}`` can stand for a value that is no text of its own."""
        return False

    def read(self, value: Any) -> Any:
        """Give the value as Python has it.

        Raises:
            ProblemError: with the words of the complaint.
        """
        raise NotImplementedError

    def shape(self) -> Schema:
        """Give the JSON Schema."""
        raise NotImplementedError

    def _take(self, value: Any) -> Any:
        if self.optional and (value is None or (isinstance(value, Scalar) and value.is_null and not value.broken)):
            return None
        items = _Items()
        read = items.read("", value, self.read)
        try:
            items.done()
        except ProblemError as problem:
            problems = [(at[1:], words) for at, words in problem.problems]
            raise PydanticCustomError(PROBLEM, "not as it should be", {"problems": problems}) from problem
        return read

    def __get_pydantic_core_schema__(self, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._take)

    def __get_pydantic_json_schema__(self, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> Schema:
        shape = self.shape()
        alternatives = list(shape["anyOf"]) if set(shape) == {"anyOf"} else [shape]
        if self.fillable and not self.literal:
            alternatives.append(FILLED_IN)
        if self.optional:
            alternatives.append({"type": "null"})
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}


@dataclass(frozen=True, slots=True)
class Text(Kind):
    """Text, whatever it looks like.

    Attributes:
        pattern: what all of it must match.
        wanted: the pattern in words, with an example.
        empty: whether it may be empty.
    """

    pattern: str | None = None
    wanted: str = "text"
    empty: bool = False

    def read(self, value: Any) -> str:
        """Give the characters."""
        if isinstance(value, Scalar):
            if value.is_null:
                word = "; put the word in quotes if you mean it" if value.text else ""
                raise ProblemError(f"must be {self.wanted}, found {found(value)}{word}")
            value = value.text
        if not isinstance(value, str):
            raise ProblemError(f"must be {self.wanted}, found {found(value)}")
        if not value and not self.empty:
            raise ProblemError(f"must be {self.wanted}, found empty text")
        if self.pattern is not None and not re.fullmatch(self.pattern, value):
            raise ProblemError(f"must be {self.wanted}, found {found(value)}")
        return value

    def shape(self) -> Schema:
        """Text, with its pattern unless names may be filled in."""
        if self.pattern is not None and self.literal:
            return {"type": "string", "pattern": f"^(?:{self.pattern})$"}
        return {"type": "string"} if self.empty else {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Checked(Kind):
    """Text that a function reads on; the function raises `ProblemError`."""

    by: Callable[[str], Any] = str
    wanted: str = "text"

    def read(self, value: Any) -> Any:
        """Give what the function makes of it."""
        return self.by(Text(wanted=self.wanted).read(value))

    def shape(self) -> Schema:
        """Any text."""
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Choice(Kind):
    """One word out of a closed list.

    Attributes:
        words: the list.
        later: words that a later version will know.
        newer: where to write a word that is newer than this program.
    """

    words: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    newer: str = ""

    @property
    def fillable(self) -> bool:
        """A name can be filled in."""
        return True

    def read(self, value: Any) -> str:
        """Give the word."""
        text = value.text if isinstance(value, Scalar) else value
        if isinstance(text, str) and text in self.words:
            return text
        if isinstance(text, str) and text in self.later:
            raise ProblemError(f"{text} is not supported in this version; there is {listed(self.words)}")
        hint = did_you_mean(text, self.words) if isinstance(text, str) else ""
        newer = f"; {self.newer}" if self.newer and not hint else ""
        raise ProblemError(f"must be one of {listed(self.words)}; found {found(value)}{hint}{newer}")

    def shape(self) -> Schema:
        """The list."""
        return {"type": "string", "enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Number(Kind):
    """A finite number within bounds.

    Attributes:
        at_least: the smallest that is right.
        at_most: the largest that is right.
        above: a bound that must be passed.
    """

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None

    @property
    def wanted(self) -> str:
        """What would be right, in words."""
        return f"a number{self._bounds()}"

    def _bounds(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f" from {self.at_least:g} to {self.at_most:g}"
        if self.above is not None:
            return f" above {self.above:g}"
        return f" of at least {self.at_least:g}" if self.at_least is not None else ""

    @property
    def fillable(self) -> bool:
        """A name can be filled in."""
        return True

    def read(self, value: Any) -> float:
        """Give the number."""
        return self._bounded(_numeral(value, self.wanted), value)

    def _bounded(self, read: float, value: Any) -> float:
        inside = (
            math.isfinite(read)
            and (self.at_least is None or read >= self.at_least)
            and (self.at_most is None or read <= self.at_most)
            and (self.above is None or read > self.above)
        )
        if not inside:
            raise ProblemError(f"must be {self.wanted}, found {_unquoted(value)}")
        return float(read)

    def shape(self) -> Schema:
        """A number with its bounds."""
        return {"type": "number"} | self._bounds_shape()

    def _bounds_shape(self) -> Schema:
        bounds = {"minimum": self.at_least, "maximum": self.at_most, "exclusiveMinimum": self.above}
        return {name: bound for name, bound in bounds.items() if bound is not None}


@dataclass(frozen=True, slots=True)
class Whole(Number):
    """A whole number within bounds."""

    @property
    def wanted(self) -> str:
        """What would be right, in words."""
        return f"a whole number{self._bounds()}"

    def read(self, value: Any) -> int:
        """Give the number; ``1e3`` is a whole number too."""
        read = _numeral(value, self.wanted)
        if isinstance(read, float) and not read.is_integer():
            raise ProblemError(f"must be {self.wanted}, found {_unquoted(value)}")
        self._bounded(read, value)
        return int(read)

    def shape(self) -> Schema:
        """A whole number with its bounds."""
        return {"type": "integer"} | self._bounds_shape()


@dataclass(frozen=True, slots=True)
class WholeOrAuto(Kind):
    """A whole number within bounds, or the word auto.

    Attributes:
        whole: the number.
    """

    whole: Whole = Whole()

    @property
    def fillable(self) -> bool:
        """A name can be filled in."""
        return True

    def read(self, value: Any) -> int | Literal["auto"]:
        """Give the number, or the word."""
        text = value.text if isinstance(value, Scalar) else value
        if text == "auto":
            return "auto"
        if isinstance(text, str) and not _LIKE_NUMBER.match(text):
            raise ProblemError(f"must be auto or {self.whole.wanted}, found {_unquoted(value)}")
        return self.whole.read(value)

    def shape(self) -> Schema:
        """A number, or the word."""
        return {"anyOf": [self.whole.shape(), {"const": "auto"}]}


_LIKE_NUMBER = re.compile(r"[-+.]?[0-9]")


@dataclass(frozen=True, slots=True)
class Seconds(Number):
    """A span of time in seconds, also written ``30s``, ``10m``, ``8h``, ``1h30m``."""

    @property
    def wanted(self) -> str:
        """What would be right, in words."""
        return f"seconds{self._bounds()}, or a span such as 30s, 10m, 8h"

    def read(self, value: Any) -> float:
        """Give the seconds."""
        text = value.text if isinstance(value, Scalar) else value
        if isinstance(text, str) and (span := _SPAN.fullmatch(text)) and text:
            hours, minutes, seconds = (float(part or 0) for part in span.groups())
            return self._bounded(hours * 3600 + minutes * 60 + seconds, value)
        return self._bounded(_numeral(value, self.wanted), value)

    def shape(self) -> Schema:
        """Seconds, or text of that form."""
        return {
            "anyOf": [
                {"type": "number"} | self._bounds_shape(),
                {"type": "string", "pattern": rf"^(?:{_SPAN.pattern})$|\$\{{", "minLength": 2},
            ]
        }


@dataclass(frozen=True, slots=True)
class FinishTime(Kind):
    """A time of day such as ``06:00``, which stays text, or a span of time in seconds."""

    @property
    def fillable(self) -> bool:
        """A name can be filled in."""
        return True

    def read(self, value: Any) -> str | float:
        """Give the time of day as text, or the seconds."""
        text = value.text if isinstance(value, Scalar) else value
        if isinstance(text, str) and _CLOCK.fullmatch(text):
            return text
        try:
            return Seconds(above=0).read(value)
        except ProblemError as problem:
            words = f"must be a time of day such as 06:00, or a span such as 8h; found {_unquoted(value)}"
            raise ProblemError(words) from problem

    def shape(self) -> Schema:
        """Either form."""
        return {"anyOf": [*Seconds(above=0).shape()["anyOf"], {"type": "string", "pattern": f"^{_CLOCK.pattern}$"}]}


_AMOUNT = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_SPAN = re.compile(rf"(?:({_AMOUNT})h)?(?:({_AMOUNT})m)?(?:({_AMOUNT})s)?")
_CLOCK = re.compile(r"(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?")


@dataclass(frozen=True, slots=True)
class Flag(Kind):
    """True or false."""

    @property
    def fillable(self) -> bool:
        """A name can be filled in."""
        return True

    def read(self, value: Any) -> bool:
        """Give the truth."""
        if isinstance(value, bool):
            return value
        if isinstance(value, Scalar) and value.is_loose and value.text in BOOLEANS:
            return BOOLEANS[value.text]
        raise ProblemError(f"must be true or false, found {found(value)}")

    def shape(self) -> Schema:
        """True or false."""
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Texts(Kind):
    """A list of texts.

    Attributes:
        item: what each must be.
        one: a single text is taken as a list of it.
        at_least: how many there must be.
        unique: none may stand twice.
        words: single words that are taken instead of a list, as they are.
        null_words: YAML's words for nothing are text here.
    """

    item: Kind = Text()
    one: bool = False
    at_least: int = 0
    unique: bool = False
    words: tuple[str, ...] = ()
    null_words: bool = False

    def read(self, value: Any) -> Any:
        """Give a tuple, or one of the words."""
        text = value.text if isinstance(value, Scalar) else value
        if isinstance(text, str) and text in self.words:
            return text
        if isinstance(text, str) and self.one:
            return (self.item.read(value),)
        if not isinstance(value, list | tuple):
            words = f", or one of {listed(self.words)}" if self.words else ""
            raise ProblemError(f"must be a list, such as [a, b]{words}; found {found(value)}")
        if len(value) < self.at_least:
            raise ProblemError("must name at least one, found an empty list")
        items = _Items()
        read = tuple(items.read(index, item, self._item) for index, item in enumerate(value))
        for index, item in enumerate(read if self.unique else ()):
            if item is not None and item in read[:index]:
                items.add(index, f"{found(item)} stands twice; keep one of them")
        items.done()
        return read

    def _item(self, item: Any) -> Any:
        is_word = self.null_words and isinstance(item, Scalar) and item.text
        return item.text if is_word else self.item.read(item)

    def shape(self) -> Schema:
        """A list of texts, and what may stand in its place."""
        many: Schema = {"type": "array", "items": self.item.shape()}
        if self.at_least:
            many["minItems"] = self.at_least
        if self.unique:
            many["uniqueItems"] = True
        instead = [self.item.shape()] if self.one else []
        if self.words:
            instead.append({"type": "string", "enum": list(self.words)})
        return {"anyOf": [*instead, many]} if instead else many


@dataclass(frozen=True, slots=True)
class TextMap(Kind):
    """A mapping of names to texts.

    Attributes:
        item: what each value must be.
        check: raises `ProblemError` for a name and its value; the value comes as it was read.
    """

    item: Kind = Text()
    check: Callable[[str, Any], None] | None = None

    def read(self, value: Any) -> dict[str, Any]:
        """Give a dict."""
        if value is None or (isinstance(value, Scalar) and value.is_null):
            return {}
        if not isinstance(value, dict):
            raise ProblemError(f"must be a mapping, such as {{name: text}}; found {found(value)}")
        items = _Items()
        read = {key: items.read(key, item, partial(self._entry, key)) for key, item in value.items()}
        items.done()
        return read

    def _entry(self, key: str, item: Any) -> Any:
        if self.check is not None:
            self.check(key, item)
        return self.item.read(item)

    def shape(self) -> Schema:
        """An object of texts."""
        return {"type": "object", "additionalProperties": self.item.shape()}


@dataclass(frozen=True, slots=True)
class Free(Kind):
    """A mapping of anything, read by YAML 1.2: true, false, null and numbers are those, all else is text.

    Attributes:
        json: it goes on the wire, where infinity and not-a-number cannot be written.
        check: looks at the whole, raising `ProblemError`.
    """

    json: bool = False
    check: Callable[[dict[str, Any]], None] | None = None

    def read(self, value: Any) -> dict[str, Any]:
        """Give a dict of plain Python values."""
        if not isinstance(value, dict):
            raise ProblemError(f"must be a mapping, such as {{name: value}}; found {found(value)}")
        read: dict[str, Any] = self._plain(value, ())
        if self.check is not None:
            self.check(read)
        return read

    def _plain(self, value: Any, at: tuple[str | int, ...]) -> Any:
        if isinstance(value, dict):
            return {key: self._plain(item, (*at, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._plain(item, (*at, index)) for index, item in enumerate(value)]
        if isinstance(value, Scalar):
            if value.broken:
                raise ProblemError(None, at)
            value = core(value.text) if value.plain and value.written is None else value.text
        if self.json and isinstance(value, float) and not math.isfinite(value):
            raise ProblemError(f"must be something that JSON can write, found {value}; quote it if it is text", at)
        return value

    def shape(self) -> Schema:
        """Any object."""
        return {"type": "object"}


@dataclass(frozen=True, slots=True)
class FreeRows(Kind):
    """A list of mappings of anything.

    Attributes:
        json: they go on the wire.
        noun: what they are, in words.
    """

    json: bool = False
    noun: str = "rows"

    def read(self, value: Any) -> tuple[dict[str, Any], ...]:
        """Give a tuple of dicts."""
        if not isinstance(value, list | tuple) or not value:
            raise ProblemError(f"must be a list of {self.noun}, such as [{{a: 1}}, {{a: 2}}]; found {found(value)}")
        items = _Items()
        rows = tuple(items.read(index, row, Free(json=self.json).read) for index, row in enumerate(value))
        items.done()
        return rows

    def shape(self) -> Schema:
        """A list of objects."""
        return {"type": "array", "items": {"type": "object"}, "minItems": 1}


@dataclass(frozen=True, slots=True)
class FilePath(Kind):
    """The path of one file or directory on this machine."""

    def read(self, value: Any) -> Path:
        """Give the path as it was written."""
        return Path(path_text(Text(wanted="a path").read(str(value) if isinstance(value, Path) else value)))

    def shape(self) -> Schema:
        """Text."""
        return {"type": "string", "minLength": 1}


MAX_PATH_CHARS = 4_096
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def path_text(text: str) -> str:
    """Let a local path pass.

    Raises:
        ProblemError: it is a URL, starts with ``~``, holds control characters or is longer than any path.
    """
    if scheme := _SCHEME.match(text):
        raise ProblemError(f"{scheme[1]}:// is not supported in this version; write the path of a file on this machine")
    if text.startswith("~"):
        raise ProblemError(f"{found(text)} starts with ~, which only a shell reads; write ${{env:HOME}} or ./~")
    if re.search(r"[\x00-\x1f\x7f]", text):
        raise ProblemError(f"must be a path, found control characters in {found(text)}")
    if len(text) > MAX_PATH_CHARS:
        raise ProblemError(f"must be a path, found {len(text):,} characters; the limit is {MAX_PATH_CHARS:,}")
    return text


@dataclass(frozen=True, slots=True)
class PromptText(Kind):
    """A text of the prompt, or ``{file: path}``, which the loader has put the file's text in place of."""

    def read(self, value: Any) -> str:
        """Give the text; empty text is refused, because no request may carry it."""
        if isinstance(value, dict):
            raise ProblemError(
                f"must be text, or {{file: path}}; found {found(value)}; if it is text, quote it or use a | block"
            )
        text = Text(wanted="text, or {file: path}").read(value)
        if not text.strip():
            raise ProblemError("must be text, or {file: path}; found only white space")
        return text

    def shape(self) -> Schema:
        """Text, or the name of a file that holds it."""
        file: Schema = {
            "type": "object",
            "properties": {
                "file": {
                    "type": "string",
                    "minLength": 1,
                    "description": "A UTF-8 file that holds the text; relative paths start at the job file's "
                    "directory.",
                }
            },
            "required": ["file"],
            "additionalProperties": False,
        }
        return {"anyOf": [{"type": "string", "minLength": 1}, file]}


@dataclass(frozen=True, slots=True)
class Params(Kind):
    """The job's params, which the loader has resolved."""

    def read(self, value: Any) -> dict[str, Any]:
        """Give a dict of scalars."""
        if not isinstance(value, dict):
            raise ProblemError(f"must be a mapping, such as {{region: eu}}; found {found(value)}")
        return dict(value)

    def shape(self) -> Schema:
        """An object of scalars."""
        return {
            "type": "object",
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        }


def _numeral(value: Any, wanted: str) -> int | float:
    """Read a number; text in quotes is none, unless it was filled in."""
    if isinstance(value, bool):
        raise ProblemError(f"must be {wanted}, found {str(value).lower()}")
    if isinstance(value, int | float):
        return value
    if not isinstance(value, Scalar):
        raise ProblemError(f"must be {wanted}, found {found(value)}")
    read = number(value.text)
    if read is None:
        raise ProblemError(f"must be {wanted}, found {found(value)}{number_meant(value.text)}")
    if not value.is_loose:
        raise ProblemError(f"must be {wanted}, found the text {found(value)}; write it without quotes")
    return read


def _unquoted(value: Any) -> str:
    text = value.text if isinstance(value, Scalar) else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"

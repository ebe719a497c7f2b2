"""The template language: Jinja2 in a sandbox, with the job's delimiters, where null is empty and nothing is random.

The job's `delimiters` stand around values. Those of blocks and comments follow from them: the first character of the
opening and the last of the closing one, with `%` or `#` inside. So ``<<`` ``>>`` gives ``<% %>`` and ``<# #>``, and
``{{`` ``}}`` gives Jinja2's usual ``{% %}`` and ``{# #}``.

Departures from Jinja2, all for prompts: values are written as `values.text` says; a null passes through filters on
single values as null, and `default` replaces it; `tojson` does not escape for HTML; `lipsum` and `random` are left out,
because equal rows must make equal prompts; the items of a mapping come before its methods; a line break ending the
template is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, StrictUndefined, Undefined, pass_environment
from jinja2.filters import FILTERS, do_float, do_int, make_attrgetter
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.utils import Cycler, Joiner, Namespace

from pipeline.prompt.values import json_bytes, text

MAX_PROMPT_BYTES = 32 * 1024 * 1024
"""What the API takes at most as one request (messages-api §7, 413); no template grows beyond it."""
MAX_POWER_BITS = 4_096
"""Bits of the largest whole number that `**` makes: an expression must not run for hours."""

HELPERS: Mapping[str, Any] = {
    "range": safe_range,  # refuses more than 100,000 items
    "dict": dict,
    "namespace": Namespace,
    "cycler": Cycler,
    "joiner": Joiner,
}
"""Functions that a template may call; a column of the same name wins."""


@dataclass(frozen=True, slots=True)
class Delimiters:
    """What stands around values, blocks and comments."""

    opening: str = "<<"
    closing: str = ">>"

    def around(self, mark: str) -> tuple[str, str]:
        """Give the delimiters of blocks (``%``) or comments (``#``)."""
        return self.opening[:1] + mark, mark + self.closing[-1:]

    def value(self, expression: str) -> str:
        """Write an expression as a template would."""
        return f"{self.opening}{expression}{self.closing}"

    def block(self, words: str) -> str:
        """Write a block as a template would."""
        opening, closing = self.around("%")
        return f"{opening} {words} {closing}"

    def trouble(self) -> str | None:
        """Say why these cannot be used, or None."""
        if not self.opening.strip() or not self.closing.strip():
            return 'an empty delimiter was found; ["<<", ">>"] would be right'
        taken = {self.around("%")[0], self.around("#")[0]}
        if self.opening in taken or self.closing in (self.around("%")[1], self.around("#")[1]):
            return (
                f"{self.opening} {self.closing} are those of blocks or comments; "
                '["<<", ">>"] or ["[[", "]]"] would be right'
            )
        return None


class Language(ImmutableSandboxedEnvironment):
    """The environment in which a job's templates are compiled and rendered."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, delimiters: Delimiters) -> None:
        self.delimiters = delimiters
        block, comment = delimiters.around("%"), delimiters.around("#")
        super().__init__(
            variable_start_string=delimiters.opening,
            variable_end_string=delimiters.closing,
            block_start_string=block[0],
            block_end_string=block[1],
            comment_start_string=comment[0],
            comment_end_string=comment[1],
            keep_trailing_newline=True,
            autoescape=False,
            undefined=StrictUndefined,
            finalize=text,
        )
        self.globals.clear()
        del self.filters["random"]
        for name in _TEXT_FILTERS:
            self.filters[name] = _null_through(FILTERS[name], text)
        for name in _NUMBER_FILTERS:
            self.filters[name] = _null_through(FILTERS[name], _as_it_is)
        self.filters.update(
            string=_string, default=_default, d=_default, join=_join, tojson=_tojson, int=_int, float=_float
        )

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Read `obj.attribute`; an item of a mapping comes before a method of the same name."""
        if isinstance(obj, Mapping) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply, or raise to a power, within bounds.

        Raises:
            OverflowError: the result would be larger than any prompt.
        """
        if operator == "**" and _bits(left, right) > MAX_POWER_BITS:
            raise OverflowError(f"a power of more than {MAX_POWER_BITS} bits")
        if operator == "*" and max(_repeated(left, right), _repeated(right, left)) > MAX_PROMPT_BYTES:
            raise OverflowError(f"a repetition longer than {MAX_PROMPT_BYTES} characters")
        return super().call_binop(context, operator, left, right)


def _bits(base: Any, power: Any) -> int:
    return base.bit_length() * power if isinstance(base, int) and isinstance(power, int) else 0


def _repeated(sequence: Any, times: Any) -> int:
    return len(sequence) * times if isinstance(sequence, (str, list, tuple)) and isinstance(times, int) else 0


_TEXT_FILTERS = (
    *("capitalize", "center", "e", "escape", "forceescape", "format", "indent", "lower", "replace", "striptags"),
    *("title", "trim", "truncate", "upper", "urlencode", "urlize", "wordcount", "wordwrap"),
)
_NUMBER_FILTERS = ("abs", "filesizeformat", "round")


def _null_through(function: Callable[..., Any], prepare: Callable[[Any], Any]) -> Callable[..., Any]:
    """Let null pass a filter on single values, and hand it text as prompts show it."""
    first = 1 if getattr(function, "jinja_pass_arg", None) else 0  # Jinja2 hands some filters its own context first

    def filtered(*args: Any, **kwargs: Any) -> Any:
        value = args[first]
        if value is None:
            return None
        return function(*args[:first], prepare(value), *args[first + 1 :], **kwargs)

    if first:
        filtered.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]  # how Jinja2 marks such filters
    return filtered


def _as_it_is(value: Any) -> Any:
    return value


def _string(value: Any) -> str:
    return text(value)


def _default(value: Any, otherwise: Any = "", boolean: bool = False) -> Any:  # noqa: FBT002 - Jinja2's signature
    return otherwise if value is None or isinstance(value, Undefined) or (boolean and not value) else value


@pass_environment
def _join(
    environment: Environment, values: Iterable[Any], between: str = "", attribute: str | int | None = None
) -> str:
    items = values if attribute is None else map(make_attrgetter(environment, attribute), values)
    return text(between).join([text(item) for item in items])


def _int(value: Any, default: Any = None, base: int = 10) -> Any:
    return default if value is None else do_int(value, 0 if default is None else default, base)


def _float(value: Any, default: Any = None) -> Any:
    return default if value is None else do_float(value, 0.0 if default is None else default)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json_bytes(value, indent=bool(indent)).decode()

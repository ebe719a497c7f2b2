"""What Anthropic's API would surely refuse, and models that go away: rules as data, each with its source and date.

`RULES` is the whole of it; `judge` looks a request up. A rule names models by their short names (`known_name`), so that
``claude-sonnet-4-5-20250929``, ``anthropic/claude-sonnet-4.5`` and ``us.anthropic.claude-sonnet-4-5-20250929-v1:0`` are
one. A model that is not named here meets only the rules of every model: what is newer than this table is hardly
ever refused by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from fnmatch import fnmatchcase
from typing import Any

from pipeline.job.request import RequestFields, Tool

CHECKED = date(2026, 11, 22)
"""When the rules were last compared with their sources."""

SOON = timedelta(days=60)
"""A model that retires within this time is warned of."""

NO_SAMPLING_FROM = "2026-10-21"
"""The first API version that refuses sampling parameters, whatever the model (messages-api §0)."""

SAMPLING = ("temperature", "top_p", "top_k")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at.

    Attributes:
        request: the section.
        prefill: the place in `prompt.messages` of a last turn by the assistant; None where the user's turn is last.
        version: `anthropic-version`; None where none is sent.
        betas: the header `anthropic-beta`, empty where none is sent.
        today: decides which models have retired.
        prefilled: the text of that last turn by the assistant, as a template; empty where there is none.
        cited: the place of a text block of the user's that bears citations; None where there is none.
        answered_document: the place of a document that stands in a turn of the assistant's; None where there is none.
    """

    request: RequestFields
    prefill: int | None
    version: str | None
    betas: str
    today: date
    prefilled: str = ""
    cited: str | None = None
    answered_document: str | None = None

    @property
    def thinking(self) -> str | None:
        """The type of thinking that is asked for."""
        return None if self.request.thinking is None else self.request.thinking.type

    @property
    def budget(self) -> int | None:
        """The tokens to think with."""
        return None if self.request.thinking is None else self.request.thinking.budget_tokens

    @property
    def effort(self) -> str | None:
        """The effort that is asked for."""
        return None if self.request.output_config is None else self.request.output_config.effort

    @property
    def forced(self) -> bool:
        """Whether the model must use a tool."""
        return self.request.tool_choice is not None and self.request.tool_choice.type in {"any", "tool"}

    @property
    def asks_for_json(self) -> bool:
        """Whether the answer's text must have a form."""
        return self.request.output_config is not None and self.request.output_config.format is not None

    @property
    def is_strict_version(self) -> bool:
        """Whether the API version is one that takes fewer blocks and fields."""
        return self.version is not None and self.version >= NO_SAMPLING_FROM

    @property
    def all_deferred(self) -> bool:
        """Whether every tool is left out until it is searched for."""
        tools = self.request.tools or ()
        return bool(tools) and all(_of_tool(tool, "defer_loading") is True for tool in tools)

    @property
    def marked_deferred(self) -> int | None:
        """The first tool that is left out at first and bears a cache mark nevertheless."""
        for index, tool in enumerate(self.request.tools or ()):
            if _of_tool(tool, "defer_loading") is True and _of_tool(tool, "cache_control") is not None:
                return index
        return None

    @property
    def strict_tools(self) -> int:
        """How many tools are strict."""
        return sum(isinstance(tool, Tool) and tool.strict is True for tool in self.request.tools or ())

    def sampled(self, name: str) -> bool:
        """Whether a sampling parameter is set to something else than what the API does anyway."""
        value = getattr(self.request, name)
        return value is not None and value != (0 if name == "top_k" else 1)


def _of_tool(tool: Tool | dict[str, Any], name: str) -> Any:
    return getattr(tool, name) if isinstance(tool, Tool) else tool.get(name)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that the API refuses, or that is better known before.

    Attributes:
        name: unique; of several rules that share the part before the dot, only the first that holds is said.
        place: the dotted place in the job file; ``{prefill}`` is filled in.
        models: short names as globs; empty for every model.
        holds: whether it applies.
        words: what is wrong and what would be right; names in braces are filled in.
        source: where it is written, as messages-api names its sources.
        refuse: the API would refuse the request; otherwise it is only worth knowing.
        everywhere: other hosts may have inherited it with the model; otherwise it is Anthropic's alone.
        checked: when it was last compared with its source.
    """

    name: str
    place: str
    models: tuple[str, ...]
    holds: Callable[[Facts], bool]
    words: str
    source: str
    refuse: bool = True
    everywhere: bool = True
    checked: date = CHECKED


@dataclass(frozen=True, slots=True)
class Retirement:
    """When models stop answering.

    Attributes:
        models: short names as globs.
        on: the day; None where only that it has passed is known.
        source: where it is written.
    """

    models: tuple[str, ...]
    on: date | None
    source: str = "D:about-claude/model-deprecations"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that holds.

    Attributes:
        place: the dotted place in the job file.
        words: what is wrong, what would be right.
        refused: by Anthropic's own API; False for what is only worth knowing.
    """

    place: str
    words: str
    refused: bool


OLD = ("haiku-4-5", "sonnet-4-5", "opus-4-5")
V46 = ("sonnet-4-6", "opus-4-6")
V47_48 = ("opus-4-7", "opus-4-8")
V5 = ("sonnet-5", "opus-5")
V55 = ("sonnet-5-5", "opus-5-5", "haiku-5-5")
MYTHIC = ("fable-5", "fable-5-[0-9]", "mythos-5", "mythos-5-[0-9]")
FROM_47 = (*V47_48, *V5, *V55, *MYTHIC)
FROM_46 = (*V46, *FROM_47)
RETIRED = ("opus-4-1", "opus-4", "opus-4-0", "sonnet-4", "sonnet-4-0", "3-*")
SAMPLED = (*V46, *OLD, *RETIRED)

RETIREMENTS = (
    Retirement(("sonnet-4-5",), date(2026, 11, 30), "SDK resources/messages/messages.py"),
    Retirement(("opus-4-1",), date(2026, 8, 5)),
    Retirement(("opus-4", "opus-4-0", "sonnet-4", "sonnet-4-0"), date(2026, 6, 15)),
    Retirement(("3-opus",), date(2026, 1, 5)),
    Retirement(("3-5-sonnet",), date(2025, 10, 28)),
    Retirement(("3-7-sonnet", "3-5-haiku", "3-haiku", "3-sonnet"), None),
)

CAPS = ((OLD, 64_000), (FROM_46, 128_000))
"""The most that `max_tokens` may be, by model (messages-api §9)."""

CACHED = "D:build-with-claude/prompt-caching"

CACHE_MINIMUMS = (
    (("opus-5", *V55, *MYTHIC), 512),
    (("opus-4-8", "sonnet-5", "sonnet-4-6", "sonnet-4-5"), 1_024),
    (("opus-4-7",), 2_048),
    (("opus-4-6", "opus-4-5", "haiku-4-5"), 4_096),
)
"""The shortest prefix that is kept, in tokens, by model; a shorter one is silently not (CACHED, as of CHECKED; LL
prompt_cache_min_tokens)."""

MAX_MARKS = 4
"""Cache marks that a request may bear (CACHED)."""

_THINKING = "D:build-with-claude/thinking-troubleshooting"
_GUIDES_55 = "D:models/{sonnet,haiku}-5-5/migration-guide"


def _thinks(*types: str) -> Callable[[Facts], bool]:
    return lambda facts: facts.thinking in types


def _sampling_rules() -> Iterable[Rule]:
    for name in SAMPLING:
        yield Rule(
            f"{name}.model",
            f"request.{name}",
            FROM_47,
            lambda facts, name=name: facts.sampled(name),  # type: ignore[misc]  # a default is no parameter
            "{model} refuses it; remove it",
            "D:api/migration-2026-10-21; AIM:capabilities/messages.json",
        )
        yield Rule(
            f"{name}.version",
            f"request.{name}",
            (),
            lambda facts, name=name: (  # type: ignore[misc]  # a default is no parameter
                getattr(facts.request, name) is not None and facts.is_strict_version
            ),
            'the API version {version} refuses it for every model; remove it, or set endpoint.version: "2023-06-01"',
            "D:api/versioning; SDK _constants.py",
        )


def _retirement_rules() -> Iterable[Rule]:
    for gone in RETIREMENTS:
        on = gone.on
        label = "-".join(gone.models)
        yield Rule(
            f"retirement.{label}",
            "request.model",
            gone.models,
            lambda facts, on=on: on is None or on <= facts.today,  # type: ignore[misc]  # a default is no parameter
            f"{{model}} {'was retired' if on is None else f'was retired on {on}'}, and calls to it fail; choose one "
            "that is served, such as claude-haiku-5-5",
            gone.source,
            refuse=False,
        )
        if on is not None:
            yield Rule(
                f"retiring.{label}",
                "request.model",
                gone.models,
                lambda facts, on=on: facts.today < on <= facts.today + SOON,  # type: ignore[misc]  # as above
                f"{{model}} retires on {on}; calls to it fail from then on",
                gone.source,
                refuse=False,
            )


def _cap_rules() -> Iterable[Rule]:
    for models, cap in CAPS:
        yield Rule(
            f"cap.{cap}",
            "request.max_tokens",
            models,
            lambda facts, cap=cap: (  # type: ignore[misc]  # a default is no parameter
                facts.request.max_tokens > cap and "output-300k" not in facts.betas
            ),
            f"is {{max_tokens:,}}, and {{model}} writes at most {cap:,}; lower it",
            "LL model_prices_and_context_window_backup.json; D:about-claude/models",
        )


RULES: tuple[Rule, ...] = (
    *_sampling_rules(),
    Rule(
        "temperature.range",
        "request.temperature",
        (),
        lambda facts: (facts.request.temperature or 0) > 1,
        "is {temperature:g}, and must be a number from 0 to 1",
        "SDK0 types/message_create_params.py",
    ),
    Rule(
        "top_p.temperature",
        "request.top_p",
        ("opus-4-1", *OLD, *V46),
        lambda facts: facts.request.temperature is not None and facts.request.top_p is not None,
        "stands beside temperature, and {model} takes one of the two; remove one",
        "D:models/haiku-4-5/migration-guide; D:about-claude/models/migrating",
    ),
    Rule(
        "stop.blank",
        "request.stop_sequences",
        (),
        lambda facts: any(not text.strip() for text in facts.request.stop_sequences or ()),
        "holds white space alone, at which no answer can be told to end; write a text that can be seen",
        "D:api/messages",
    ),
    Rule(
        "temperature.thinking",
        "request.temperature",
        SAMPLED,
        lambda facts: facts.thinking in {"enabled", "adaptive"} and facts.sampled("temperature"),
        "cannot be changed where the model thinks; remove it, or thinking",
        "D:build-with-claude/thinking",
    ),
    Rule(
        "top_p.thinking",
        "request.top_p",
        SAMPLED,
        lambda facts: facts.thinking in {"enabled", "adaptive"} and (facts.request.top_p or 1) < 0.95,
        "must be from 0.95 to 1 where the model thinks; remove it, or thinking",
        "D:build-with-claude/thinking",
    ),
    Rule(
        "top_k.thinking",
        "request.top_k",
        SAMPLED,
        lambda facts: facts.thinking in {"enabled", "adaptive"} and facts.sampled("top_k"),
        "cannot be set where the model thinks; remove it, or thinking",
        "D:build-with-claude/thinking",
    ),
    Rule(
        "thinking.enabled",
        "request.thinking.type",
        FROM_47,
        _thinks("enabled"),
        "{model} refuses enabled; write thinking: {{type: adaptive}}",
        f"{_THINKING}; {_GUIDES_55}",
    ),
    Rule(
        "thinking.enabled-deprecated",
        "request.thinking.type",
        V46,
        _thinks("enabled"),
        "enabled is deprecated for {model}; thinking: {{type: adaptive}} is its successor",
        _THINKING,
        refuse=False,
    ),
    Rule(
        "thinking.adaptive",
        "request.thinking.type",
        OLD,
        _thinks("adaptive"),
        "{model} refuses adaptive; write thinking: {{type: enabled, budget_tokens: 2048}}",
        _THINKING,
    ),
    Rule(
        "thinking.disabled",
        "request.thinking.type",
        ("sonnet-5-5", "opus-5-5", *MYTHIC),
        _thinks("disabled"),
        "{model} always thinks and refuses disabled; remove it, and give max_tokens room for thoughts",
        f"{_GUIDES_55}; LL thinking_always_on",
    ),
    Rule(
        "thinking.disabled-effort",
        "request.thinking.type",
        ("opus-5", "haiku-5-5"),
        lambda facts: facts.thinking == "disabled" and facts.effort in {"xhigh", "max"},
        "{model} refuses disabled with the effort {effort}; lower output_config.effort to high, or remove thinking",
        _THINKING,
    ),
    Rule(
        "thinking.between-tools",
        "request.thinking.type",
        (*OLD, *V46, *V47_48, *V5),
        _thinks("between_tools"),
        "{model} does not know between_tools; write thinking: {{type: adaptive}}, or choose claude-sonnet-5-5",
        f"{_THINKING}; {_GUIDES_55}",
    ),
    Rule(
        "thinking.between-tools-unknown",
        "request.thinking.type",
        ("opus-5-5", "haiku-5-5", *MYTHIC),
        _thinks("between_tools"),
        "between_tools is documented for claude-sonnet-5-5 alone; {model} may refuse it",
        _GUIDES_55,
        refuse=False,
    ),
    Rule(
        "effort.model",
        "request.output_config.effort",
        ("haiku-4-5", "sonnet-4-5", *RETIRED),
        lambda facts: facts.effort is not None,
        "{model} does not know it; remove it, or choose claude-haiku-5-5",
        "D:build-with-claude/effort; D:models/haiku-5-5/migration-guide",
    ),
    Rule(
        "effort.xhigh",
        "request.output_config.effort",
        ("opus-4-5", *V46),
        lambda facts: facts.effort == "xhigh",
        "{model} does not know xhigh, which came with claude-opus-4-7; write high",
        "D:build-with-claude/effort",
    ),
    Rule(
        "effort.max",
        "request.output_config.effort",
        ("opus-4-5",),
        lambda facts: facts.effort == "max",
        "{model} does not know max, which came with claude-opus-4-6; write high",
        "D:build-with-claude/effort",
    ),
    Rule(
        "budget.missing",
        "request.thinking",
        (),
        lambda facts: facts.thinking == "enabled" and facts.budget is None,
        "has no budget; write {{type: enabled, budget_tokens: 2048}}",
        "SDK types/thinking_config_enabled_param.py",
    ),
    Rule(
        "budget.stray",
        "request.thinking.budget_tokens",
        (),
        lambda facts: facts.thinking != "enabled" and facts.budget is not None,
        "is only for the type enabled, found {thinking}; remove it",
        "SDK types/thinking_config_adaptive_param.py",
    ),
    Rule(
        "budget_low.number",
        "request.thinking.budget_tokens",
        (),
        lambda facts: facts.thinking == "enabled" and (facts.budget or 1024) < 1024,
        "is {budget:,}, and must be at least 1,024",
        "SDK types/thinking_config_enabled_param.py",
    ),
    Rule(
        "budget_high.number",
        "request.thinking.budget_tokens",
        (),
        # With thoughts between tools the budget is that of a whole turn, which may be more than one answer's.
        lambda facts: (
            facts.thinking == "enabled"
            and (facts.budget or 0) >= facts.request.max_tokens
            and "interleaved-thinking" not in facts.betas
        ),
        "is {budget:,}, which leaves nothing of max_tokens ({max_tokens:,}) for the answer; raise max_tokens",
        "SDK types/thinking_config_enabled_param.py",
    ),
    Rule(
        "display.stray",
        "request.thinking.display",
        (),
        lambda facts: (
            facts.request.thinking is not None
            and facts.request.thinking.display is not None
            and facts.thinking not in {"enabled", "adaptive"}
        ),
        "is only for the types enabled and adaptive, found {thinking}; remove it",
        "SDK types/thinking_config_disabled_param.py",
    ),
    Rule(
        "forced.model",
        "request.tool_choice",
        ("opus-5-5", "sonnet-5-5", "fable-5-1", "mythos-5-1"),
        lambda facts: facts.forced,
        "{model} refuses to be forced to a tool; write tool_choice: auto, and strict: true for the tool",
        "D:models/sonnet-5-5/migration-guide; LL supports_forced_tool_use",
    ),
    Rule(
        "forced.thinking",
        "request.tool_choice",
        (),
        lambda facts: facts.forced and facts.thinking == "enabled",
        "forces a tool, which cannot be where thinking is enabled; write tool_choice: auto, or remove thinking",
        "D:build-with-claude/thinking",
    ),
    Rule(
        "strict.number",
        "request.tools",
        (),
        lambda facts: facts.strict_tools > 20,
        "holds {strict_tools} strict tools, and 20 is the most; leave strict out where it matters least",
        "D:build-with-claude/structured-outputs",
    ),
    Rule(
        "deferred.all",
        "request.tools",
        (),
        lambda facts: facts.all_deferred,
        "leaves every tool out until it is searched for; the one that searches cannot have defer_loading",
        "D:agents-and-tools/tool-use/tool-search-tool",
    ),
    Rule(
        "deferred.marked",
        "request.tools.{deferred}.cache_control",
        (),
        lambda facts: facts.marked_deferred is not None,
        "stands at a tool with defer_loading, which is in no prefix; mark a tool without it",
        "D:agents-and-tools/tool-use/tool-use-with-prompt-caching",
    ),
    Rule(
        "kept.rows",
        "request.cache_control",
        (),
        lambda facts: facts.request.cache_control is not None,
        "keeps the whole prompt of each row, which is paid and read by no other; prompt.cache keeps what rows share",
        CACHED,
        refuse=False,
    ),
    Rule(
        "metadata.keys",
        "request.metadata",
        (),
        lambda facts: bool(facts.request.metadata) and set(facts.request.metadata or ()) != {"user_id"},
        "takes user_id alone, found {metadata}; labels for cost reports stand in tags",
        "SDK types/metadata_param.py",
        everywhere=False,
    ),
    Rule(
        "prefill.model",
        "prompt.messages.{prefill}.role",
        FROM_46,
        lambda facts: facts.prefill is not None,
        "{model} refuses a last turn by the assistant; end with the user's turn, and say there how the answer starts",
        "D:api/errors",
    ),
    Rule(
        "prefill.thinking",
        "prompt.messages.{prefill}.role",
        (*OLD, *RETIRED),
        lambda facts: facts.prefill is not None and facts.thinking in {"enabled", "adaptive"},
        "is assistant in the last turn, which cannot be where the model thinks; end with the user's turn",
        "D:build-with-claude/thinking",
    ),
    Rule(
        "prefill.space",
        "prompt.messages.{prefill}.content",
        (*OLD, *RETIRED),
        lambda facts: facts.prefilled[-1:].isspace(),
        "ends in white space, which the beginning of an answer cannot; in YAML, |- leaves the line break out",
        "D:api/errors",
    ),
    Rule(
        "prefill.form",
        "prompt.messages.{prefill}.role",
        (*OLD, *RETIRED),
        lambda facts: facts.prefill is not None and facts.asks_for_json,
        "is assistant in the last turn, which cannot be beside output_config.format; end with the user's turn",
        "D:build-with-claude/structured-outputs",
    ),
    Rule(
        "cited.version",
        "{cited}",
        (),
        lambda facts: facts.cited is not None and facts.is_strict_version,
        "the API version {version} refuses citations in turns of the user; remove them, or set endpoint.version: "
        '"2023-06-01"',
        "D:api/migration-2026-10-21",
    ),
    Rule(
        "document.version",
        "{answered_document}",
        (),
        lambda facts: facts.answered_document is not None and facts.is_strict_version,
        "the API version {version} refuses documents in turns of the assistant; put it into a turn of the user, or set "
        'endpoint.version: "2023-06-01"',
        "D:api/migration-2026-10-21",
    ),
    Rule(
        "geo.model",
        "request.inference_geo",
        (*OLD, *RETIRED),
        lambda facts: facts.request.inference_geo is not None,
        "{model} refuses it, as all models before 4.6 do; remove it",
        "SDK types/message_create_params.py",
    ),
    Rule(
        "speed.model",
        "request.speed",
        (*OLD, *V46, "opus-4-7", "sonnet-5", "sonnet-5-5", "haiku-5-5", *MYTHIC),
        lambda facts: facts.request.speed == "fast",
        "fast has a price for claude-opus-5-5, claude-opus-5 and claude-opus-4-8 alone; {model} may refuse it",
        "D:about-claude/pricing; LL model_prices_and_context_window_backup.json",
        refuse=False,
    ),
    *_cap_rules(),
    *_retirement_rules(),
)

_CLAUDE = re.compile(r"claude-([a-z0-9.-]+)")
_STAMP = re.compile(r"(?:-(?:[0-9]{8}|latest|v[0-9]+))+$")


def known_name(model: str) -> str | None:
    """Give the short name that rules know a Claude by: ``sonnet-4-5``; None for any other model.

    Resellers' prefixes, dates, `latest` and revisions are dropped, and dots become dashes.
    """
    match = _CLAUDE.search(model.lower())
    return None if match is None else _STAMP.sub("", match[1].replace(".", "-"))


def is_one_of(name: str | None, models: Iterable[str]) -> bool:
    """Whether a short name is among models that are given as globs."""
    return name is not None and any(fnmatchcase(name, glob) for glob in models)


def cache_minimum(model: str) -> int | None:
    """Give the shortest prefix in tokens that a model's cache keeps; None where it is not known."""
    name = known_name(model)
    return next((least for models, least in CACHE_MINIMUMS if is_one_of(name, models)), None)


def judge(facts: Facts, *, anthropic: bool) -> list[Finding]:
    """Find the rules that hold.

    Args:
        facts: what is asked, and how.
        anthropic: the host is Anthropic's own, so that all rules apply; elsewhere those alone that come with the
            model, and only to a Claude.
    """
    name = known_name(facts.request.model)
    findings = []
    said: set[tuple[str, str]] = set()
    for rule in RULES:
        topic = (rule.place, rule.name.partition(".")[0])
        if not (anthropic or (rule.everywhere and name is not None)) or topic in said:
            continue
        if (not rule.models or is_one_of(name, rule.models)) and rule.holds(facts):
            said.add(topic)
            findings.append(Finding(_filled(rule.place, facts), _filled(rule.words, facts), rule.refuse))
    return findings


def _filled(text: str, facts: Facts) -> str:
    return text.format(
        model=facts.request.model,
        max_tokens=facts.request.max_tokens,
        temperature=facts.request.temperature,
        metadata=", ".join(facts.request.metadata or ()),
        version=facts.version,
        prefill=facts.prefill,
        thinking=facts.thinking,
        budget=facts.budget,
        effort=facts.effort,
        strict_tools=facts.strict_tools,
        deferred=facts.marked_deferred,
        cited=facts.cited,
        answered_document=facts.answered_document,
    )

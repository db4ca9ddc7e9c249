"""The dialects of function calling as data: how tools are offered, calls written and read, results handed back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from webapp.chat import tool_grammars, tool_offers, tool_syntax
from webapp.chat.messages import ToolCall
from webapp.chat.tool_grammars import ToolRules
from webapp.chat.tool_offers import Definition
from webapp.chat.tool_syntax import CallSyntax


@dataclass(frozen=True)
class ToolDialect:
    """``result_prefix`` stands before the results in the prompt; "" leaves it to the prompt template."""

    name: str
    offer: Callable[[Sequence[Definition]], str]
    calls: Callable[[Sequence[ToolCall]], str]
    results: Callable[[Sequence[str]], str]
    grammar: Callable[[ToolRules], str]
    syntax: CallSyntax
    result_prefix: str = ""
    stop_strings: tuple[str, ...] = ()
    """Where a model that was not held back begins to make up the result."""
    max_calls: int = tool_grammars.MAX_PARALLEL
    """How many calls one answer can hold."""


@dataclass(frozen=True)
class OfferedTools:
    """The tools of one prompt. Without definitions the dialect is only how calls in the history are written.

    ``is_held``: the dialect's grammar holds the answer, so that what begins as a call is one and nothing follows it.
    """

    dialect: ToolDialect
    definitions: tuple[Definition, ...] = ()
    is_held: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(definition["name"] for definition in self.definitions)

    def system_text(self, system: str) -> str:
        """The system prompt with the offer below it."""
        offer = self.dialect.offer(self.definitions) if self.definitions else ""
        return "\n".join(text for text in (system, offer) if text)


_FENCED = (tool_offers.fenced_calls, tool_offers.plain_results, tool_grammars.fenced_grammar, tool_syntax.FENCED)

G1X_COMPACT = ToolDialect("g1x_compact", tool_offers.compact_offer, *_FENCED)
G1X_JSON = ToolDialect("g1x_json", tool_offers.json_offer, *_FENCED)
RUNNER_LEGACY = ToolDialect(
    "runner_legacy",
    tool_offers.legacy_offer,
    tool_offers.legacy_calls,
    tool_offers.plain_results,
    tool_grammars.legacy_grammar,
    tool_syntax.RUNNER_LEGACY,
    result_prefix="Observation: ",
    stop_strings=("\n\nObservation:",),
    max_calls=1,
)
HERMES = ToolDialect(
    "hermes",
    tool_offers.hermes_offer,
    tool_offers.hermes_calls,
    tool_offers.hermes_results,
    tool_grammars.hermes_grammar,
    tool_syntax.HERMES,
    stop_strings=("<tool_response>",),
)

_DIALECTS = {dialect.name: dialect for dialect in (G1X_COMPACT, G1X_JSON, RUNNER_LEGACY, HERMES)}


def all_dialects() -> tuple[ToolDialect, ...]:
    """In the order to offer them."""
    return tuple(_DIALECTS.values())


def dialect(name: str) -> ToolDialect:
    """KeyError for a name that is none of :func:`all_dialects`."""
    return _DIALECTS[name]


def default_dialect(model_name: str) -> ToolDialect:
    """What a model's makers trained it on, as far as its file name tells; the G1x JSON form otherwise."""
    return RUNNER_LEGACY if "mobius" in model_name.lower() else G1X_JSON

"""What the tool bench is asked to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.engine.sampling_params import SamplingParams
from webapp.errors import BenchRefused
from webapp.structured.pattern_match import matches
from webapp.tools.bench import MAX_CASES, BenchCase, MadeCases, make_cases

CONSTRAINED, FREE = "constrained", "free"
MODES = (CONSTRAINED, FREE)
MAX_TOKENS = 400
"""Of one answer: room for a call with long arguments, and an end for a model that rambles."""
GREEDY = SamplingParams(temperature=0, frequency_penalty=0.0, max_tokens=MAX_TOKENS)


@dataclass(frozen=True)
class BenchOrder:
    """``definitions`` are OpenAI `function` objects, all offered with every prompt. ``dialect`` "" is what fits the
    model. With two ``modes`` every case is asked twice."""

    definitions: tuple[Mapping[str, Any], ...]
    cases: tuple[BenchCase, ...]
    modes: tuple[str, ...] = (CONSTRAINED,)
    dialect: str = ""
    params: SamplingParams = GREEDY

    @property
    def tool_names(self) -> frozenset[str]:
        return frozenset(str(definition["name"]) for definition in self.definitions)

    @property
    def askable(self) -> tuple[BenchCase, ...]:
        """The cases whose tools are offered."""
        return tuple(case for case in self.cases if case.tool_names <= self.tool_names)


def checked(order: BenchOrder) -> BenchOrder:
    """The same, or BenchRefused."""
    if not order.definitions:
        raise BenchRefused(reason="no tool is chosen", reason_key="tool_bench.problem.no_tools")
    if not order.askable:
        raise BenchRefused(reason="no case asks for the chosen tools", reason_key="tool_bench.problem.no_cases")
    if not order.modes or not set(order.modes) <= set(MODES):
        raise BenchRefused(reason="it decodes held to the form, free, or both", reason_key="tool_bench.problem.modes")
    return order


def made_cases(definitions: Sequence[Mapping[str, Any]], language: str, seed: int, per_tool: int) -> MadeCases:
    """As :func:`make_cases`, with patterns judged by the engine's own automata; fewer a tool where there are so many
    tools that all would not find room."""
    most = max(1, (MAX_CASES * 3 // 4) // max(1, len(definitions)))
    return make_cases(definitions, language, seed, min(per_tool, most), matches)

"""Evaluation cases that were not in the starter model's training data, and the scoring of any model's answers to them.

``held_out.jsonl`` has one case per line, written by ``python -m models.starter.data.heldout``. The cases never change,
so the figures of different models can be compared. :mod:`webapp.tools.bench` scores calls, as in the tool bench.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from webapp.tools.bench import ExpectedCall, read_answer, score_calls

CASES = Path(__file__).with_name("held_out.jsonl")
CALL, NO_CALL, TWO_CALLS, ASK_BACK = "call", "no_call", "two_calls", "ask_back"
LOOP_TIMES = 4
LOOP_CHARS = 24


class ToolCase(Struct, frozen=True):
    """``tools``: `function` objects as in the OpenAI API. ``calls`` is empty if the correct answer is text."""

    kind: str
    language: str
    tools: list[dict[str, Any]]
    messages: list[dict[str, str]]
    calls: list[ExpectedCall] = field(default_factory=list)


class PromptCase(Struct, frozen=True):
    """An answer is on topic if it contains one of the keywords, ignoring case."""

    language: str
    topic: str
    messages: list[dict[str, str]]
    keywords: tuple[str, ...]

    def is_on_topic(self, answer: str) -> bool:
        return any(keyword.lower() in answer.lower() for keyword in self.keywords)


class HeldOut(Struct, frozen=True):
    """``tools``: random tools. ``natural``: realistic tools. ``prompts``: small talk and how-to questions, by language.
    Half of each is English, half Chinese."""

    tools: list[ToolCase]
    natural: list[ToolCase]
    prompts: dict[str, list[PromptCase]]


class ToolScore(Struct, frozen=True):
    """``decision``: a call was made if and only if one was expected. The others are None if no call is expected."""

    kind: str
    language: str
    decision: bool
    valid_json: bool | None = None
    name: bool | None = None
    arguments: bool | None = None


class PromptScore(Struct, frozen=True):
    language: str
    ends_turn: bool
    no_loop: bool
    on_topic: bool


def held_out() -> HeldOut:
    """All cases, in order."""
    rows = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    parts = {part: [row["case"] for row in rows if row["part"] == part] for part in ("tools", "natural", "prompts")}
    prompts = [PromptCase(**{**row, "keywords": tuple(row["keywords"])}) for row in parts["prompts"]]
    return HeldOut(
        [_tool_case(row) for row in parts["tools"]],
        [_tool_case(row) for row in parts["natural"]],
        {language: [case for case in prompts if case.language == language] for language in ("en", "zh")},
    )


def evenly(cases: list[ToolCase], count: int) -> list[ToolCase]:
    """``count`` cases, evenly distributed, because the cases are sorted by kind."""
    return [cases[number * len(cases) // count] for number in range(count)]


def score_tools(case: ToolCase, answer: str) -> ToolScore:
    found = score_calls(case.calls if case.kind in (CALL, TWO_CALLS) else (), read_answer(answer))
    return ToolScore(case.kind, case.language, found.decision, found.readable, found.name, found.arguments)


def score_prompt(case: PromptCase, answer: str, ends_turn: bool) -> PromptScore:
    return PromptScore(case.language, ends_turn, not has_loop(answer), case.is_on_topic(answer))


def has_loop(text: str) -> bool:
    """True if the text ends with one string repeated :data:`LOOP_TIMES` times over :data:`LOOP_CHARS` characters."""
    match = re.search(rf"(.{{1,80}}?)\1{{{LOOP_TIMES - 1},}}\s*\Z", text, re.DOTALL)
    return match is not None and len(match[0]) >= LOOP_CHARS


def confusion(scores: Iterable[ToolScore]) -> Mapping[str, int]:
    """Number of correct and wrong decisions by kind of case: ``kind:right`` and ``kind:wrong``."""
    return Counter(f"{score.kind}:{'right' if score.decision else 'wrong'}" for score in scores)


def _tool_case(row: dict[str, Any]) -> ToolCase:
    return ToolCase(**{**row, "calls": [ExpectedCall(**call) for call in row["calls"]]})

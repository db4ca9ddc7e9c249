"""Judging answers to the held-out cases: pure functions over text, for any model.

Calls are judged by :mod:`webapp.tools.call_score`, as in the tool bench. An answer loops when its end repeats one run
of characters at least LOOP_TIMES times over at least LOOP_CHARS characters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from webapp.tools.call_score import read_answer, score_calls
from webapp.training.data.heldout import PromptCase, ToolCase
from webapp.training.data.tool_formats import JSON_LIST, tools_text

LOOP_TIMES = 4
LOOP_CHARS = 24
CALL_KINDS = ("call", "two_calls")


@dataclass(frozen=True)
class ToolScore:
    """``decision``: called where a call was right, and only there. The others are None where no call is expected."""

    kind: str
    language: str
    decision: bool
    valid_json: bool | None = None
    name: bool | None = None
    arguments: bool | None = None


@dataclass(frozen=True)
class PromptScore:
    language: str
    ends_turn: bool
    no_loop: bool
    on_topic: bool


def tool_system_prompt(case: ToolCase, form: str = JSON_LIST) -> str:
    """The tools as the system message, in one of the forms of ``training.data.tool_formats``."""
    return tools_text(case.tools, form)


def score_tools(case: ToolCase, answer: str) -> ToolScore:
    found = score_calls(case.calls if case.kind in CALL_KINDS else (), read_answer(answer))
    return ToolScore(case.kind, case.language, found.decision, found.readable, found.name, found.arguments)


def score_prompt(case: PromptCase, answer: str, ends_turn: bool) -> PromptScore:
    return PromptScore(case.language, ends_turn, not has_loop(answer), case.is_on_topic(answer))


def has_loop(text: str) -> bool:
    match = re.search(rf"(.{{1,80}}?)\1{{{LOOP_TIMES - 1},}}\s*\Z", text, re.DOTALL)
    return match is not None and len(match[0]) >= LOOP_CHARS


def confusion(scores: Iterable[ToolScore]) -> Mapping[str, int]:
    """How often each kind of case was decided rightly: ``kind:right`` and ``kind:wrong``."""
    return Counter(f"{score.kind}:{'right' if score.decision else 'wrong'}" for score in scores)

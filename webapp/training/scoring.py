"""Judging answers to the held-out cases: pure functions over text, for any model.

A call counts where the answer holds JSON with "name" and "arguments" (one object or a list), fenced or bare. Arguments
are exact when they equal the expected ones as JSON values. An answer loops when its end repeats one run of characters
at least LOOP_TIMES times over at least LOOP_CHARS characters.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from webapp.training.data.heldout import ExpectedCall, PromptCase, ToolCase
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
    calls, looks_like_call = read_calls(answer)
    if case.kind not in CALL_KINDS:
        return ToolScore(case.kind, case.language, decision=not looks_like_call)
    found = calls or []
    return ToolScore(
        case.kind,
        case.language,
        decision=looks_like_call,
        valid_json=calls is not None,
        name=[call.name for call in found] == [call.name for call in case.calls],
        arguments=found == case.calls,
    )


def read_calls(answer: str) -> tuple[list[ExpectedCall] | None, bool]:
    """(the calls or None when they do not parse, whether the answer set out to call at all)."""
    fenced = re.search(r"```(?:json)?\s*(.*?)(?:```|\Z)", answer, re.DOTALL)
    text = (fenced[1] if fenced else answer).strip()
    looks_like_call = bool(fenced) or text.startswith(("{", "["))
    if not looks_like_call:
        return None, False
    try:
        data = json.loads(text)
    except ValueError:
        return None, True
    rows = data if isinstance(data, list) else [data]
    if not all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows):
        return None, True
    return [ExpectedCall(row["name"], row.get("arguments", {})) for row in rows], True


def score_prompt(case: PromptCase, answer: str, ends_turn: bool) -> PromptScore:
    return PromptScore(case.language, ends_turn, not has_loop(answer), case.is_on_topic(answer))


def has_loop(text: str) -> bool:
    match = re.search(rf"(.{{1,80}}?)\1{{{LOOP_TIMES - 1},}}\s*\Z", text, re.DOTALL)
    return match is not None and len(match[0]) >= LOOP_CHARS


def shares(scores: Iterable[Any], names: Iterable[str]) -> dict[str, float]:
    """Name -> share of True among the scores that have it (None does not count), 0 to 1; and ``cases``."""
    rows = list(scores)
    result: dict[str, float] = {"cases": len(rows)}
    for name in names:
        values = [getattr(row, name) for row in rows if getattr(row, name) is not None]
        result[name] = round(sum(values) / len(values), 4) if values else float("nan")
    return result


def confusion(scores: Iterable[ToolScore]) -> Mapping[str, int]:
    """How often each kind of case was decided rightly: ``kind:right`` and ``kind:wrong``."""
    return Counter(f"{score.kind}:{'right' if score.decision else 'wrong'}" for score in scores)

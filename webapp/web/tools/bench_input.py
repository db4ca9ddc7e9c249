"""The forms of the tool bench as they come in."""

from __future__ import annotations

import json
from collections.abc import Mapping

from webapp.errors import BenchCaseInvalid
from webapp.tools.bench_case import (
    MAX_PROMPT_CHARS,
    BenchCase,
    arguments_from_text,
    call_to_dict,
    calls_from_text,
    checked,
)
from webapp.tools.call_score import ExpectedCall
from webapp.web.tools.bench_contexts import CaseDraft

SEVERAL = "*"
ARGUMENT_CHARS = 100_000
MOST_PER_TOOL = 20
LARGEST_SEED = 2**31 - 1


def draft_of(case: BenchCase) -> CaseDraft:
    if not case.calls:
        return CaseDraft(case.prompt)
    if len(case.calls) == 1:
        [call] = case.calls
        return CaseDraft(case.prompt, call.name, json.dumps(call.arguments, ensure_ascii=False))
    calls = [call_to_dict(call) for call in case.calls]
    return CaseDraft(case.prompt, SEVERAL, json.dumps(calls, ensure_ascii=False, indent=1))


def read_draft(form: Mapping[str, str]) -> CaseDraft:
    """Never raises; what is too long keeps one character too many, to be refused by :func:`case_of`."""
    return CaseDraft(
        form.get("prompt", "").replace("\r\n", "\n")[: MAX_PROMPT_CHARS + 1],
        form.get("expect", "")[:100],
        form.get("arguments", "")[:ARGUMENT_CHARS],
    )


def case_of(draft: CaseDraft) -> BenchCase:
    """BenchCaseInvalid with the field that is wrong."""
    calls: tuple[ExpectedCall, ...] = ()
    if draft.expect == SEVERAL:
        calls = _several(draft.arguments)
    elif draft.expect:
        calls = (ExpectedCall(draft.expect, arguments_from_text(draft.arguments)),)
    return checked(BenchCase(draft.prompt.strip(), calls))


def read_count(text: str, usual: int, least: int, most: int) -> int:
    """What is no number is the usual one; what is too large or small the nearest that is not."""
    try:
        return min(max(int(text), least), most)
    except ValueError:
        return usual


def _several(text: str) -> tuple[ExpectedCall, ...]:
    try:
        return calls_from_text(text)
    except BenchCaseInvalid as exc:
        raise BenchCaseInvalid(**{**exc.params, "field": "arguments"}) from exc

"""One prompt of the tool bench with the calls it should lead to, and such cases as lines of JSON.

A line is ``{"prompt": "…", "calls": [{"name": "…", "arguments": {…}}]}``; no calls, or none given, means that
plain text is the right answer. ``"generated": true`` marks what the bench made up itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.errors import BenchCaseInvalid, BenchLineInvalid
from webapp.tools.call_score import ExpectedCall

MAX_PROMPT_CHARS = 8_000
MAX_CALLS = 8
MAX_CASES = 500


@dataclass(frozen=True)
class BenchCase:
    prompt: str
    calls: tuple[ExpectedCall, ...] = ()
    is_generated: bool = False

    @property
    def tool_names(self) -> frozenset[str]:
        return frozenset(call.name for call in self.calls)


def case_from_dict(value: object) -> BenchCase:
    """BenchCaseInvalid with the field that is wrong: ``prompt``, ``calls`` or ``arguments``."""
    if not isinstance(value, Mapping):
        raise _problem("prompt", "object", "a case is a JSON object with a prompt")
    calls = value.get("calls", ())
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        raise _problem("calls", "list", "the calls must be a list")
    prompt = value.get("prompt")
    found = tuple(_call(call) for call in calls)
    return checked(BenchCase(prompt if isinstance(prompt, str) else "", found, bool(value.get("generated"))))


def checked(case: BenchCase) -> BenchCase:
    """The same, or BenchCaseInvalid."""
    if not case.prompt.strip():
        raise _problem("prompt", "empty", "the prompt is empty")
    if len(case.prompt) > MAX_PROMPT_CHARS:
        raise _problem("prompt", "long", "the prompt has more than {limit} characters", limit=MAX_PROMPT_CHARS)
    if len(case.calls) > MAX_CALLS:
        raise _problem("calls", "many_calls", "a case has at most {limit} calls", limit=MAX_CALLS)
    return case


def case_to_dict(case: BenchCase) -> dict[str, Any]:
    made: dict[str, Any] = {"prompt": case.prompt, "calls": [call_to_dict(call) for call in case.calls]}
    return made | ({"generated": True} if case.is_generated else {})


def call_to_dict(call: ExpectedCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments}


def cases_from_lines(text: str) -> tuple[BenchCase, ...]:
    """All or none: BenchLineInvalid names the line. Blank lines count but say nothing."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            found.append(_case_on_line(number, line))
    if not found:
        raise _problem("cases", "none", "there is no case in it")
    if len(found) > MAX_CASES:
        raise _problem("cases", "many", "there is room for {limit} cases", limit=MAX_CASES)
    return tuple(found)


def cases_to_lines(cases: Iterable[BenchCase]) -> str:
    return "".join(json.dumps(case_to_dict(case), ensure_ascii=False) + "\n" for case in cases)


def calls_from_text(text: str) -> tuple[ExpectedCall, ...]:
    """A JSON list of calls as a person writes it; BenchCaseInvalid (field ``arguments``)."""
    value = _json(text, "arguments")
    return tuple(_call(call) for call in (value if isinstance(value, list) else [value]))


def arguments_from_text(text: str) -> dict[str, Any]:
    """A JSON object as a person writes it, nothing is none; BenchCaseInvalid (field ``arguments``)."""
    value = _json(text, "arguments") if text.strip() else {}
    if not isinstance(value, dict):
        raise _problem("arguments", "arguments", "the arguments must be a JSON object")
    return value


def _case_on_line(number: int, line: str) -> BenchCase:
    try:
        return case_from_dict(_json(line, "cases"))
    except BenchCaseInvalid as exc:
        raise BenchLineInvalid(**{**exc.params, "line": number}) from exc


def _call(value: object) -> ExpectedCall:
    name = value.get("name") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(name, str) or not name:
        raise _problem("calls", "call", "a call is a JSON object with a name and arguments")
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise _problem("arguments", "arguments", "the arguments must be a JSON object")
    return ExpectedCall(name, arguments)


def _json(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise _problem(field, "json", "it is no JSON") from exc


def _problem(field: str, key: str, reason: str, **params: Any) -> BenchCaseInvalid:
    """``key``: where the catalogues have the reason."""
    words = {"reason": reason.format(**params), "reason_key": f"tool_bench.problem.{key}"}
    return BenchCaseInvalid(field=field, **words, **params)

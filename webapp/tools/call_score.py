"""Is a call the right one? What `roost eval` and the tool bench both judge by: pure functions over text.

``decision``   the answer set out to call where a call is expected, and did not where none is
``readable``   the calls it set out to make can be read, as the chat would read them
``name``       the names called are the names expected, in their order
``arguments``  the calls equal the expected ones as JSON values: names, every argument, none too many

The last three are None, and count nowhere, where no call is expected; where one is and none was made they are False.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from webapp.chat.events import CallDelta
from webapp.chat.tool_dialects import FENCED, CallSyntax
from webapp.chat.tool_parser import ToolCallParser

FIGURES = ("decision", "readable", "name", "arguments")


@dataclass(frozen=True)
class ExpectedCall:
    """A call as it should be, or was, made: ``arguments`` are JSON values."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CallScore:
    decision: bool
    readable: bool | None = None
    name: bool | None = None
    arguments: bool | None = None

    @property
    def is_right(self) -> bool:
        """In every respect that counts."""
        return self.decision and self.arguments is not False


@dataclass(frozen=True)
class Reading:
    """``sets_out``: something in the answer begins as a call does, whether or not it can be read."""

    calls: tuple[ExpectedCall, ...] = ()
    sets_out: bool = False


def read_answer(answer: str, syntax: CallSyntax = FENCED) -> Reading:
    """The calls of an answer's content, those of tools nobody offered too."""
    parser = ToolCallParser(syntax, None, lambda: "")
    pieces = [*parser.feed(answer), *parser.finish()]
    calls = [piece for piece in pieces if isinstance(piece, CallDelta)]
    found = tuple(ExpectedCall(call.name, json.loads(call.arguments)) for call in calls)
    return Reading(found, bool(found) or syntax.find(answer, True, True).body is not None)


def score_calls(expected: Sequence[ExpectedCall], reading: Reading) -> CallScore:
    """``expected`` is empty where the right answer is text."""
    if not expected:
        return CallScore(decision=not reading.sets_out)
    return CallScore(
        decision=reading.sets_out,
        readable=bool(reading.calls),
        name=[call.name for call in reading.calls] == [call.name for call in expected],
        arguments=_is_same([_plain(call) for call in reading.calls], [_plain(call) for call in expected]),
    )


def shares(scores: Iterable[Any], names: Iterable[str]) -> dict[str, float]:
    """Name -> share of True among the scores that have it (None does not count), 0 to 1; and ``cases``."""
    rows = list(scores)
    result: dict[str, float] = {"cases": len(rows)}
    for name in names:
        values = [getattr(row, name) for row in rows if getattr(row, name) is not None]
        result[name] = round(sum(values) / len(values), 4) if values else float("nan")
    return result


def _plain(call: ExpectedCall) -> list[Any]:
    return [call.name, call.arguments]


def _is_same(one: Any, other: Any) -> bool:
    """As JSON values: 1 is 1.0, but it is not true, which Python would have it be."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)

"""Results of a tool bench run: the stored data of each answer, the figures of each mode, and which tool was called
instead of which."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.tools.bench import FIGURES, CallScore, shares

CONSTRAINED, FREE = "constrained", "free"
MODES = (CONSTRAINED, FREE)
Answer = dict[str, Any]
"""The stored data of one case in one mode, which :func:`reports` reads:

``place`` of the case, ``mode``, ``prompt``, ``expected`` calls, ``sent`` (the prompt after the tool definitions that
all cases share), ``raw`` (the whole output), ``called``, ``sets_out`` (the beginning of a call was written), ``score``,
``finish_reason``, ``tokens``, and ``error`` if the case failed.
"""
NO_CALL, OTHER = "", "?"
"""Entries of the confusion table that no tool name can equal: no call; an invalid call or one of an unknown tool."""


@dataclass(frozen=True)
class Confusion:
    """``counts`` of (expected, called), per call: an answer with two calls counts twice. Names are in the order of the
    definitions, then NO_CALL, then (only for called) OTHER."""

    expected: tuple[str, ...]
    called: tuple[str, ...]
    counts: Mapping[tuple[str, str], int]

    def count(self, expected: str, called: str) -> int:
        return self.counts.get((expected, called), 0)


@dataclass(frozen=True)
class ModeReport:
    """``shares``: from 0 to 1 by the names of :data:`FIGURES`, None if no case has the figure. ``counts``: their
    (right, total)."""

    mode: str
    cases: int
    right: int
    shares: Mapping[str, float | None]
    counts: Mapping[str, tuple[int, int]]
    confusion: Confusion


def reports(setup: Mapping[str, Any], answers: Sequence[Answer]) -> tuple[ModeReport, ...]:
    """One report for each mode that has answers, constrained mode first."""
    names = tuple(str(tool["name"]) for tool in setup["tools"])
    by_mode = {mode: [answer for answer in answers if answer["mode"] == mode] for mode in MODES}
    return tuple(_report(mode, names, found) for mode, found in by_mode.items() if found)


def is_right(answer: Answer) -> bool:
    return "error" not in answer and CallScore(**answer["score"]).is_right


def wrong_first(answers: Sequence[Answer]) -> list[Answer]:
    """Wrong answers first, then by case, so that both modes of a case are next to each other."""
    return sorted(answers, key=lambda answer: (is_right(answer), answer["place"], MODES.index(answer["mode"])))


def document(
    setup: Mapping[str, Any], answers: Sequence[Answer], error: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """For JSON. An interrupted run has fewer answers than ``asked``."""
    return {
        "setup": dict(setup),
        "answered": len(answers),
        "error": dict(error) if error else None,
        "modes": {report.mode: _as_dict(report) for report in reports(setup, answers)},
        "answers": sorted(answers, key=lambda answer: (answer["place"], answer["mode"])),
    }


def _report(mode: str, names: tuple[str, ...], answers: Sequence[Answer]) -> ModeReport:
    scores = [CallScore(**answer["score"]) for answer in answers]
    found = shares(scores, FIGURES)
    values = {name: [getattr(score, name) for score in scores] for name in FIGURES}
    return ModeReport(
        mode,
        len(answers),
        sum(map(is_right, answers)),
        {name: None if math.isnan(found[name]) else found[name] for name in FIGURES},
        {name: (values[name].count(True), len(answers) - values[name].count(None)) for name in FIGURES},
        _confusion(names, answers),
    )


def _confusion(names: tuple[str, ...], answers: Sequence[Answer]) -> Confusion:
    counts = Counter(pair for answer in answers for pair in _pairs(answer, names))
    called = (*names, NO_CALL, OTHER)
    return Confusion((*names, NO_CALL), called, counts)


def _pairs(answer: Answer, names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of expected and actual calls, in order."""
    expected = [call["name"] for call in answer["expected"]] or [NO_CALL]
    called = [call["name"] if call["name"] in names else OTHER for call in answer["called"]]
    if not called and (answer["sets_out"] or "error" in answer):
        called = [OTHER]
    return list(itertools.zip_longest(expected, called or [NO_CALL], fillvalue=NO_CALL))


def _as_dict(report: ModeReport) -> dict[str, Any]:
    rows = {
        _label(expected): {
            _label(called): report.confusion.count(expected, called)
            for called in report.confusion.called
            if report.confusion.count(expected, called)
        }
        for expected in report.confusion.expected
    }
    counts = {name: list(pair) for name, pair in report.counts.items()}
    return {"cases": report.cases, **report.shares, "right": report.right, "counts": counts, "confusion": rows}


def _label(name: str) -> str:
    return {NO_CALL: "(no call)", OTHER: "(unreadable or unknown)"}.get(name, name)

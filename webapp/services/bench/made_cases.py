"""Cases made from schemas, with patterns judged by the engine's own automata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from webapp.structured.pattern_match import matches
from webapp.tools.bench_case import MAX_CASES
from webapp.tools.case_maker import MadeCases, make_cases


def made_cases(definitions: Sequence[Mapping[str, Any]], language: str, seed: int, per_tool: int) -> MadeCases:
    """As :func:`make_cases`; fewer a tool where there are so many tools that all would not find room."""
    most = max(1, (MAX_CASES * 3 // 4) // max(1, len(definitions)))
    return make_cases(definitions, language, seed, min(per_tool, most), matches)

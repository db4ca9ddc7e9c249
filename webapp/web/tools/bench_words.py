"""Calls and figures as a reader sees them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from webapp.tools.call_score import ExpectedCall


def call_text(name: str, arguments: object) -> str:
    """``get_weather(city: "Paris")``."""
    pairs = arguments.items() if isinstance(arguments, Mapping) else ()
    return f"{name}({', '.join(f'{key}: {json.dumps(value, ensure_ascii=False)}' for key, value in pairs)})"


def case_text(calls: Iterable[ExpectedCall]) -> str:
    return ", ".join(call_text(call.name, call.arguments) for call in calls)


def stored_text(calls: Iterable[Mapping[str, Any]]) -> str:
    return ", ".join(call_text(call["name"], call["arguments"]) for call in calls)


def percent(share: float | None) -> str:
    """ "" where there is nothing to have a share of."""
    return "" if share is None else f"{100 * share:.1f} %"

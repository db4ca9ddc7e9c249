"""JSON a person typed into a tool's form."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from webapp.errors import Phrase, ToolInvalid


class NotInJson(ValueError):
    """A number, or a word Python has for one."""


def parse_json(text: str, field: str) -> Any:
    """The value; ToolInvalid at ``field`` says in which line and column it stops being JSON."""
    try:
        return strict_json(text)
    except json.JSONDecodeError as exc:
        where = {"line": exc.lineno, "column": exc.colno}
        raise ToolInvalid(field=field, reason=Phrase("it is no JSON (line {line}, column {column})", **where)) from exc
    except NotInJson as exc:
        raise ToolInvalid(field=field, reason=Phrase("JSON has no number {number}", number=str(exc)[:40])) from exc
    except (ValueError, RecursionError) as exc:  # a number of more digits than Python reads
        raise ToolInvalid(field=field, reason="it is nested too deeply or has too long a number") from exc


def strict_json(text: str) -> Any:
    """The value; ValueError also for what only Python takes for JSON (NaN, Infinity) and for numbers that are infinite
    to it (1e999): what Roost wrote of them no other program could read."""
    return json.loads(text, parse_constant=_refused, parse_float=_finite)


def _finite(written: str) -> float:
    number = float(written)
    return number if math.isfinite(number) else _refused(written)


def _refused(written: str) -> NoReturn:
    raise NotInJson(written)

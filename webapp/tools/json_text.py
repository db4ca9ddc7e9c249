"""JSON a person typed into a tool's form."""

from __future__ import annotations

import json
from typing import Any

from webapp.errors import Phrase, ToolInvalid


def parse_json(text: str, field: str) -> Any:
    """The value; ToolInvalid at ``field`` says in which line and column it stops being JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as exc:
        where = {"line": exc.lineno, "column": exc.colno}
        raise ToolInvalid(field=field, reason=Phrase("it is no JSON (line {line}, column {column})", **where)) from exc
    except (ValueError, RecursionError) as exc:  # a number of more digits than Python reads
        raise ToolInvalid(field=field, reason="it is nested too deeply or has too long a number") from exc

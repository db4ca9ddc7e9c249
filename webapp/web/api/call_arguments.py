"""A call's arguments as an object, for the dialects that do not hand on their text."""

from __future__ import annotations

import json
import re
from typing import Any

TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+)', re.DOTALL)
CLOSERS = {"{": "}", "[": "]"}


def read_arguments(text: str) -> dict[str, Any]:
    """All of them, or, where the limit of tokens has cut the text off, what of them is complete. Halves of characters,
    which no answer can carry, become "?"."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = json.loads(completed(text))
    whole = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
    found: dict[str, Any] = json.loads(whole)
    return found


def completed(text: str) -> str:
    """The beginning of a JSON object up to its last complete value, with the brackets that are open there closed.

    A number or word at the very end may go on, and does not count.
    """
    closers: list[str] = []
    best, place, before = "{}", 0, ""
    while token := TOKEN.match(text, place):
        written, place = token[1], token.end()
        if written in CLOSERS:
            closers.append(CLOSERS[written])
        elif written in ("}", "]"):
            closers.pop()
        is_key = written[0] == '"' and before in ("{", ",") and closers[-1] == "}"
        is_whole = place < len(text) or written[-1] in '"{}[]'
        if written not in (",", ":") and not is_key and is_whole:
            best = text[:place] + "".join(reversed(closers))
        before = written
    return best

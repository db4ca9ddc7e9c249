"""StateMismatch in words that can be said in the reader's language."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from webapp.errors import StateMismatch


class Words:
    """English, with the key of the same in the catalogue (``states.mismatch.<key>``) and what is filled into that."""

    def __init__(self, english: str, key: str, **params: Any) -> None:
        self.english = english
        self.key = f"states.mismatch.{key}"
        self.params = params


def mismatch(path: Path, what: Words, expected: object, found: object) -> StateMismatch:
    """What is not :class:`Words` is a number or a name, the same in every language."""
    params: dict[str, Any] = {}
    for name, value in (("what", what), ("expected", expected), ("found", found)):
        if isinstance(value, Words):
            params |= value.params | {name: value.english, f"{name}_key": value.key}
        else:
            params[name] = str(value)
    return StateMismatch(path=path.name, **params)

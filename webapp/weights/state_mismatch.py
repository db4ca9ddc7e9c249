"""``state_mismatch`` in words that can be said in the reader's language."""

from __future__ import annotations

from pathlib import Path

from webapp.errors import WeightsError
from webapp.i18n import Text


def mismatch(path: Path, what: Text, expected: object, found: object) -> WeightsError:
    """What is no Text is a number or a name, the same in every language."""
    told = {"what": what, "expected": expected, "found": found}
    words = {name: value if isinstance(value, Text) else str(value) for name, value in told.items()}
    return WeightsError("state_mismatch", path=path.name, **words)

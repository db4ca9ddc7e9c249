"""Checks of errors in tests: the code, and the keys and values of the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from webapp.errors import RoostError
from webapp.i18n import Text


def values_in(found: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All content of an error, of a Text, or of their form in a pipe, at any depth: ``("key", key)`` for each Text,
    ``(name, value)`` for each value."""
    if isinstance(found, ValueError):  # contains a Text if a tool fails
        (found,) = found.args
    found = found.params if isinstance(found, RoostError) else found
    found = found.to_plain() if isinstance(found, Text) else found
    if not isinstance(found, dict):
        yield name, found
    elif found.keys() == {"text", "params"}:
        yield "key", found["text"]
        yield from values_in(found["params"])
    else:
        for name, value in found.items():
            yield from values_in(value, name)


def contains(found: Any, /, **expected: Any) -> bool:
    """Whether ``found`` contains everything in ``expected``: ``key`` is that of a Text, other names are those of
    values."""
    present = list(values_in(found))
    return all(each in present for each in expected.items())


def keys_in(found: Any) -> list[str]:
    """The catalogue keys of all Texts in it, outermost first."""
    return [value for name, value in values_in(found) if name == "key"]


@contextmanager
def raises_code(*codes: str, match: str | None = None, **expected: Any) -> Iterator[pytest.ExceptionInfo[RoostError]]:
    """Like ``pytest.raises``, for a RoostError with one of ``codes`` and the parameters ``expected``."""
    with pytest.raises(RoostError, match=match) as caught:
        yield caught
    assert caught.value.code in codes
    assert contains(caught.value, **expected), list(values_in(caught.value))

"""What a test expects of an error: its code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from webapp.errors import RoostError


@contextmanager
def raises_code(*codes: str, match: str | None = None) -> Iterator[pytest.ExceptionInfo[RoostError]]:
    """Like ``pytest.raises``, for a RoostError with one of ``codes``."""
    with pytest.raises(RoostError, match=match) as caught:
        yield caught
    assert caught.value.code in codes

from __future__ import annotations

import pytest

from webapp.backends.native import library


@pytest.fixture(autouse=True, scope="session")
def built_library() -> None:
    """Built once; skips if there is no compiler."""
    try:
        library.load()
    except library.NativeUnavailable as exc:
        pytest.skip(f"native: {exc.reason}; {exc.way_out}")

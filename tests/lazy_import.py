"""Client libraries that few tests use: every worker collects every test, and importing them all would take seconds."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest


class Lazily:
    """The package ``name``, imported at its first use. Skips the test module if it is not installed."""

    def __init__(self, name: str) -> None:
        self._name = name
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install -e '.[dev]')", allow_module_level=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest looks for these in every object of a module
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)

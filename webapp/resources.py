"""Paths of Roost's own files (next to ``webapp`` in a checkout, inside it in an installed wheel) and of the cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
STARTER_MODEL = "roost-starter-v7.safetensors"


def resource_dir(name: str) -> Path:
    """The folder ``templates``, ``static`` or ``models`` that came with this Roost."""
    installed = _PACKAGE / "_bundled" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def cache_dir() -> Path:
    """The user's folder for what Roost can make again; it may not exist yet."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "roost"

"""Where Roost's own files are: beside ``webapp`` in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
STARTER_MODEL = "roost-starter-v7.safetensors"


def resource_dir(name: str) -> Path:
    """The folder ``templates``, ``static`` or ``models`` that came with this Roost."""
    installed = _PACKAGE / "_bundled" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name

"""The native engine's library on this machine: its path, what it supports, building it; and its packed files."""

from __future__ import annotations

import shlex

from msgspec import Struct

from webapp.backends import packed_file
from webapp.backends.native import building, library
from webapp.engine.backend import Availability
from webapp.errors import BackendUnavailable


class Kernels(Struct, frozen=True):
    """``path`` is "" if there is no library; ``isa``: its instruction set here; ``compiler``: the command for a build.
    Each may be ""."""

    availability: Availability
    path: str
    isa: str
    compiler: str


def kernels() -> Kernels:
    """Loads the library into this process."""
    path, isa, found = building.find_library(), "", library.availability()
    if path is not None:
        try:
            isa = library.choose_isa()
        except building.NativeUnavailable as exc:
            found = Availability(False, exc.reason, exc.way_out)
    return Kernels(found, str(path or ""), isa, compiler())


def compiler() -> str:
    return shlex.join(building.find_compiler() or ())


def build() -> None:
    """Also after an earlier failure of the compiler. Raises BackendUnavailable."""
    try:
        building.build()
    except building.NativeUnavailable as exc:
        raise BackendUnavailable(backend="native", reason=exc.reason, way_out=exc.way_out) from exc


def packed_files() -> dict[str, str]:
    """Their number, size in bytes and folder; {} if there are none."""
    found = packed_file.all_files()
    total = sum(each.size_bytes for each in found)
    return {"count": str(len(found)), "bytes": f"{total:,}", "folder": str(packed_file.folder())} if found else {}


def clear_packed_files() -> int:
    """Deletes them; returns the number of bytes. A running model is not affected."""
    return packed_file.clear()

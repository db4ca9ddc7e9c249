"""Names that a person or a browser gave a file, made safe for every system."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from webapp.errors import FileMissing, FileNameUnusable, LibraryError
from webapp.manager.library import MODEL_ENDINGS

LONGEST_BYTES = 200  # most file systems take 255; room for " (2)" and ".part"
FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"|?*\u200b-\u200f\u2028-\u202e\u2066-\u2069]')
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def safe_name(name: str, endings: tuple[str, ...] = MODEL_ENDINGS) -> str:
    """The last part of ``name``, without what some system does not allow in a file name.

    FileNameUnusable when nothing is left, or it does not end as one of ``endings``.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    clean = FORBIDDEN.sub("_", last.encode("utf-8", "replace").decode()).strip(" .")
    clean = f"_{clean}" if RESERVED.fullmatch(clean) else clean
    ending = next((ending for ending in endings if clean.lower().endswith(ending)), "")
    stem = clean[: len(clean) - len(ending)].rstrip(" .")
    if not ending or not stem.strip("_"):
        raise FileNameUnusable(name=name[:LONGEST_BYTES], endings=" ".join(endings))
    return _shortened(stem, LONGEST_BYTES - len(ending)) + clean[len(clean) - len(ending) :]


def _shortened(stem: str, limit_bytes: int) -> str:
    return stem.encode()[:limit_bytes].decode("utf-8", "ignore").rstrip(" .")


def whole_path(given: str) -> Path:
    """A path as a person types or pastes it, quotes and ``~`` allowed; LibraryError unless it begins at the root, for
    nobody in a browser knows the folder Roost was started in."""
    try:
        path = Path(given.strip().strip("\"'")).expanduser()
    except RuntimeError as exc:  # ~ of nobody
        raise FileMissing(path=given) from exc
    if not path.is_absolute():
        raise LibraryError(name=given, reason="its whole path is needed, from the root of the disk")
    return path

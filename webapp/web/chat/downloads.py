"""The name a download is saved under."""

from __future__ import annotations

from urllib.parse import quote


def file_name_options(name: str) -> dict[str, str]:
    """Headers are Latin-1: another script goes into ``filename*`` (RFC 6266), an ASCII stand-in into ``filename``."""
    if name.isascii():
        return {"filename": name}
    plain = name.encode("ascii", "ignore").decode().lstrip(" .-")
    return {"filename": plain if "." in plain else f"chat.{plain}", "filename*": f"UTF-8''{quote(name, safe='')}"}

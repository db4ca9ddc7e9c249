"""The date and time of this machine's clock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from webapp.errors import Phrase

MAX_NAME_CHARS = 60
PARAMETERS = {
    "type": "object",
    "properties": {"timezone": {"type": "string", "description": "IANA name such as Europe/Paris; default: local"}},
}


def current_time(arguments: Mapping[str, Any]) -> dict[str, Any]:
    name = str(arguments.get("timezone") or "")
    now = datetime.now(_zone(name)) if name else datetime.now().astimezone()
    return {
        "date": now.strftime("%Y-%m-%d"),
        "time": now.strftime("%H:%M:%S"),
        "weekday": now.strftime("%A"),
        "utc_offset": now.strftime("%z"),
    }


def _zone(name: str) -> ZoneInfo:
    """As it is written, else whatever its capitals."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        wanted = name.strip().casefold()
    found = next((zone for zone in available_timezones() if zone.casefold() == wanted), None)
    if found is None:
        shown = repr(name[:MAX_NAME_CHARS])
        raise ValueError(Phrase("there is no time zone {name}; use a name such as Europe/Paris", name=shown))
    return ZoneInfo(found)

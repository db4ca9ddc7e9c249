"""Roost's built-in tools, and two that are too small for a module: the time, and a random number."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from webapp.i18n import Text
from webapp.tools.builtin import attachment_search, calculator
from webapp.tools.builtin.attachment_search import Texts
from webapp.tools.definition import Approval, Behaviour, ToolDefinition

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

MAX_NAME_CHARS = 60
TIME_PARAMETERS = {
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
    """Finds a time zone by its exact name, otherwise ignoring case."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones  # not needed at start

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        wanted = name.strip().casefold()
    found = next((zone for zone in available_timezones() if zone.casefold() == wanted), None)
    if found is None:
        shown = repr(name[:MAX_NAME_CHARS])
        raise ValueError(Text("reason.tools.unknown_time_zone", name=shown))
    return ZoneInfo(found)


MOST = 10**12
RANDOM_PARAMETERS = {
    "type": "object",
    "properties": {
        "minimum": {"type": "integer", "minimum": -MOST, "maximum": MOST},
        "maximum": {"type": "integer", "minimum": -MOST, "maximum": MOST},
    },
    "required": ["minimum", "maximum"],
}


def random_number(arguments: Mapping[str, Any]) -> dict[str, Any]:
    least, most = int(arguments["minimum"]), int(arguments["maximum"])
    if least > most:
        raise ValueError(Text("reason.tools.minimum_above_maximum"))
    return {"number": least + secrets.randbelow(most - least + 1)}


BuiltinFunction = Callable[[Mapping[str, Any], Texts | None], object]
"""Takes the arguments and, for a tool that uses the chat, its attachments; returns a JSON value. Raises ValueError with
a sentence for the model."""


class Builtin(Struct, frozen=True):
    definition: ToolDefinition
    run: BuiltinFunction


def _builtin(name: str, description: str, parameters: Mapping[str, Any], run: BuiltinFunction) -> Builtin:
    definition = ToolDefinition(name, description, parameters, Behaviour.BUILTIN, builtin=name, approval=Approval.NEVER)
    return Builtin(definition, run)


def _plain(run: Callable[[Mapping[str, Any]], object]) -> BuiltinFunction:
    """Wraps a tool that does not use the chat."""
    return lambda arguments, texts: run(arguments)


BUILTINS = {
    row.definition.name: row
    for row in (
        _builtin("calculate", "Work out an arithmetic expression", calculator.PARAMETERS, _plain(calculator.calculate)),
        _builtin("current_time", "Date and time now, in a time zone", TIME_PARAMETERS, _plain(current_time)),
        _builtin(
            "convert_units",
            "Convert a quantity to another unit",
            calculator.UNIT_PARAMETERS,
            _plain(calculator.convert),
        ),
        _builtin("random_number", "Draw a random whole number", RANDOM_PARAMETERS, _plain(random_number)),
        _builtin(
            attachment_search.NAME,
            "Find passages in the files attached to this chat",
            attachment_search.PARAMETERS,
            attachment_search.search_attachments,
        ),
    )
}
"""By name. None of them accesses anything outside this process."""

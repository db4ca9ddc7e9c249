"""One text frame of a page's socket, read with care: what comes in is whatever a client chose to send.

    fields = parse_frame(ws.receive())
    text = fields.text("message", at_most=100_000)

Everything malformed is a :class:`~webapp.errors.BadFrame`; the socket's loop answers it with a toast and goes on.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from webapp.errors import BadFrame, TooLarge

MAX_FRAME_BYTES = 1 << 20
MAX_DEPTH = 16


class FrameFields:
    """The fields of one frame. htmx sends a form's values as text, so numbers and flags are read from text too."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def text(self, name: str, at_most: int, default: str | None = None) -> str:
        """A string of at most ``at_most`` characters; half a surrogate pair in it becomes U+FFFD."""
        value = self._value(name, default)
        if not isinstance(value, str):
            _refuse(f"{name} must be text")
        if len(value) > at_most:
            _refuse(f"{name} has {len(value)} characters, the limit is {at_most}")
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self._value(name, default)
        if value not in allowed:
            _refuse(f"{name} must be one of {', '.join(allowed)}")
        return str(value)

    def number(self, name: str, at_least: float, at_most: float, default: float | None = None) -> float:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            _refuse(f"{name} must be a number")
        try:
            return self._in_range(name, float(value), at_least, at_most)
        except (ValueError, OverflowError):
            _refuse(f"{name} must be a number")

    def flag(self, name: str) -> bool:
        """A checkbox: absent, false, "", "false", "off" and "0" are False."""
        value = self.values.get(name, False)
        if isinstance(value, str):
            return value.lower() not in ("", "false", "off", "0")
        return bool(value)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name, default)
        if value is None:
            _refuse(f"{name} is missing")
        return value

    @staticmethod
    def _in_range(name: str, value: float, at_least: float, at_most: float) -> float:
        if not math.isfinite(value) or not at_least <= value <= at_most:
            _refuse(f"{name} must be from {at_least} to {at_most}")
        return value


def parse_frame(data: str | bytes | bytearray | None, limit_bytes: int = MAX_FRAME_BYTES) -> FrameFields:
    """The JSON object in ``data``; ``TooLarge`` or ``BadFrame`` otherwise."""
    text = _as_text(data, limit_bytes)
    try:
        values = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        _refuse("it is nested too deeply")
    except ValueError as exc:
        raise BadFrame(reason="it is not valid JSON") from exc
    if not isinstance(values, dict):
        _refuse("it is not an object")
    _check_depth(values)
    return FrameFields(values)


def _as_text(data: str | bytes | bytearray | None, limit_bytes: int) -> str:
    if data is None:
        _refuse("it is not valid JSON")
    if len(data) > limit_bytes:
        raise TooLarge(found=len(data), limit=limit_bytes)
    if isinstance(data, str):
        return data
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise BadFrame(reason="it is not valid UTF-8") from exc


def _check_depth(values: Any) -> None:
    level = [values]
    for _ in range(MAX_DEPTH):
        inner = [list(item.values()) if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, (dict, list))]
        if not level:
            return
    _refuse("it is nested too deeply")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse(reason: str) -> NoReturn:
    raise BadFrame(reason=reason)

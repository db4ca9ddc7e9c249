"""What a built-in tool may know of the chat it is called in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class NamedText:
    name: str
    text: str


@dataclass(frozen=True)
class BuiltinContext:
    """``texts`` fetches the chat's attachments, in the order they came; asked only by a tool that reads them."""

    texts: Callable[[], Sequence[NamedText]]

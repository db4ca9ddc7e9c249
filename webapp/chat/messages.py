"""A conversation as data: what the pages, the APIs and the database all mean by a message and by a chat's title."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Role(str, Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ThinkMode(str, Enum):
    """How an RWKV-7 G1 model is asked to think before it answers."""

    NONE = "none"
    FAST = "fast"
    THINK = "think"
    THINK_A_BIT = "think_a_bit"
    THINK_A_LOT = "think_a_lot"


@dataclass(frozen=True)
class ToolCall:
    """A call the model asked for. ``arguments`` is JSON text, as OpenAI has it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Message:
    """One message. ``reasoning`` is what stood between <think> and </think>, kept apart from ``content``.

    ``token_ids`` are the sampled tokens of an assistant message exactly as the model made them (thinking included):
    encoding the text again may split it otherwise, and a stored state would not fit.
    """

    role: Role
    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    token_ids: tuple[int, ...] = ()
    think_mode: ThinkMode = ThinkMode.NONE
    metadata: dict[str, Any] = field(default_factory=dict)


TITLE_CHARS = 40


def title_of(text: str) -> str:
    """The beginning of ``text`` on one line, about :data:`TITLE_CHARS` characters, cut between words.

    A CJK character counts double, as it shows, and may be cut after. "" for text without anything to show.
    """
    line = " ".join(text.split())
    end = _end_of_room(line)
    if end == len(line):
        return line
    if not _is_wide(line[end]) and not line[end].isspace() and not _is_wide(line[end - 1]):
        space = line.rfind(" ", end // 2, end)
        end = space if space > 0 else end
    return line[:end].rstrip(" ,.;:!?，。；：！？、-") + "…"


def _end_of_room(line: str) -> int:
    room = TITLE_CHARS
    for index, char in enumerate(line):
        room -= 2 if _is_wide(char) else 1
        if room < 0:
            return index
    return len(line)


def _is_wide(char: str) -> bool:
    return "\u2e80" <= char <= "\uffef" or char >= "\U0001f000"

"""A title for a chat from its first message."""

from __future__ import annotations

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

"""A conversation as data: the messages, attached text files and titles that pages, APIs and database share, and the
events of an answer while it is generated.

In a prompt, the question comes first and the files below it: a recurrent model that knows what to look for remembers
more of the following text (BlinkDL's own advice is to write "for the document below", not "above"). Each file is in a
fence with more backticks than any of its lines, without blank lines and with ``\\n`` as its only line end, so that its
content cannot end the fence or look like the blank line and role that begin a turn.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace


class Role(str, Enum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ThinkMode(str, Enum):
    """How an RWKV-7 G1 model should think before it answers."""

    NONE = "none"
    FAST = "fast"
    THINK = "think"
    THINK_A_BIT = "think_a_bit"
    THINK_A_LOT = "think_a_lot"


class ToolCall(Struct, frozen=True):
    """A call that the model requested. ``arguments`` is JSON text, as in OpenAI's API."""

    id: str
    name: str
    arguments: str


class Message(Struct, frozen=True):
    """``reasoning`` is the text between <think> and </think>, stored separately from ``content``.

    ``token_ids`` are the sampled tokens of an assistant message, including the thinking. Encoding the text again may
    give other tokens, which would not match a stored state.
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


MAX_REPEATS = 2
"""Consecutive rounds whose calls and results all repeat those of the round before."""


def call_key(call: ToolCall) -> tuple[str, str]:
    """Equal for calls of one tool with the same arguments, however they are written."""
    try:
        return call.name, json.dumps(json.loads(call.arguments), sort_keys=True)
    except (ValueError, RecursionError):
        return call.name, call.arguments


def repeats_noted(messages: Sequence[Message], note: str, has_form: bool = False) -> tuple[tuple[Message, ...], bool]:
    """For a conversation that a program sends whole: inserts ``note`` before each result of a call that repeats call
    and result of the previous round. Returns the messages, and True if this went on for :data:`MAX_REPEATS` rounds:
    then the model is in a loop, and only an answer without calls ends it. ``has_form``: the answer must follow a
    schema. A small model may then call with ever new arguments, so :data:`MAX_REPEATS` + 1 rounds without a new result
    also count as a loop."""
    noted, before, rounds, idle = list(messages), dict[tuple[str, str], str](), 0, 0
    for index, message in enumerate(messages):
        if message.role in (Role.USER, Role.ASSISTANT) and not message.tool_calls:
            before, rounds, idle = {}, 0, 0
        if not message.tool_calls:
            continue
        results = {}
        for place in range(index + 1, len(messages)):
            if messages[place].role is not Role.TOOL:
                break
            results[messages[place].tool_call_id] = place
        results_now, repeated = {}, 0
        for call in message.tool_calls:
            if call.id in results:
                key, place = call_key(call), results[call.id]
                results_now[key] = messages[place].content
                if before.get(key) == results_now[key]:
                    noted[place] = replace(messages[place], content=f"{note}\n{results_now[key]}")
                    repeated += 1
        idle = idle + 1 if results_now and set(results_now.values()) <= set(before.values()) else 0
        before, rounds = results_now, rounds + 1 if repeated == len(message.tool_calls) else 0
    return tuple(noted), rounds >= MAX_REPEATS or (has_form and idle > MAX_REPEATS)


TITLE_CHARS = 40


def title_of(text: str) -> str:
    """The beginning of ``text`` on one line, about :data:`TITLE_CHARS` characters, cut between words.

    A CJK character counts as two, by its width; the title may be cut after it. "" for text without visible characters.
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


ATTACHMENTS = "attachments"
"""Key in a message's metadata."""
SEARCH_TOOL = "search_attachments"
NAME_CHARS = 120
TICKS = re.compile("`{3,}")
UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")
"""Unicode categories of invisible characters."""


class ReadMode(str, Enum):
    """Whether the model reads a file's whole text with the message, or searches it for passages."""

    WHOLE = "whole"
    SEARCH = "search"


class AttachedFile(Struct, frozen=True):
    """An attached file in a message's metadata. ``tokens`` is None if they could not be counted."""

    id: str
    name: str
    mode: ReadMode
    size_bytes: int
    tokens: int | None = None


def attached_files(message: Message) -> tuple[AttachedFile, ...]:
    rows: Iterable[Mapping[str, object]] = message.metadata.get(ATTACHMENTS, ())
    return tuple(_from_dict(row) for row in rows)


def attached_metadata(files: Sequence[AttachedFile]) -> dict[str, object]:
    """For a message's metadata; empty without files."""
    return {ATTACHMENTS: [{**asdict(file), "mode": file.mode.value} for file in files]} if files else {}


def with_files(text: str, files: Sequence[AttachedFile], texts: Mapping[str, str]) -> str:
    """The message's text with the files below it; ``texts`` by id. A file without stored text is skipped."""
    known = [file for file in files if file.id in texts or file.mode is ReadMode.SEARCH]
    parts = [fenced(file.name, texts[file.id]) if file.mode is ReadMode.WHOLE else _named(file) for file in known]
    return "\n".join([text.rstrip(), *parts]) if parts else text


def fenced(name: str, text: str) -> str:
    """A file as in a prompt."""
    lines = "\n".join(line.rstrip() for line in text.splitlines() if _is_visible(line))
    ticks = fence(lines)
    return f"File: {name}\n{ticks}\n{lines}\n{ticks}"


def fence(text: str) -> str:
    """More backticks than any run in the text, at least three."""
    return "`" * max(3, 1 + max((len(run) for run in TICKS.findall(text)), default=0))


def display_name(name: str) -> str:
    """The last part of a path as one short line of visible characters; "file" if nothing is left."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    seen = "".join(character for character in last if unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp"))
    clean = " ".join(seen.replace("`", "'").split())
    return _shortened(clean) if clean.strip(".") else "file"


def _from_dict(row: Mapping[str, object]) -> AttachedFile:
    tokens = row.get("tokens")
    return AttachedFile(
        id=str(row["id"]),
        name=str(row["name"]),
        mode=ReadMode(row["mode"]),
        size_bytes=int(str(row.get("size_bytes", 0))),
        tokens=tokens if isinstance(tokens, int) else None,
    )


def _named(file: AttachedFile) -> str:
    return f"File: {file.name} (not shown; use {SEARCH_TOOL} to find passages of it)"


def _is_visible(line: str) -> bool:
    """False for a line that looks blank, even if it has characters."""
    return any(unicodedata.category(character) not in UNSEEN for character in line)


def _shortened(name: str) -> str:
    """Keeps the ending, which shows the file's type."""
    if len(name) <= NAME_CHARS:
        return name
    stem, dot, ending = name.rpartition(".")
    if not dot or len(ending) > 12:
        return name[:NAME_CHARS]
    return f"{stem[: NAME_CHARS - len(ending) - 2]}….{ending}"


BESIDE = "beside"
"""Key in an answer's metadata."""
VARIANTS = ("preset", "model", "state")


class Variant(Struct, frozen=True):
    """What differs from the chat for this answer. ``kind``: "" for nothing, or one of :data:`VARIANTS`. ``value``: a
    preset id, model name or state file ("" for none). ``label``: the name to show."""

    kind: str = ""
    value: str = ""
    label: str = ""


class Beside(Struct, frozen=True):
    """One of several answers to a question, side by side, all with the same ``group``. ``place`` counts from 0;
    a given seed is changed for each place."""

    group: str
    place: int
    variant: Variant = Variant()

    @classmethod
    def of(cls, message: Message) -> Beside | None:
        found = message.metadata.get(BESIDE)
        return None if found is None else cls(found["group"], found["place"], Variant(**found["variant"]))


class Waiting(Struct, frozen=True):
    """There is no new text yet. ``phase``: "loading" (``done`` of ``total`` bytes), "queued" (``done`` requests are
    ahead), "reading" (``done`` of ``total`` prompt tokens), "calling" (the held-back text may be a call) or "silent"
    (the engine has not sent a message for ``done`` seconds, also in the middle of an answer; 0 when it sends again)."""

    phase: str
    done: int = 0
    total: int = 0


class ReasoningDelta(Struct, frozen=True):
    """More of the model's thinking; comes before the content."""

    text: str


class AnswerToken(Struct, frozen=True):
    """A token of the content. ``logprobs`` are ``TokenLogprob``: the token itself, then the best alternatives.
    ``offset``: position of its text in the text that the model wrote. ``cut``: number of bytes at its start and its end
    that are not part of the content (the space before an answer, a stop)."""

    token_id: int
    logprobs: tuple[Any, ...]
    offset: int
    cut: tuple[int, int] = (0, 0)


class ContentDelta(Struct, frozen=True):
    """More of the answer. ``tokens``, only if logprobs were requested: the tokens that are complete with this delta;
    then its text may be empty. All texts join to the content."""

    text: str
    tokens: tuple[AnswerToken, ...] = ()


class CallDelta(Struct, frozen=True):
    """More of a call: the first delta has the name, and the ``arguments`` of all deltas join to JSON text."""

    call_id: str
    name: str = ""
    arguments: str = ""


class Usage(Struct, frozen=True):
    """Tokens of one answer. ``completion`` includes the tokens of a stop; ``reasoning`` counts those of the
    thinking."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    reasoning: int = 0


class Finished(Struct, frozen=True):
    """The answer is complete. ``finish_reason``: stop, length, tool_calls or abort. ``stop`` is the request's stop
    string that ended it, if any. ``stats`` is ``SequenceStats`` as a dict with ``tokens_per_s``; {} if the engine sent
    none."""

    finish_reason: str
    usage: Usage = Usage()
    stop: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict)


class Failed(Struct, frozen=True):
    """The answer failed; its text so far remains. ``error`` is ``RoostError.to_dict()``."""

    error: dict[str, Any]
    stats: Mapping[str, Any] = field(default_factory=dict)


TextEvent = ReasoningDelta | ContentDelta | CallDelta
AnswerEvent = Waiting | ReasoningDelta | ContentDelta | CallDelta | Finished | Failed

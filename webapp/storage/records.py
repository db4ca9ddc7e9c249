"""What the database gives out: frozen records, and how their columns are written."""

from __future__ import annotations

import json
import sqlite3
import sys
from array import array
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from webapp.chat.messages import Message, Role, ThinkMode, ToolCall
from webapp.storage.rows import storable, to_json


@dataclass(frozen=True)
class ChatSummary:
    """A line of the chat list. ``snippet`` is the beginning of the last shown message. Times are Unix seconds."""

    id: str
    title: str
    created_at: float
    updated_at: float
    snippet: str = ""


@dataclass(frozen=True)
class ChatTools:
    """``is_own`` False: nobody chose in this chat, it follows its preset. ``tool_ids`` keep their choice while
    ``is_on`` is False. ``dialect`` "" is the preset's, or what fits the model. ``is_free``: the answer is not held to
    the grammar of calls. ``approved`` are tools the person let run in this chat for good."""

    is_own: bool = False
    is_on: bool = False
    tool_ids: tuple[str, ...] = ()
    dialect: str = ""
    is_free: bool = False
    approved: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chat:
    """One conversation without its messages.

    ``preset_id`` "" follows the active preset. What a chat does not set itself comes from its preset: ``system_prompt``
    and ``template`` "", ``think_mode`` and ``state`` None. ``sampling`` holds overrides by the names of
    ``SamplingParams``. ``head_id`` is the last message of the branch that is shown; None while there is none.
    """

    id: str
    title: str = ""
    system_prompt: str = ""
    template: str = ""
    think_mode: ThinkMode | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    created_at: float = 0.0
    updated_at: float = 0.0
    head_id: str | None = None
    preset_id: str = ""
    state: str | None = None
    tools: ChatTools = field(default_factory=ChatTools)


@dataclass(frozen=True)
class StoredMessage:
    """A message with its place in the tree.

    ``status``: "complete", "streaming" (being written now), "stopped" (by a person), "failed" (``error`` says why) or
    "interrupted" (the server ended meanwhile). Versions are siblings of one role; ``version`` counts from 1.
    """

    id: str
    chat_id: str
    parent_id: str | None
    message: Message
    status: str = "complete"
    finish_reason: str = ""
    stats: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    model: str = ""
    created_at: float = 0.0
    version: int = 1
    version_count: int = 1
    previous_version_id: str | None = None
    next_version_id: str | None = None


@dataclass(frozen=True)
class SearchHit:
    """Where a search found something. ``message_id`` is "" for a hit in the title.

    ``excerpt`` is plain text around the first match; ``positions`` are (start, end) of the matches inside it.
    """

    chat_id: str
    title: str
    message_id: str
    excerpt: str
    positions: tuple[tuple[int, int], ...] = ()
    role: str = ""
    created_at: float = 0.0


def pack_token_ids(token_ids: Iterable[int]) -> bytes:
    """Four bytes each, little endian."""
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_token_ids(data: bytes) -> tuple[int, ...]:
    packed = array("I")
    packed.frombytes(data)
    if sys.byteorder == "big":
        packed.byteswap()
    return tuple(packed)


def message_columns(message: Message) -> dict[str, Any]:
    """The columns of the messages table that hold the message itself."""
    return {
        "role": message.role.value,
        "content": storable(message.content),
        "reasoning": storable(message.reasoning),
        "tool_calls": to_json([asdict(call) for call in message.tool_calls]),
        "tool_call_id": message.tool_call_id,
        "name": storable(message.name),
        "token_ids": pack_token_ids(message.token_ids),
        "think_mode": message.think_mode.value,
        "metadata": to_json(message.metadata),
    }


def message_from_row(row: sqlite3.Row) -> Message:
    return Message(
        role=Role(row["role"]),
        content=row["content"],
        reasoning=row["reasoning"],
        tool_calls=tuple(ToolCall(**call) for call in json.loads(row["tool_calls"])),
        tool_call_id=row["tool_call_id"],
        name=row["name"],
        token_ids=unpack_token_ids(row["token_ids"]),
        think_mode=ThinkMode(row["think_mode"]),
        metadata=json.loads(row["metadata"]),
    )


def stored_message_from_row(row: sqlite3.Row) -> StoredMessage:
    """Without its versions: :mod:`webapp.storage.message_tree` adds them."""
    same = ("id", "chat_id", "parent_id", "status", "finish_reason", "model", "created_at")
    return StoredMessage(
        message=message_from_row(row),
        stats=json.loads(row["stats"]),
        error=json.loads(row["error"]) if row["error"] else None,
        **{name: row[name] for name in same},
    )


CHAT_COLUMNS = ("id", "title", "system_prompt", "template", "created_at", "updated_at", "preset_id", "state")
"""Those that hold a field of :class:`Chat` as it is."""


def chat_from_row(row: sqlite3.Row) -> Chat:
    return Chat(
        think_mode=ThinkMode(row["think_mode"]) if row["think_mode"] else None,
        sampling=json.loads(row["sampling"]),
        head_id=row["head_id"],
        tools=chat_tools_from_json(row["tools"]),
        **{name: row[name] for name in CHAT_COLUMNS},
    )


def chat_columns(chat: Chat) -> dict[str, Any]:
    """The columns of the chats table that a new chat fills; the others have defaults."""
    return {name: getattr(chat, name) for name in CHAT_COLUMNS} | {
        "think_mode": chat.think_mode.value if chat.think_mode is not None else "",
        "sampling": to_json(chat.sampling),
        "tools": chat_tools_to_json(chat.tools),
    }


def chat_tools_from_json(text: str) -> ChatTools:
    found = json.loads(text)
    return ChatTools(
        is_own=bool(found.get("is_own", found.get("is_on") or found.get("tool_ids"))),  # "is_own" came later
        is_on=bool(found.get("is_on")),
        tool_ids=tuple(found.get("tool_ids", ())),
        dialect=str(found.get("dialect", "")),
        is_free=bool(found.get("is_free")),
        approved=tuple(found.get("approved", ())),
    )


def chat_tools_to_json(tools: ChatTools) -> str:
    return json.dumps(asdict(tools), separators=(",", ":"))

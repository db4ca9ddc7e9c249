"""A chat as a document to keep: Markdown of the shown branch, JSON of everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from webapp.chat.messages import AttachedFile, Role, attached_files, fence
from webapp.storage.records import Chat, StoredMessage

FORMAT = "roost-chat"
FORMAT_VERSION = 1


def markdown(chat: Chat, branch: list[StoredMessage], texts: Mapping[str, str] | None = None) -> str:
    """The shown branch. Thinking goes into a quotation above its answer; files below their message, by ``texts``; calls
    and their results as they were written."""
    parts = [f"# {_one_line(chat.title) or 'Chat'}"]
    if chat.system_prompt:
        parts += ["## System", chat.system_prompt.strip()]
    for stored in branch:
        is_result = stored.message.role is Role.TOOL
        name = f": {_one_line(stored.message.name)}" if is_result and stored.message.name else ""
        parts.append(f"## {stored.message.role.value.capitalize()}{name}")
        if stored.message.reasoning:
            parts.append(_quoted(stored.message.reasoning))
        content = stored.message.content.strip()
        parts.append(_fenced(content) if is_result else content)
        parts += [f"### {call.name}\n\n{_fenced(call.arguments, 'json')}" for call in stored.message.tool_calls]
        parts += [_file(file, (texts or {}).get(file.id, "")) for file in attached_files(stored.message)]
    return "\n\n".join(part for part in parts if part) + "\n"


def document(chat: Chat, messages: list[StoredMessage], files: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Every branch and version, JSON-able: parents before children, so that an import can go through once. Messages
    name their files by id in their metadata."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "chat": {**asdict(chat), "think_mode": chat.think_mode.value if chat.think_mode else ""},
        "messages": [_message_document(stored) for stored in messages],
        "attachments": [dict(file) for file in files],
    }


def _message_document(stored: StoredMessage) -> dict[str, Any]:
    message = asdict(stored.message)
    message["role"] = stored.message.role.value
    message["think_mode"] = stored.message.think_mode.value
    message["tool_calls"] = list(message["tool_calls"])
    message["token_ids"] = list(message["token_ids"])
    when = datetime.fromtimestamp(stored.created_at, timezone.utc).isoformat(timespec="seconds")
    return {
        "id": stored.id,
        "parent_id": stored.parent_id,
        "created_at": stored.created_at,
        "created": when,
        "status": stored.status,
        "finish_reason": stored.finish_reason,
        "model": stored.model,
        "stats": stored.stats,
        "error": stored.error,
        **message,
    }


def _file(file: AttachedFile, text: str) -> str:
    return f"### {file.name}\n\n{_fenced(text)}"


def _fenced(text: str, language: str = "") -> str:
    ticks = fence(text)
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip().split("\n"))

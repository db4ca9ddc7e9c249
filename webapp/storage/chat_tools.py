"""Which tools a chat offers its model, and how."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


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

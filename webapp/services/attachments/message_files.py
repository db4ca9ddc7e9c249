"""The files of a chat's messages with their texts: for the prompt, and for a search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from webapp.chat.attached_files import ReadMode, attached_files, with_files
from webapp.chat.messages import Message, Role
from webapp.storage.attachments import AttachmentStore
from webapp.storage.records import StoredMessage
from webapp.storage.tools import StoredTool, ToolStore
from webapp.tools.builtin import BUILTINS
from webapp.tools.builtin.attachment_search import NAME, NamedText
from webapp.tools.definition import Behaviour


def with_texts(messages: Sequence[Message], chat_id: str, store: AttachmentStore) -> list[Message]:
    """As a prompt has them: each person's message with its files below its words."""
    files = [file for message in messages for file in attached_files(message) if file.mode is ReadMode.WHOLE]
    texts = store.texts(chat_id, [file.id for file in files]) if files else {}
    return [
        replace(message, content=with_files(message.content, attached_files(message), texts))
        if message.role is Role.USER
        else message
        for message in messages
    ]


def is_searchable(message: Message) -> bool:
    return any(file.mode is ReadMode.SEARCH for file in attached_files(message))


def texts_before(path: Iterable[StoredMessage], store: AttachmentStore) -> list[NamedText]:
    """Of all files on a branch, those read whole too, each once, in the order they came."""
    rows = list(path)
    names = {file.id: file.name for stored in rows for file in attached_files(stored.message)}
    texts = store.texts(rows[0].chat_id, list(names)) if names else {}
    return [NamedText(name, texts[file_id]) for file_id, name in names.items() if file_id in texts]


AUTOMATIC_ID = "builtin.search_attachments"


def with_search(tools: Sequence[StoredTool], store: ToolStore) -> list[StoredTool]:
    """With the search among them: a person's own copy of it, whose words and approval they chose, else the built-in.
    A tool of theirs that has its name for something else stands in its place."""
    if any(_searches(tool) or tool.definition.name == NAME for tool in tools):
        return list(tools)
    names = {tool.definition.name for tool in tools}
    own = [tool for tool in store.list() if _searches(tool) and tool.definition.name not in names]
    return [*tools, own[0] if own else StoredTool(AUTOMATIC_ID, BUILTINS[NAME].definition, 0.0)]


def _searches(tool: StoredTool) -> bool:
    return tool.definition.behaviour is Behaviour.BUILTIN and tool.definition.builtin == NAME

"""Files of messages, and those that wait for the next one, as their fragments show them."""

from __future__ import annotations

from collections.abc import Callable

from webapp.chat.attached_files import AttachedFile, ReadMode, attached_files
from webapp.services.attachments.attachments import WHOLE_TOKENS
from webapp.services.chat.tool_offer import is_known_to_call
from webapp.services.library.disk_space import size_text
from webapp.storage.attachments import Attachment
from webapp.storage.records import StoredMessage
from webapp.web.chat.contexts import Attached, FileChip
from webapp.web.chat.house import House

Words = Callable[..., str]


def attached_context(house: House, t: Words, chat_id: str) -> Attached:
    files = house.files.pending(chat_id)
    warning = _warning(house, t, files)
    chips = tuple(_chip(file.as_attached, file.chat_id, t, can_change=True) for file in files)
    return Attached(chips, warning or _note(files, t), bool(warning))


def message_files(stored: StoredMessage, t: Words) -> tuple[FileChip, ...]:
    return tuple(_chip(file, stored.chat_id, t) for file in attached_files(stored.message))


def reading_words(file: AttachedFile, t: Words) -> str:
    if file.mode is ReadMode.SEARCH:
        return t("chat.files.searched")
    return t("chat.files.whole_uncounted") if file.tokens is None else t("chat.files.whole", count=file.tokens)


def _chip(file: AttachedFile, chat_id: str, t: Words, can_change: bool = False) -> FileChip:
    is_whole = file.mode is ReadMode.WHOLE
    return FileChip(
        id=file.id,
        name=file.name,
        url=f"/chat/{chat_id}/files/{file.id}",
        size=size_text(file.size_bytes),
        reading=reading_words(file, t),
        is_whole=is_whole,
        help=_help(file, t) if can_change else "",
    )


def _help(file: AttachedFile, t: Words) -> str:
    if file.mode is ReadMode.WHOLE:
        return t("chat.files.whole_help")
    return (
        t("chat.files.searched_help_uncounted")
        if file.tokens is None
        else t("chat.files.searched_help", count=file.tokens)
    )


def _warning(house: House, t: Words, files: list[Attachment]) -> str:
    """A model that was never taught to call may not think of searching."""
    model = house.manager.status().model
    is_searched = any(file.mode is ReadMode.SEARCH for file in files)
    if is_searched and model and not is_known_to_call(model):
        return t("chat.files.may_not_search", model=model)
    return ""


def _note(files: list[Attachment], t: Words) -> str:
    tokens = sum(file.tokens or 0 for file in files if file.mode is ReadMode.WHOLE)
    if tokens > WHOLE_TOKENS:
        return t("chat.files.much", count=tokens)
    return t("chat.files.search_note") if any(file.mode is ReadMode.SEARCH for file in files) else ""

"""A stored message, and the answer being written to it, as the context of its fragment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2s
from typing import Any

from markupsafe import Markup

from webapp.chat.attached_files import AttachedFile, ReadMode, attached_files
from webapp.chat.events import Waiting
from webapp.chat.messages import Role
from webapp.errors import (
    CrashLoop,
    ModelDoesNotFit,
    ModelLoadFailed,
    ModelNotFound,
    NoModelLoaded,
    OutOfMemory,
    StrategyError,
    WeightsError,
    error_from_dict,
)
from webapp.i18n import phrase, translate_error
from webapp.services.attachments.attachments import WHOLE_TOKENS
from webapp.services.chat.tool_loop import CALLS, CallState, as_pretty_json, is_known_to_call
from webapp.services.chat.turn_writer import LiveTurn
from webapp.services.chat.turns import can_continue
from webapp.services.library.disk_space import size_text
from webapp.storage.attachments import Attachment
from webapp.storage.records import StoredMessage
from webapp.tools.definition import Approval
from webapp.web.chat.contexts import Attached, CallCard, Failure, FileChip, MessageView, Versions
from webapp.web.chat.house import House

Translator = Callable[..., str]
MODEL_CHOICES = (
    ModelNotFound,
    NoModelLoaded,
    ModelLoadFailed,
    CrashLoop,
    WeightsError,
    OutOfMemory,
    ModelDoesNotFit,
    StrategyError,
)


def message_view(stored: StoredMessage, house: House, t: Translator, locale: str, known_tokens: int = 0) -> MessageView:
    """``known_tokens``: how many of its prompt's tokens an earlier turn had been through already."""
    if stored.message.role is Role.USER:
        return _user_view(stored, t)
    if stored.message.role is Role.TOOL:  # shown with the call it answers
        return MessageView(stored.id, "chat/_tool_message.html", fingerprint(stored), "")
    turn = house.turns.live(stored.chat_id) if stored.status == "streaming" else None
    if turn is not None and turn.message_id == stored.id:
        return _live_view(stored, turn, house, t) if turn.failure is None else _unstored_view(stored, turn, t, locale)
    cards = call_cards(stored, house, t, locale)
    view = _answer_view(stored, t, locale, known_tokens)
    if not cards:
        return view
    is_last = house.store.get(stored.chat_id).head_id == stored.id
    seen = fingerprint(stored, house.turns.tools.running(stored.id), is_last)
    return replace(view, calls=cards, can_resume=is_left(stored, cards, house), fingerprint=seen)


def fingerprint(stored: StoredMessage, running: tuple[str, ...] = (), is_last: bool = False) -> str:
    """Of everything the fragment shows, but not of text that is still being written. ``running`` are its calls that are
    being run; ``is_last``: nothing follows it, so an answer with calls may offer to go on."""
    parts: list[Any] = [stored.id, stored.status, stored.finish_reason, stored.version, stored.version_count, running]
    parts += [stored.previous_version_id, stored.next_version_id]
    if stored.status != "streaming":
        parts += [stored.message.content, stored.message.reasoning, stored.stats]
        parts += [stored.message.tool_calls, stored.message.metadata.get(CALLS)]
    if stored.message.tool_calls:
        parts.append(is_last)
    return blake2s(repr(parts).encode("utf-8", "replace"), digest_size=6).hexdigest()


def waiting_text(waiting: Waiting | None, t: Translator) -> str:
    if waiting is None or (waiting.phase == "silent" and not waiting.done):
        return t("chat.waiting.starting")
    if waiting.phase == "loading":
        percent = int(100 * waiting.done / waiting.total) if waiting.total else 0
        return t("chat.waiting.loading", percent=percent)
    if waiting.phase == "queued":
        return t("chat.waiting.queued", count=waiting.done)
    if waiting.phase == "calling":
        return t("chat.waiting.calling")
    if waiting.phase == "silent":
        return t("chat.waiting.silent", count=waiting.done)
    return t("chat.waiting.reading", done=waiting.done, total=waiting.total)


def figures(stats: dict[str, Any], t: Translator, known_tokens: int = 0) -> tuple[str, ...]:
    """The grey line: tokens, tokens/s, seconds, how much of the chat had to be read again."""
    tokens = stats.get("decoded_tokens")
    if not tokens:
        return ()
    found = [t("chat.stats.tokens", count=tokens)]
    if stats.get("tokens_per_s"):
        found.append(t("chat.stats.speed", rate=_rounded(stats["tokens_per_s"])))
    if stats.get("total_s"):
        found.append(t("chat.stats.seconds", seconds=_rounded(stats["total_s"])))
    again = max(0, min(known_tokens, stats.get("prompt_tokens", 0)) - stats.get("cached_tokens", 0))
    found.append(t("chat.stats.read_again", count=again))
    return tuple(found)


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _versions(stored: StoredMessage) -> Versions | None:
    if stored.version_count < 2:
        return None
    ids = stored.previous_version_id or "", stored.next_version_id or ""
    return Versions(stored.version, stored.version_count, *ids)


def _user_view(stored: StoredMessage, t: Translator) -> MessageView:
    return MessageView(
        id=stored.id,
        template="chat/_user_message.html",
        fingerprint=fingerprint(stored),
        text=stored.message.content,
        versions=_versions(stored),
        files=message_files(stored, t),
    )


def _live_view(stored: StoredMessage, turn: LiveTurn, house: House, t: Translator) -> MessageView:
    rendering = house.renderings.of(turn)
    view = rendering.advance()
    content, reasoning = rendering.since("content", 0), rendering.since("reasoning", 0)
    is_waiting = not view.has_reasoning and not content.final and not content.tail
    return MessageView(
        id=stored.id,
        template="chat/_answer.html",
        fingerprint=fingerprint(stored),
        text="",
        html=Markup(content.final),
        tail=Markup(content.tail),
        reasoning_html=Markup(reasoning.final),
        reasoning_tail=Markup(reasoning.tail),
        has_reasoning=view.has_reasoning,
        is_thinking=view.is_thinking,
        is_streaming=True,
        waiting=waiting_text(view.waiting, t) if is_waiting or view.waiting else "",
    )


def _unstored_view(stored: StoredMessage, turn: LiveTurn, t: Translator, locale: str) -> MessageView:
    """The end could not be stored either (a full disk): without this the page would say nothing at all."""
    failed = replace(stored, status="failed", error=turn.failure)
    return replace(_answer_view(failed, t, locale, known_tokens=0), fingerprint=fingerprint(stored))


def _answer_view(stored: StoredMessage, t: Translator, locale: str, known_tokens: int) -> MessageView:
    message = stored.message
    was_cut = stored.finish_reason == "length"
    return MessageView(
        id=stored.id,
        template="chat/_answer.html",
        fingerprint=fingerprint(stored),
        text=message.content,
        html=_rendered(message.content),
        reasoning_html=_rendered(message.reasoning),
        has_reasoning=bool(message.reasoning.strip()),
        versions=_versions(stored),
        stats=figures(stored.stats, t, known_tokens),
        note=t("chat.message.was_cut") if was_cut else t("chat.message.stopped") if stored.status == "stopped" else "",
        failure=_failure(stored, t, locale),
        can_continue=can_continue(stored) and bool(message.content or message.reasoning),
    )


def _failure(stored: StoredMessage, t: Translator, locale: str) -> Failure | None:
    retry = f"regenerate:{stored.id}"
    if stored.status == "interrupted":
        return Failure(t("chat.message.interrupted"), t("chat.message.interrupted_hint"), retry, is_mild=True)
    if stored.status == "failed":
        error = error_from_dict(stored.error or {})
        message, hint = translate_error(error, locale)
        return Failure(message, f"{t('chat.message.safe')} {hint}", retry, needs_model=isinstance(error, MODEL_CHOICES))
    if stored.status == "complete" and not stored.message.content.strip() and not stored.message.tool_calls:
        return Failure(t("chat.message.empty"), t("chat.message.empty_hint"), retry, is_mild=True)
    return None


@lru_cache(maxsize=256)
def _rendered(text: str) -> Markup:
    from webapp.web.kit.markdown import render_markdown  # a tenth of a second that no start needs

    return Markup(render_markdown(text, copy_label="")) if text.strip() else Markup()


def call_cards(stored: StoredMessage, house: House, t: Callable[..., str], locale: str) -> tuple[CallCard, ...]:
    if not stored.message.tool_calls or stored.status == "streaming":
        return ()
    return tuple(_card(state, t, locale) for state in house.turns.tools.calls(stored))


def _card(state: CallState, t: Callable[..., str], locale: str) -> CallCard:
    said = state.by if state.status == "done" and not (state.is_error and state.by == "tool") else "failed"
    return CallCard(
        id=state.call.id,
        name=state.call.name,
        arguments=as_pretty_json(state.call.arguments),
        status=state.status,
        said=t(f"chat.call.{said if state.status == 'done' else state.status}"),
        result=as_pretty_json(state.result) if state.status == "done" else "",
        is_error=state.is_error,
        reason=str(phrase(state.reason, locale)) if state.by == "tool" else "",
        can_run=state.status == "waiting" and state.tool is not None,
        asks_once=state.tool is not None and state.tool.definition.approval is Approval.ONCE,
    )


def is_left(stored: StoredMessage, cards: tuple[CallCard, ...], house: House) -> bool:
    """True for the last message of a chat whose calls are all done, while nobody goes on from it."""
    if any(card.status != "done" for card in cards) or house.answering(stored.chat_id) is not None:
        return False
    return house.store.get(stored.chat_id).head_id == stored.id


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

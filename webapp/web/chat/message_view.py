"""A stored message, and the answer being written to it, as the context of its fragment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2s
from typing import Any

from markupsafe import Markup

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
from webapp.i18n import translate_error
from webapp.services.chat.live_turn import LiveTurn
from webapp.services.chat.tool_loop import CALLS
from webapp.services.chat.turns import can_continue
from webapp.storage.records import StoredMessage
from webapp.web.chat.attachment_view import message_files
from webapp.web.chat.call_view import call_cards, is_left
from webapp.web.chat.contexts import Failure, MessageView, Versions
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
    from webapp.web.markdown import render_markdown  # a tenth of a second that no start needs

    return Markup(render_markdown(text, copy_label="")) if text.strip() else Markup()

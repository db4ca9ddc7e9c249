"""A ModelStatus in the reader's words."""

from __future__ import annotations

from collections.abc import Callable

from webapp.manager.manager import ModelManager
from webapp.manager.status import ModelStatus
from webapp.web.status.contexts import Strip

LIGHTS = {
    "empty": "off",
    "loading": "waiting",
    "ready": "idle",
    "answering": "answering",
    "failed": "failed",
    "unloading": "waiting",
}


def strip_context(manager: ModelManager, t: Callable[..., str]) -> Strip:
    status = manager.status()
    percent = load_percent(status)
    return Strip(
        model=status.model or t("status.no_model"),
        strategy=status.strategy if status.model else "",
        state=status.state,
        light="waiting" if status.silent_s else LIGHTS.get(status.phase, "off"),
        word=phase_word(status, percent, t),
        percent=percent,
        seats=seats(status, t),
        silent_s=status.silent_s,
    )


def load_percent(status: ModelStatus) -> int | None:
    if status.phase != "loading":
        return None
    return int(100 * status.done_bytes / status.total_bytes) if status.total_bytes else 0


def phase_word(status: ModelStatus, percent: int | None, t: Callable[..., str]) -> str:
    if status.silent_s:
        return t("status.silent", seconds=status.silent_s)
    if status.phase == "loading":
        return t("status.loading_percent", percent=percent)
    words = {
        "ready": "status.idle",
        "answering": "status.answering",
        "failed": "status.failed",
        "unloading": "chat.status.unloading",
    }
    return t(words.get(status.phase, "chat.status.not_loaded"))


def seats(status: ModelStatus, t: Callable[..., str]) -> str:
    if status.phase != "answering":
        return ""
    text = t("chat.status.seats", running=status.running, seats=status.seats)
    return text + t("chat.status.waiting", count=status.waiting) if status.waiting else text

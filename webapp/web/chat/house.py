"""The services the chat page stands on, gathered from the app; one :class:`House` an app."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from flask import Flask, current_app

from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError
from webapp.manager.library import STATE_ENDINGS, STATES
from webapp.manager.model_manager import ModelManager
from webapp.services.attachments.attachments import Attachments
from webapp.services.chat.live_turn import LiveTurn
from webapp.services.chat.turns import ChatTurns
from webapp.services.presets.presets import Presets
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.presets import Preset
from webapp.storage.tools import ToolStore
from webapp.web.chat.live_rendering import LiveRenderings
from webapp.web.chat.news import LIST, PRESETS, STATUS, ChatNews, chat_topic

KEY = "chat_page"
STATUS_WAIT_S = 1.0
STATUS_PACE_S = 0.2


@dataclass
class House:
    settings: Settings
    manager: ModelManager
    store: ChatStore
    turns: ChatTurns
    presets: Presets
    tools: ToolStore
    files: Attachments
    news: ChatNews = field(default_factory=ChatNews)
    renderings: LiveRenderings = field(default_factory=LiveRenderings)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pages: int = 0
    _is_watching: bool = False

    def answering(self, chat_id: str) -> LiveTurn | None:
        """The turn being written in this chat now."""
        turn = self.turns.live(chat_id) if chat_id else None
        return turn if turn is not None and not turn.is_finished else None

    def base_sampling(self, preset: Preset) -> SamplingParams:
        """What the preset and the chosen model make of it, before a chat's own overrides."""
        try:
            parameters = self.manager.model_info().parameters
        except RoostError:
            parameters = 0
        return self.presets.sampling(preset, {}, parameters)

    def state_names(self) -> list[str]:
        """Files in the states folder, unread."""
        folder = self.manager.library.models_dir / STATES
        try:
            names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
        except OSError:
            return []
        return sorted(name for name in names if name.lower().endswith(STATE_ENDINGS) and not name.startswith("."))

    def page_opened(self) -> None:
        """While any page is open, one thread turns the manager's changes into news."""
        with self._lock:
            self._pages += 1
            if not self._is_watching:
                self._is_watching = True
                threading.Thread(target=self._watch_status, name="status-watch", daemon=True).start()

    def page_closed(self) -> None:
        with self._lock:
            self._pages -= 1

    def _watch_status(self) -> None:
        pause = threading.Event()
        seen = self.manager.status().revision
        while self._has_pages():
            now = self.manager.wait_change(seen, STATUS_WAIT_S).revision
            if now != seen:
                seen = now
                self.news.publish(STATUS)
            pause.wait(STATUS_PACE_S)

    def _has_pages(self) -> bool:
        """False ends the watching, and is said once: under the lock, so that a page opened now begins it anew."""
        with self._lock:
            self._is_watching = self._pages > 0
            return self._is_watching


def house_of(app: Flask) -> House:
    house: House | None = app.extensions.get(KEY)
    if house is None:
        parts = app.extensions
        store = ChatStore(parts["database"])
        turns, presets, tools = parts["chat_turns"], parts["presets"], ToolStore(parts["database"])
        settings, manager = parts["settings"], parts["model_manager"]
        files = Attachments(parts["database"], manager, settings)
        made = House(settings, manager, store, turns, presets, tools, files)
        house = app.extensions.setdefault(KEY, made)
        if house is made:
            made.presets.listen(lambda: made.news.publish(PRESETS))
            made.turns.listen(lambda chat_id, has_ended: made.news.publish(LIST if has_ended else chat_topic(chat_id)))
    return house


def the_house() -> House:
    """Of the app that answers the request."""
    return house_of(current_app._get_current_object())  # type: ignore[attr-defined]

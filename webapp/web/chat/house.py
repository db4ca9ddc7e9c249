"""The services the chat page stands on, gathered from the app, and the news that wakes its open pages."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from flask import Flask, current_app

from webapp.engine.sampling_params import SamplingParams
from webapp.errors import RoostError
from webapp.manager.library import STATE_ENDINGS, STATES
from webapp.manager.manager import ModelManager
from webapp.services.attachments.attachments import Attachments
from webapp.services.chat.turn_writer import LiveTurn
from webapp.services.chat.turns import ChatTurns
from webapp.services.presets.presets import Presets
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.presets import Preset
from webapp.storage.tools import ToolStore
from webapp.web.chat.live_rendering import LiveRenderings

KEY = "chat_page"
LIST = "list"
STATUS = "status"
PRESETS = "presets"
MOST_TOPICS = 1000


def chat_topic(chat_id: str) -> str:
    return f"chat:{chat_id}"


class ChatNews:
    """Carries no content: a topic's number changes, and who wakes looks for what is new.

    One for the app; safe from any thread. Remembers the :data:`MOST_TOPICS` published last: a topic that was
    forgotten counts as published when it was, so that a page looks once too often and never misses anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._count = 0
        self._forgotten = 0
        self._listeners: set[Callable[[], object]] = set()

    def publish(self, *topics: str) -> None:
        with self._lock:
            for topic in topics:
                self._count += 1
                self._numbers[topic] = self._count
                self._numbers.move_to_end(topic)
            while len(self._numbers) > MOST_TOPICS:
                self._forgotten = self._numbers.popitem(last=False)[1]
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def number(self, topic: str) -> int:
        """Another one after each publication of the topic."""
        return self._numbers.get(topic, self._forgotten)

    def listen(self, listener: Callable[[], object]) -> None:
        """Called after every publication, in the thread that published; it must return at once."""
        with self._lock:
            self._listeners.add(listener)

    def forget(self, listener: Callable[[], object]) -> None:
        with self._lock:
            self._listeners.discard(listener)


@dataclass
class House:
    """One an app."""

    settings: Settings
    manager: ModelManager
    store: ChatStore
    turns: ChatTurns
    presets: Presets
    tools: ToolStore
    files: Attachments
    news: ChatNews = field(default_factory=ChatNews)
    renderings: LiveRenderings = field(default_factory=LiveRenderings)

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
            made.manager.listen(lambda: made.news.publish(STATUS))
            made.presets.listen(lambda: made.news.publish(PRESETS))
            made.turns.listen(lambda chat_id, has_ended: made.news.publish(LIST if has_ended else chat_topic(chat_id)))
    return house


def the_house() -> House:
    """Of the app that answers the request."""
    return house_of(current_app._get_current_object())  # type: ignore[attr-defined]

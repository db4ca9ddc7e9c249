"""Live updates for open chat pages: notifications, and each running answer as HTML.

An answer is rendered once for all pages, at most about ten times per second. A finished block is rendered only once,
the open tail repeatedly. There is no thread here: the first viewer after each interval renders for all.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

from flask import Flask, current_app
from msgspec import Struct

from webapp.chat.messages import AnswerEvent, ContentDelta, Failed, Finished, ReasoningDelta, Waiting
from webapp.services.attachments import Attachments
from webapp.services.chat.turn_writer import LiveTurn
from webapp.storage.chats import ChatStore
from webapp.storage.people import Person
from webapp.web.kit.page import PageContext, Values, base, current_locale, render_fragment

PRESETS = "presets"
MAX_TOPICS = 1000
INTERVAL_S = 0.1
MAX_SHARED = 16
MAX_CORE_SHARE = 0.2
"""The share of a CPU core for rendering answers for all open pages, so that generation continues."""


def chat_topic(chat_id: str) -> str:
    return f"chat:{chat_id}"


def list_topic(person_id: str) -> str:
    return f"list:{person_id}"


class ChatNews:
    """Tells open pages that something has changed, not what: a topic's number changes, and the page checks it.

    One per app; thread-safe. Remembers the last :data:`MAX_TOPICS` topics: a forgotten topic counts as published at
    that moment, so a page may check once too often but never misses a change."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._count = 0
        self._forgotten = 0
        self._listeners: set[Callable[[Collection[str]], object]] = set()

    def publish(self, *topics: str) -> None:
        with self._lock:
            for topic in topics:
                self._count += 1
                self._numbers[topic] = self._count
                self._numbers.move_to_end(topic)
            while len(self._numbers) > MAX_TOPICS:
                self._forgotten = self._numbers.popitem(last=False)[1]
            listeners = list(self._listeners)
        for listener in listeners:
            listener(topics)

    def number(self, topic: str) -> int:
        """Changes with each publication of the topic."""
        return self._numbers.get(topic, self._forgotten)

    def listen(self, listener: Callable[[Collection[str]], object]) -> None:
        """Calls ``listener`` with the topics of every publication, in the publishing thread; it must return at once."""
        with self._lock:
            self._listeners.add(listener)

    def forget(self, listener: Callable[[Collection[str]], object]) -> None:
        with self._lock:
            self._listeners.discard(listener)


class Channel:
    """Content or thinking: the HTML of its finished blocks, in order, and of the open one. The later blocks have
    replaced the finished blocks before ``start``."""

    def __init__(self, text: str = "") -> None:
        from webapp.web.kit.markdown import MarkdownStream  # takes 0.1 s, which a start does not need

        self._stream = MarkdownStream(copy_label="")
        self.finals: list[str] = []
        self.start = 0
        self.tail = ""
        self.has_text = False
        self._texts: list[str] = []
        self._is_dirty = False
        self.feed(text)

    def feed(self, text: str) -> None:
        if text:
            self._stream.feed(text)
            self._texts.append(text)
            self.has_text = self._is_dirty = True

    def render(self, is_last: bool) -> None:
        if not self._is_dirty and not (is_last and self.tail):
            return
        final, self.tail = self._stream.update(is_last)
        self._is_dirty = False
        if final:
            self.finals.append(final)
        if is_last and self._stream.uses_references:
            self._render_whole()

    def _render_whole(self) -> None:
        """Links may be defined after their use, so the targets are known only when the text is complete."""
        from webapp.web.kit.markdown import render_markdown

        whole = render_markdown("".join(self._texts), copy_label="")
        if whole != "".join(self.finals[self.start :]):
            self.start = len(self.finals)
            self.finals.append(whole)


class ChannelView(Struct, frozen=True):
    """The update for a page that has ``seen`` finished blocks: the later blocks, and the tail. ``replaces``: they
    replace all blocks that it has."""

    final: str
    tail: str
    count: int
    replaces: bool = False


class LiveView(Struct, frozen=True):
    """The answer at one moment. ``revision`` increases with every change; ``waiting`` is set only before the first
    text, or if the engine does not respond. ``has_more``: there are events that will be rendered after the interval."""

    revision: int
    is_thinking: bool
    has_reasoning: bool
    waiting: Waiting | None
    is_over: bool
    has_more: bool


class LiveRendering:
    """One turn's text as HTML. ``clock`` is for tests."""

    def __init__(self, turn: LiveTurn, clock: Callable[[], float] = time.monotonic) -> None:
        self._turn = turn
        self._clock = clock
        self._lock = threading.Lock()
        self._position = 0
        self._rendered_at = float("-inf")
        self._waiting: Waiting | None = None
        self._end: Finished | Failed | None = None
        self._revision = 0
        self.channels = {"reasoning": Channel(), "content": Channel()}

    def advance(self) -> LiveView:
        """Renders new events if the interval is over, and returns the current view. The first words and the end are
        rendered at once."""
        with self._lock:
            is_due = self._clock() - self._rendered_at >= INTERVAL_S or self._turn.is_finished
            if self._end is None and (is_due or not any(channel.has_text for channel in self.channels.values())):
                events, self._position = self._turn.events_after(self._position, 0.0)
                if events:
                    self._take_in(events)
                    self._rendered_at = self._clock()
            return self._view()

    def since(self, channel: str, seen: int) -> ChannelView:
        with self._lock:
            found = self.channels[channel]
            finals = found.finals[max(seen, found.start) :]
            return ChannelView("".join(finals), found.tail, len(found.finals), seen < found.start)

    def _take_in(self, events: list[AnswerEvent]) -> None:
        for event in events:
            if isinstance(event, (ReasoningDelta, ContentDelta)):
                self._waiting = None
            if isinstance(event, ReasoningDelta):
                self.channels["reasoning"].feed(event.text)
            elif isinstance(event, ContentDelta):
                self.channels["content"].feed(event.text)
            elif isinstance(event, Waiting):
                self._waiting = event
            elif isinstance(event, (Finished, Failed)):
                self._end = event
        is_over = self._end is not None
        self.channels["reasoning"].render(is_over or self.channels["content"].has_text)
        self.channels["content"].render(is_over)
        self._revision += 1

    def _view(self) -> LiveView:
        has_reasoning, has_content = (self.channels[name].has_text for name in ("reasoning", "content"))
        is_over, waiting = self._end is not None, self._waiting
        has_text = has_reasoning or has_content
        is_silent = waiting is not None and waiting.phase == "silent" and waiting.done > 0
        return LiveView(
            revision=self._revision,
            is_thinking=has_reasoning and not has_content and not is_over,
            has_reasoning=has_reasoning,
            waiting=None if is_over or (has_text and not is_silent) else waiting,
            is_over=is_over,
            has_more=self._turn.event_count > self._position,
        )


class Shared:
    """A small cache of the last results, each with the values it depends on, which must be comparable. Thread-safe."""

    def __init__(self) -> None:
        self._made: list[tuple[Any, Any]] = []  # newest first

    def of(self, follows_from: Any, make: Callable[[], Any]) -> Any:
        """The cached result for equal values, otherwise the result of ``make``."""
        for known, found in self._made:
            if known == follows_from:
                return found
        made = make()
        self._made = [(follows_from, made), *self._made[: MAX_SHARED - 1]]
        return made


class LiveRenderings:
    """Data shared by pages: the renderings of running turns (a finished one is dropped at the next request), the status
    strip and the panels."""

    def __init__(self) -> None:
        self.panels = Shared()
        self._lock = threading.Lock()
        self._followers = 0
        self._cost_s = 0.0
        self._strips: dict[str, tuple[Values, str]] = {}  # by locale and base
        self._by_message: dict[str, tuple[LiveTurn, LiveRendering]] = {}

    def of(self, turn: LiveTurn) -> LiveRendering:
        with self._lock:
            self._by_message = {key: held for key, held in self._by_message.items() if not held[0].is_finished}
            held = self._by_message.get(turn.message_id)
            if held is None or held[0] is not turn:
                held = self._by_message[turn.message_id] = (turn, LiveRendering(turn))
            return held[1]

    def count_follower(self, by: int) -> None:
        """Changes the number of pages that follow an answer."""
        with self._lock:
            self._followers += by

    def interval_s(self, cost_s: float) -> float:
        """How long a page waits if its update took ``cost_s`` of CPU time: INTERVAL_S, or longer if all pages together
        would use more than :data:`MAX_CORE_SHARE`."""
        with self._lock:
            self._cost_s += (cost_s - self._cost_s) / 8
            return max(INTERVAL_S, self._cost_s * self._followers / MAX_CORE_SHARE)

    def strip(self, values: Values, locale: str) -> str:
        """Rendered once for all pages: with many chats it changes at every start and end of an answer."""
        with self._lock:
            kind = locale + base()
            shown, html = self._strips.get(kind, ({}, ""))
            if values != shown:
                html = render_fragment("status/_strip.html", {"strip": values}, locale)
                self._strips[kind] = (values, html)
            return html


# the chat's part of the page context


def install(app: Flask) -> None:
    """Creates the shared objects of the chat pages, and publishes every change of presets and turns to them."""
    parts, news = app.extensions, ChatNews()
    database, manager, settings = parts["database"], parts["model_manager"], parts["settings"]
    parts.update(attachments=Attachments(database, manager, settings))
    parts.update(chat_news=news, live_renderings=LiveRenderings())
    parts["presets"].listen(lambda: news.publish(PRESETS))
    chats = ChatStore(database)

    def tell(chat_id: str, has_ended: bool) -> None:
        news.publish(list_topic(chats.person_of(chat_id)) if has_ended else chat_topic(chat_id))

    parts["chat_turns"].listen(tell)


class ChatContext(PageContext):
    """Adds the chat's services. Cheap to create: its status is from one moment, so an open page creates a new one for
    each update."""

    def __init__(self, app: Flask, locale: str, person: Person | None = None) -> None:
        super().__init__(app, locale, person)
        self.store = ChatStore(self.database, self.person.id)
        """The person's own chats; before another part acts on a chat, its owner is checked (``check``)."""
        self.list_topic = list_topic(self.person.id)
        self.turns = self.chat_turns
        self.files: Attachments = app.extensions["attachments"]
        self.news: ChatNews = app.extensions["chat_news"]
        self.renderings: LiveRenderings = app.extensions["live_renderings"]

    @property
    def what_runs(self) -> tuple[str, str, bool]:
        """The values that decide what a preset means, without the counts of a status."""
        now = self.status
        return now.model_path, now.strategy, now.phase in ("loading", "unloading")

    def answering(self, chat_id: str) -> LiveTurn | None:
        """The running turn in this chat."""
        turn = self.turns.live(chat_id) if chat_id else None
        return turn if turn is not None and not turn.is_finished else None


def this_app() -> Flask:
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    return app


def chat_context() -> ChatContext:
    """For the current request."""
    return ChatContext(this_app(), current_locale())

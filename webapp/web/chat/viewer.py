"""One open page: what it shows now, and which updates it needs.

Structure is sent as HTML that htmx swaps by id, text as JSON ``{type, message, channel, final, tail}``. The page
reports what it shows when it opens or reconnects; from then on the viewer keeps track and sends differences.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flask import Flask
from msgspec import Struct

from webapp.chat.messages import Beside
from webapp.errors import ChatNotFound, RoostError
from webapp.services.chat.turn_writer import LiveTurn
from webapp.storage.people import Person
from webapp.storage.records import Chat, StoredMessage
from webapp.web import status
from webapp.web.chat.live import PRESETS, ChatContext, LiveRendering, LiveView, chat_topic
from webapp.web.chat.sidebars import NEW_CHAT, NO_OFFER, Panel, chat_list, load_offer, panel_of
from webapp.web.chat.views import (
    attached,
    chat_title,
    fingerprint,
    group_print,
    is_same_group,
    message_view,
    message_views,
    waiting_text,
    welcome,
)
from webapp.web.kit.page import Toast, Values, render_fragment

IDLE_WAIT_S = 15.0
LIST_INTERVAL_S = 2.0
"""Other readers' answers change the chat list at every start and end."""
ANNOUNCED_CHARS = 2000


class Shown(Struct, frozen=True):
    """A message as shown on a page."""

    id: str
    fingerprint: str


class Difference(Struct, frozen=True):
    """``replaced`` and ``appended`` are indices into the new list, ``removed`` are ids."""

    removed: tuple[str, ...] = ()
    replaced: tuple[int, ...] = ()
    appended: tuple[int, ...] = ()


def difference(shown: Sequence[Shown], wanted: Sequence[Shown]) -> Difference:
    """A page may show only the end of a long branch: then messages above its first one are not touched.

    If that first message is not in ``wanted`` at all, everything is replaced.
    """
    start = first_common(shown, wanted)
    same = 0
    while same < min(len(shown), len(wanted) - start) and shown[same].id == wanted[start + same].id:
        same += 1
    changed = (i for i in range(same) if shown[i].fingerprint != wanted[start + i].fingerprint)
    return Difference(
        removed=tuple(message.id for message in shown[same:]),
        replaced=tuple(start + i for i in changed),
        appended=tuple(range(start + same, len(wanted))),
    )


def first_common(shown: Sequence[Shown], wanted: Sequence[Shown]) -> int:
    """The index of the page's first message in ``wanted``; 0 if it shows none or that one is gone."""
    ids = [message.id for message in wanted]
    return ids.index(shown[0].id) if shown and shown[0].id in ids else 0


class Following:
    """The answer that a page is watching, and how much of it was sent."""

    def __init__(self, turn: LiveTurn, rendering: LiveRendering) -> None:
        self.turn = turn
        self.rendering = rendering
        self.revision = -1
        self.has_text = False
        self.progress: tuple[bool, str] | None = None
        self.sent = {"reasoning": -1, "content": -1}  # -1: the page's text is replaced by all there is


class Viewer:
    """Runs in its own thread, inside a request context. ``send`` raises when the page is gone."""

    def __init__(self, app: Flask, locale: str, send: Callable[[str], None], person: Person | None = None) -> None:
        self._app, self._locale = app, locale
        self.page = ChatContext(app, locale, person)
        self._send_now = send
        self._unsent: list[str] | None = None  # while the database is read
        self._lock = threading.RLock()
        self._followings: dict[str, Following] = {}  # by message
        self._group = ""  # answers side by side that the page shows: the id of their frame, and theirs
        self._cards: set[str] = set()
        self._shown: list[Shown] = []
        self._open_ids: set[str] = set()  # answers the page shows as being written
        self._seen: dict[str, int] = {}
        self.chat_id = ""
        self.is_closed = False
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._list_rendered_at = -math.inf
        self._is_open = False
        self._is_paced = False
        self._sent_answering: str | None = None  # nothing yet
        self._model = self.page.status.model  # that the welcome text is about
        self._draft = NEW_CHAT
        self._panel = ""  # fingerprint of what the page shows
        self._shown_panel: Panel | None = None
        self._panel_preset = ""
        self._thinking: Values | None = None
        self._offer: Values | None = None
        self._attached: Values | None = None
        self._runs: object = None
        self._revision = -1  # of the model's status
        self._titled: object = None  # what the shown title follows from

    def open(
        self,
        chat_id: str,
        shown: Sequence[Shown],
        has_list: bool = False,
        panel: str | None = None,
        draft: Chat = NEW_CHAT,
    ) -> None:
        """The page shows these messages of this chat, and a status strip that may be outdated; also an outdated list
        unless ``has_list``. ``panel``: its panel's fingerprint (None: the one shown before); ``draft``: the panel's
        values while the chat has not begun."""
        with self._lock:
            self._is_open = True
            self._draft, self._titled, self._shown_panel, self._offer, self._attached = draft, None, None, None, None
            self._panel = self._panel if panel is None else panel
            self._stop_following_all()
            self._group, self._cards = "", set()
            self.chat_id, self._shown = chat_id, list(shown)
            self._sent_answering = None
            self._revision = -1
            self._seen = dict.fromkeys((self.page.list_topic, PRESETS, chat_topic(chat_id)), -1)
            if has_list:
                self._seen[self.page.list_topic] = self.page.news.number(self.page.list_topic)
        self._come_at_once()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile :meth:`run` sends nothing; afterwards changes are shown at once."""
        with self._lock:
            yield
        self._come_at_once()

    def take_panel(self, chat: Chat) -> None:
        """Takes values from the page's own panel. Renders the panel again only if another preset changes all of it."""
        with self._lock:
            self.page = ChatContext(self._app, self._locale, self.page.person)
            if not chat.id:
                self._draft = chat
            if chat.preset_id == self._panel_preset:
                self._panel = panel_of(self.page, chat).fingerprint
            self._show_panel(chat)
            self._show_title(chat)

    def close(self) -> None:
        self.is_closed = True
        self._come_at_once()

    def _come_at_once(self) -> None:
        self._list_rendered_at = -math.inf
        self._wake.set()
        self._hurry.set()

    def run(self) -> None:
        """Waits for notifications and for new text of the answer it follows. Text and model status are sent at most
        every INTERVAL_S, except an answer's first words, its end, and results of the page's own commands."""
        self.page.manager.listen(self._wake.set)
        self.page.news.listen(self._hear_news)
        try:
            while not self.is_closed:
                self._wake.clear()
                self._hurry.clear()
                began_at = time.thread_time()
                with self._lock:
                    has_more = self._is_open and self._bring_up_to_date()
                if self._is_paced:
                    self._hurry.wait(self.page.renderings.interval_s(time.thread_time() - began_at))
                if not has_more:
                    self._wake.wait(self.idle_s)
        finally:
            self.page.manager.forget(self._wake.set)
            self.page.news.forget(self._hear_news)
            self._stop_following_all()

    def _hear_news(self, topics: Collection[str]) -> None:
        """Called in the publishing thread. Topics of other pages wake only those."""
        if not self._seen.keys().isdisjoint(topics):
            self._wake.set()

    @property
    def idle_s(self) -> float:
        """How long :meth:`run` may wait for notifications: 0 if an update of the list is due."""
        topic = self.page.list_topic
        is_list_new = self._is_open and self._seen.get(topic) != self.page.news.number(topic)
        return max(0.0, self._list_in_s) if is_list_new else IDLE_WAIT_S

    @property
    def _list_in_s(self) -> float:
        """Seconds until the list may be rendered again."""
        return self._list_rendered_at + LIST_INTERVAL_S - time.monotonic()

    def _bring_up_to_date(self) -> bool:
        """True if more must be rendered soon."""
        self.page = ChatContext(self._app, self._locale, self.page.person)
        self._refresh()
        has_more = self._follow()
        self._is_paced = self._is_paced or bool(self._followings)
        answering = next(iter(self._followings), "")
        if answering != self._sent_answering:
            self._sent_answering = answering
            self.frame(type="answering", message=answering)
        return has_more

    # structure

    def _refresh(self) -> None:
        """Renders what has changed. All reads for it see the database at one moment."""
        now, runs = self.page.status, self.page.what_runs
        self._is_paced = now.revision != self._revision  # a loading model reports every tensor
        if self._is_paced:
            self._send(self.page.renderings.strip(status.strip(now, self.page.t), self._locale))
        if now.model != self._model and not self.chat_id:  # a chat that has not begun shows the chosen model
            self.fragment("chat/_welcome.html", welcome=welcome(self.page, self._draft))
        has_list = self._list_in_s <= 0 and self._is_news(self.page.list_topic)
        has_chat = bool(self.chat_id) and self._is_news(chat_topic(self.chat_id))
        has_panel = self._is_news(PRESETS) or has_chat or runs != self._runs
        self._revision, self._model, self._runs = now.revision, now.model, runs
        if not (has_list or has_panel):
            return
        unsent: list[str] = []
        self._unsent = unsent
        try:
            with self.page.store.database.connect():
                if has_list:
                    self._list_rendered_at = time.monotonic()
                    self.fragment("chat/_list.html", chats=chat_list(self.page, self.chat_id))
                if has_chat:
                    self._show_branch()
                has_files = has_panel and self._show_chat()
        finally:
            self._unsent = None
        for text in unsent:  # only now: a slow page must not keep the database snapshot open
            self._send(text)
        if has_files:  # also outside: counting their tokens may write
            self._show_attached()

    def _is_news(self, topic: str) -> bool:
        number = self.page.news.number(topic)
        if self._seen.get(topic) == number:
            return False
        self._seen[topic] = number
        return True

    def _show_chat(self) -> bool:
        """Its title and its panel, if their values have changed. True if its pending files may have changed too."""
        try:
            chat = self.page.store.get(self.chat_id) if self.chat_id else self._draft
        except ChatNotFound:
            self.frame(type="gone")
            return False
        self._show_title(chat)
        self._show_panel(chat)
        had_files = self._attached is None or bool(self._attached["files"])
        return had_files or bool(self.chat_id and self.page.files.store.pending(self.chat_id))

    def _show_attached(self) -> None:
        found = attached(self.page, self.chat_id)
        if found != self._attached:
            self.fragment("chat/_attached.html", attached=found)
        self._attached = found

    def _show_title(self, chat: Chat) -> None:
        follows_from = (chat.title, chat.preset_id, chat.persona_id, self.page.news.number(PRESETS))
        if follows_from != self._titled:
            self.fragment("chat/_title.html", head=chat_title(self.page, chat))
        self._titled = follows_from

    def _show_panel(self, chat: Chat) -> None:
        panel = panel_of(self.page, chat)
        if panel is self._shown_panel and self._offer == NO_OFFER:
            return
        offer = load_offer(self.page, chat)
        if panel.fingerprint != self._panel:
            self._send(panel.html)
        if panel.thinking != self._thinking:
            self.fragment("chat/_thinking.html", thinking=panel.thinking)
        if offer != self._offer:
            self.fragment("chat/_load_offer.html", offer=offer)
        self._shown_panel, self._panel, self._panel_preset = panel, panel.fingerprint, chat.preset_id
        self._thinking, self._offer = panel.thinking, offer

    def _show_branch(self) -> None:
        try:
            branch = self.page.store.branch(self.chat_id)
        except RoostError:
            return
        running = self.page.turns.tools.running
        prints = [
            fingerprint(row, running(row.id) if row.message.tool_calls else (), row is branch[-1]) for row in branch
        ]
        shown = [Shown(row.id, seen) for row, seen in zip(branch, prints, strict=True)]
        is_beside = bool(branch) and Beside.of(branch[-1].message) is not None
        members = self.page.turns.beside.undecided(branch[-1]) if is_beside else []
        if members:
            shown[-1] = Shown(*group_print(self.page, members))
        wanted = [self._as_followed(row) for row in shown]
        steps = difference(self._shown, wanted)
        html = [f'<div id="m-{name}" hx-swap-oob="delete"></div>' for name in steps.removed]
        html += self._messages(branch, steps.replaced)
        appended = "".join(self._messages(branch, steps.appended))
        if appended:
            html.append(f'<div hx-swap-oob="beforeend:#messages">{appended}</div>')
        if html:
            self._send("".join(html))
        if not branch and self._shown:
            chat = self.page.store.get(self.chat_id) if self.chat_id else self._draft
            self.fragment("chat/_welcome.html", welcome=welcome(self.page, chat))
        self._shown = wanted[first_common(self._shown, wanted) :]
        self._group, self._cards = shown[-1].id if members else "", {row.id for row in members}
        shown_ids = {branch[place].id for place in steps.appended}
        if members and len(branch) - 1 in (*steps.appended, *steps.replaced):
            shown_ids |= self._cards
        self._open_ids = {row.id for row in (*branch, *members) if row.status == "streaming"}
        for turn in self.page.turns.answers(self.chat_id):
            if turn.message_id in shown_ids:  # it may have ended already: its end must still be sent
                self._open_ids.add(turn.message_id)
        for message_id in shown_ids & self._followings.keys():
            self._stop_following(message_id)  # it was rendered again: follow it from the start

    def _as_followed(self, wanted: Shown) -> Shown:
        """An answer that is followed counts as unchanged: :meth:`_finish` renders its end. So do answers side by side,
        while they are the same."""
        if not self._followings.keys() & {wanted.id, *(self._cards if wanted.id == self._group else ())}:
            return wanted
        before = next((row for row in self._shown if row.id == wanted.id), wanted)
        is_same = wanted.id != self._group or is_same_group(before.fingerprint, wanted.fingerprint)
        return before if is_same else wanted

    def _messages(self, branch: Sequence[StoredMessage], indices: Sequence[int]) -> list[str]:
        return [render_message(view) for view in message_views(self.page, branch, indices)]

    # the answer being written

    def _follow(self) -> bool:
        """Sends new text; True if there is more than the renderings contain."""
        turns = self.page.turns.answers(self.chat_id) if self.chat_id else []
        new = [turn for turn in turns if not turn.is_finished or turn.message_id in self._open_ids]
        followed = [following.turn for following in self._followings.values()]
        new = [turn for turn in new if turn not in followed]
        if any(turn.message_id not in self._cards | {row.id for row in self._shown} for turn in new):
            self._show_branch()
        for turn in new:
            self._stop_following(turn.message_id)
            if not self._followings:
                self.page.renderings.count_follower(1)
            self._followings[turn.message_id] = Following(turn, self.page.renderings.of(turn))
            turn.listen(self._hear)
        has_more = False
        for message_id, following in list(self._followings.items()):
            view = following.rendering.advance()
            if view.revision != following.revision:
                following.revision = view.revision
                self._send_text(following, view)
            if view.is_over and following.turn.is_finished:
                self._stop_following(message_id)
                self._open_ids.discard(message_id)
                self._finish(message_id)
            else:
                has_more = has_more or view.has_more
        return has_more

    def _stop_following(self, message_id: str) -> None:
        following = self._followings.pop(message_id, None)
        if following is not None:
            following.turn.forget(self._hear)
            if not self._followings:
                self.page.renderings.count_follower(-1)

    def _stop_following_all(self) -> None:
        for message_id in list(self._followings):
            self._stop_following(message_id)

    def _hear(self) -> None:
        """Called for every event of an answer, in its writer's thread. Shows the start or end of one answer at once."""
        self._wake.set()
        followings = list(self._followings.values())
        if not any(each.has_text for each in followings) or (len(followings) == 1 and followings[0].turn.is_finished):
            self._hurry.set()

    def _send_text(self, following: Following, view: LiveView) -> None:
        name = following.turn.message_id
        for channel in ("reasoning", "content"):
            sent = following.sent[channel]
            news = following.rendering.since(channel, max(sent, 0))
            if news.final or news.tail or news.count:
                reset = sent < 0 or news.replaces
                self.frame(type="text", message=name, channel=channel, reset=reset, final=news.final, tail=news.tail)
                following.sent[channel] = news.count
                following.has_text = True
        waiting = waiting_text(view.waiting, self.page.t) if view.waiting else ""
        if following.progress != (view.is_thinking, waiting):
            following.progress = view.is_thinking, waiting
            self.frame(type="progress", message=name, thinking=view.is_thinking, waiting=waiting)

    def _finish(self, message_id: str) -> None:
        """The text is complete already: only the foot is rendered again, so that a selection and an open fold stay. An
        answer with tool calls gets its cards now, so it is rendered completely."""
        self._list_rendered_at = -math.inf  # to remove the answer's activity mark
        try:
            stored = self.page.store.message(message_id)
        except RoostError:  # deleted
            self.frame(type="finished", message=message_id)
            return
        is_card = message_id in self._cards
        view = message_view(self.page, stored, is_card)
        members = self.page.turns.beside.undecided(stored) if is_card else []
        shown = Shown(*group_print(self.page, members)) if members else Shown(message_id, view["fingerprint"])
        if shown.id not in {row.id for row in self._shown}:  # another version is shown by now
            self.frame(type="finished", message=message_id)
            return
        if view.get("calls"):
            self._send(render_message(view))
        else:
            self.fragment("chat/_answer_foot.html", message=view)
        self._shown = [shown if row.id == shown.id else row for row in self._shown]
        self.frame(
            type="finished",
            message=message_id,
            fingerprint=shown.fingerprint,
            announce=self.page.t("chat.message.announce", text=view["text"][:ANNOUNCED_CHARS]),
        )

    # sending

    def _send(self, text: str) -> None:
        with self._lock:  # a command's thread sends too; a message in the middle of a database read could be lost
            if self._unsent is None:
                self._send_now(text)
            else:
                self._unsent.append(text)

    def frame(self, **content: Any) -> None:
        self._send(json.dumps(content, ensure_ascii=False))

    def fragment(self, name: str, **context: Any) -> None:
        """HTML that replaces the element with the same id."""
        self._send(render_fragment(name, context))

    def toast(self, toast: Toast) -> None:
        html = render_fragment("_toast.html", {"toast": toast})
        self._send(f'<div hx-swap-oob="beforeend:#toasts">{html}</div>')


def render_message(view: Values) -> str:
    return render_fragment(view["template"], {"message": view})

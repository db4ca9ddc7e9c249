"""Replaces the page's socket if no WebSocket gets through: frames in both directions in ``POST /chat/poll``.

A page sends ``{page, seen, frames: [[number, text], ...]}`` and receives ``{page, taken, frames}``. Each side numbers
its frames and repeats them until the other confirms them, so that a lost request or response loses no frame and no
frame is handled twice. ``page`` is "" at first. It is "" in the response if the server does not know the page any more,
which then reconnects as after a broken socket. A response without frames is delayed by :data:`HOLD_S`.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import copy_current_request_context, g

from webapp.errors import RoostError
from webapp.i18n import Text
from webapp.web.chat.commands import Commands, FrameFields, PageSocket
from webapp.web.chat.live import chat_context, this_app
from webapp.web.chat.viewer import Viewer
from webapp.web.guard import asker, client_address, current_role
from webapp.web.kit.page import current_locale
from webapp.web.roles import Role

HOLD_S = 1.0
MAX_HELD = 24  # server threads; beyond this, responses are sent at once
LEFT_AFTER_S = 60.0
MAX_PAGES, MAX_PAGES_PER_ADDRESS = 500, 50
MAX_FRAMES = 100  # in one request
MAX_KEPT_BYTES = 8 << 20  # for a page that does not confirm frames


class PageLeft(Exception):
    """The page does not poll any more."""


class PolledPage:
    """One open page: outgoing frames, numbered from 1, and incoming ones. ``clock`` is for tests."""

    def __init__(self, session: str, address: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.id = secrets.token_urlsafe(18)
        self.session, self.address = session, address
        self.role = Role.STRANGER
        self.taken = 0
        self.socket: PageSocket
        self._clock = clock
        self._asked_at = clock()
        self._has_ended = False
        self._news = threading.Condition()
        self._taking = threading.Lock()
        self._number = 0
        self._unseen: list[tuple[int, str]] = []

    @property
    def has_left(self) -> bool:
        return self._has_ended or self._clock() - self._asked_at > LEFT_AFTER_S

    def send(self, text: str) -> None:
        with self._news:
            if self.has_left or sum(len(row[1]) for row in self._unseen) > MAX_KEPT_BYTES:
                self._has_ended = True
                raise PageLeft
            self._number += 1
            self._unseen.append((self._number, text))
            self._news.notify_all()

    def close(self, *_: object) -> None:
        with self._news:
            self._has_ended = True
            self._news.notify_all()

    def take(self, frames: list[tuple[int, str]]) -> None:
        """Handles each frame once, in order, even if it is repeated."""
        with self._taking:
            for number, text in frames:
                if number > self.taken:
                    self.taken = number
                    self.socket.take(text)

    def unseen(self, seen: int, hold_s: float) -> list[tuple[int, str]]:
        """The frames after ``seen``, as soon as there are any, at the latest after ``hold_s``."""
        with self._news:
            self._asked_at = self._clock()
            self._unseen = [row for row in self._unseen if row[0] > seen]
            if not self._unseen and hold_s:
                self._news.wait_for(lambda: self._unseen or self._has_ended, hold_s)
            return list(self._unseen)


class PolledViewer(Viewer):
    """Ends by itself when its page has left."""

    def __init__(self, page: PolledPage, *given: Any) -> None:
        self._polled = page
        super().__init__(*given)

    @property
    def is_closed(self) -> bool:  # type: ignore[override]
        return self._polled.has_left

    @is_closed.setter
    def is_closed(self, value: bool) -> None:
        if value:
            self._polled.close()


class PolledPages:
    """All polled pages of an app, by id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[str, PolledPage] = {}
        self._holding = threading.BoundedSemaphore(MAX_HELD)

    def answer(self, fields: FrameFields) -> dict[str, Any]:
        """Within a request: the response to a page's message."""
        page = self._page(fields.text("page", 100, ""))
        if page is None:
            return {"page": "", "taken": 0, "frames": []}
        page.role = current_role()
        frames = frames_of(fields)
        try:
            page.take(frames)
        except PageLeft:
            return {"page": "", "taken": 0, "frames": []}
        may_hold = not frames and self._holding.acquire(blocking=False)
        try:
            unseen = page.unseen(int(fields.number("seen", 0, 1e15, 0)), HOLD_S if may_hold else 0.0)
        finally:
            if may_hold:
                self._holding.release()
        return {"page": "" if page.has_left else page.id, "taken": page.taken, "frames": unseen}

    def _page(self, page_id: str) -> PolledPage | None:
        """A new page for ""; None if the page has left or belongs to another browser."""
        session = g.get("session")
        key = session.key if session else g.person.id
        with self._lock:
            self._pages = {name: page for name, page in self._pages.items() if not page.has_left}
            if page_id:
                found = self._pages.get(page_id)
                return found if found is not None and found.session == key else None
            from_address = sum(page.address == client_address() for page in self._pages.values())
            if len(self._pages) >= MAX_PAGES or from_address >= MAX_PAGES_PER_ADDRESS:
                raise RoostError("too_many_requests")
            page = PolledPage(key, client_address())
            self._pages[page.id] = page
        self._start(page)
        return page

    def _start(self, page: PolledPage) -> None:
        viewer = PolledViewer(page, this_app(), current_locale(), page.send, g.person)
        context = chat_context()
        context.manager.prepare()
        commands = Commands(context, asker(), lambda: page.role)
        page.socket = PageSocket(viewer, commands, page.close, PageLeft)
        show = copy_current_request_context(page.socket.show)
        threading.Thread(target=show, name="chat-viewer", daemon=True).start()


def frames_of(fields: FrameFields) -> list[tuple[int, str]]:
    """Raises ``bad_frame`` for anything but a short list of numbered texts."""
    rows = fields.values.get("frames", [])
    if not isinstance(rows, list) or len(rows) > MAX_FRAMES:
        raise RoostError("bad_frame", reason=Text("reason.common.is_not_an_object"))
    frames = []
    for row in rows:
        is_good = isinstance(row, list) and len(row) == 2 and type(row[0]) is int and isinstance(row[1], str)
        if not is_good:
            raise RoostError("bad_frame", reason=Text("reason.common.is_not_an_object"))
        frames.append((row[0], row[1]))
    return frames

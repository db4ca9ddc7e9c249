"""The page's WebSocket ``/ws/chat``: this thread takes commands, another shows what happens (:mod:`.viewer`)."""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from flask import copy_current_request_context, g
from flask_sock import Sock
from simple_websocket import ConnectionClosed

from webapp.errors import RoostError, as_roost_error
from webapp.i18n import Text
from webapp.storage.records import Chat
from webapp.web.chat.commands import ID_CHARS, Commands, FrameFields, address_of, parse_frame, read_command
from webapp.web.chat.live import chat_context, this_app
from webapp.web.chat.panel import NEW_CHAT, chat_with
from webapp.web.chat.viewer import Shown, Viewer
from webapp.web.guard import client_address, current_role, the_guard
from webapp.web.kit.page import Toast, current_locale
from webapp.web.roles import Role

log = logging.getLogger(__name__)
MOST_SHOWN = 10_000
INTERNAL_ERROR = 1011
GOING_AWAY = 1001
_toast_numbers = itertools.count(1)


def answer_handshake() -> Any:
    """The view of ``/ws/chat``."""
    return _view()()


@functools.cache
def _view() -> Callable[[], Any]:
    """flask-sock's, taken from it as it would add it to the application: that is closed to new addresses by now."""
    made: list[Callable[[], Any]] = []
    Sock().route("/ws/chat", bp=SimpleNamespace(route=lambda *_, **__: made.append))(chat_socket)
    return made[0]


def chat_socket(ws: Any) -> None:
    viewer = Viewer(this_app(), current_locale(), ws.send)
    role, session = current_role(), g.get("session")
    context = chat_context()
    context.manager.prepare()
    is_over = threading.Event()  # the session that proved the role has been ended
    commands = Commands(context, client_address(), lambda: Role.STRANGER if is_over.is_set() else role)
    page = PageSocket(viewer, commands, ws.close)
    shower = threading.Thread(target=copy_current_request_context(page.show), name="chat-viewer", daemon=True)
    shower.start()

    def end() -> None:
        is_over.set()
        ws.close(GOING_AWAY)

    try:
        with the_guard().sessions.watched(session.key if session else "", end):
            while True:
                page.take(ws.receive())
    finally:
        viewer.close()


class PageSocket:
    """What one page's socket does with the frames that come in."""

    def __init__(self, viewer: Viewer, commands: Commands, close: Callable[..., None] = lambda *_: None) -> None:
        self.viewer = viewer
        self.commands = commands
        self.close = close

    def show(self) -> None:
        """Until the page is gone. After a fault of ours the socket is closed in the way that makes a page come back."""
        try:
            self.viewer.run()
        except ConnectionClosed:
            pass
        except Exception:
            log.exception("showing a chat page failed")
            with contextlib.suppress(ConnectionClosed):
                self.close(INTERNAL_ERROR)

    def take(self, data: Any) -> None:
        """One frame. Whatever is wrong with it, the page is told and the loop goes on."""
        sent_as = ""
        try:
            fields = parse_frame(data)
            sent_as = fields.text("sent_as", ID_CHARS, "")
            if fields.values.get("do") == "open":
                self._open(fields)
            else:
                self._perform(fields, sent_as)
        except ConnectionClosed:
            raise
        except RoostError as exc:
            self._refuse(exc, sent_as)
        except Exception as exc:
            log.exception("a command of the chat page failed")
            self._refuse(as_roost_error(exc), sent_as)

    def _open(self, fields: FrameFields) -> None:
        rows = fields.values.get("shown", [])
        if not isinstance(rows, list) or len(rows) > MOST_SHOWN:
            raise RoostError("bad_frame", reason=Text("reason.web.shown_not_a_list"))
        shown = [
            Shown(str(row[0])[:ID_CHARS], str(row[1])[:ID_CHARS])
            for row in rows
            if isinstance(row, list) and len(row) == 2
        ]
        chat_id = fields.text("chat", ID_CHARS, "")
        draft = NEW_CHAT if chat_id else self._draft(fields)
        panel = fields.text("panel", ID_CHARS, "")
        self.viewer.open(chat_id, shown, fields.flag("fresh"), panel, draft)

    def _draft(self, fields: FrameFields) -> Chat:
        """A chat that has not begun, as its panel has it; what cannot be is told when it is used."""
        try:
            return chat_with(self.commands.page, NEW_CHAT, fields)
        except RoostError:
            return NEW_CHAT

    def _perform(self, fields: FrameFields, sent_as: str) -> None:
        command = read_command(fields)
        with self.viewer.held():  # else the news of it would draw the panel anew under the hand that moves it
            result = self.commands.perform(command)
            if result.panel is not None:
                self.viewer.take_panel(result.panel)
        if result.is_new_chat:
            self.viewer.frame(type="chat", id=result.chat_id, url=f"/chat/{result.chat_id}")
            self.viewer.open(result.chat_id, [])
        elif command.do in ("delete_chat", "restore_chat") and result.chat_id != self.viewer.chat_id:
            self.viewer.frame(type="go", url=address_of(result))
        elif result.done:
            text = self.viewer.page.t(result.done, **result.done_with)
            self.viewer.toast(Toast(f"s{next(_toast_numbers)}", text, undo=result.undo))
        self.viewer.frame(type="accepted", sent_as=sent_as, do=command.do)

    def _refuse(self, error: RoostError, sent_as: str) -> None:
        self.viewer.frame(type="refused", sent_as=sent_as)
        self.viewer.toast(self.viewer.page.error_toast(error, id=f"s{next(_toast_numbers)}"))

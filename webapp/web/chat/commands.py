"""The commands of the chat page, as one table for frames of the socket and for posted forms.

The field ``do`` names the command; a button may add its target after a colon (``regenerate:ID``). Frames are untrusted
input: every malformed frame raises ``bad_frame``. The page's WebSocket ``/ws/chat`` (:class:`PageSocket`) shows errors
as a toast. Its thread handles commands, another one sends updates (:mod:`.viewer`).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import math
import re
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

from flask import copy_current_request_context, g
from msgspec import Struct, field
from msgspec.structs import replace

from webapp.chat.messages import VARIANTS, Message, Variant, display_name, title_of
from webapp.chat.messages import Role as Speaker
from webapp.errors import RoostError, as_roost_error
from webapp.i18n import Text
from webapp.services.chat.chat_file import ChatFiles
from webapp.services.chat.side_by_side import FEWEST_ANSWERS, MAX_ANSWERS
from webapp.services.presets.fields import MODEL_NAME_CHARS, NAME_CHARS
from webapp.storage.records import Chat, ChatTools
from webapp.web.chat.live import ChatContext, chat_context, chat_topic, this_app
from webapp.web.chat.sidebars import NEW_CHAT, as_preset, chat_with, save_options
from webapp.web.chat.viewer import Shown, Viewer
from webapp.web.guard import asker, current_role, the_guard
from webapp.web.kit.page import ID_CHARS, Toast, current_locale
from webapp.web.presets.form import shown_name
from webapp.web.prompts import find_persona
from webapp.web.roles import COMMAND_ROLES, Role

log = logging.getLogger(__name__)
MAX_FRAME_BYTES = 1 << 20
MAX_DEPTH = 16


class FrameFields:
    """The fields of one frame. htmx sends form values as text, so numbers and flags are parsed from text too."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def text(self, name: str, at_most: int, default: str | None = None) -> str:
        """A string of at most ``at_most`` characters; half a surrogate pair becomes U+FFFD."""
        value = self._value(name, default)
        if not isinstance(value, str):
            _refuse(f"{name} must be text")
        if len(value) > at_most:
            _refuse(f"{name} has {len(value)} characters, the limit is {at_most}")
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self._value(name, default)
        if value not in allowed:
            _refuse(f"{name} must be one of {', '.join(allowed)}")
        return str(value)

    def number(self, name: str, at_least: float, at_most: float, default: float | None = None) -> float:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            _refuse(f"{name} must be a number")
        try:
            number = float(value)
        except (ValueError, OverflowError):
            _refuse(f"{name} must be a number")
        if not math.isfinite(number) or not at_least <= number <= at_most:
            _refuse(f"{name} must be from {at_least} to {at_most}")
        return number

    def flag(self, name: str) -> bool:
        """A checkbox: absent, false, "", "false", "off" and "0" are False."""
        value = self.values.get(name, False)
        if isinstance(value, str):
            return value.lower() not in ("", "false", "off", "0")
        return bool(value)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name, default)
        if value is None:
            _refuse(f"{name} is missing")
        return value


def parse_frame(data: str | bytes | bytearray | None, limit_bytes: int = MAX_FRAME_BYTES) -> FrameFields:
    """The JSON object in ``data``; raises ``too_large`` or ``bad_frame``."""
    text = _as_text(data, limit_bytes)
    try:
        values = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        _refuse(Text("reason.web.is_nested_too_deeply"))
    except ValueError as exc:
        raise RoostError("bad_frame", reason=Text("reason.common.is_not_valid_json")) from exc
    if not isinstance(values, dict):
        _refuse(Text("reason.common.is_not_an_object"))
    _check_depth(values)
    return FrameFields(values)


def _as_text(data: str | bytes | bytearray | None, limit_bytes: int) -> str:
    if data is None:
        _refuse(Text("reason.common.is_not_valid_json"))
    if len(data) > limit_bytes:
        raise RoostError("too_large", found=len(data), limit=limit_bytes)
    if isinstance(data, str):
        return data
    try:
        return bytes(data).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise RoostError("bad_frame", reason=Text("reason.web.is_not_valid_utf_8")) from exc


def _check_depth(values: Any) -> None:
    level = [values]
    for _ in range(MAX_DEPTH):
        inner = [list(item.values()) if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, (dict, list))]
        if not level:
            return
    _refuse(Text("reason.web.is_nested_too_deeply"))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse(reason: Text | str) -> NoReturn:
    raise RoostError("bad_frame", reason=reason)


TITLE_CHARS = 200
FOLDER_CHARS = 60
TEXT_CHARS = 200_000
ARGUMENT_CHARS = 100_000


class CommandResult(Struct, frozen=True):
    """``chat_id``: the chat to show ("" for the start page), ``changed_id``: a chat that has changed.

    ``done``: a catalogue key with the parameters ``done_with``, for a toast that the command ``undo`` can revert.
    ``panel``: the chat with a changed panel, as it is now; without an id if it has not begun yet.
    """

    chat_id: str
    is_new_chat: bool = False
    changed_id: str = ""
    done: str = ""
    undo: str = ""
    done_with: dict[str, str] = field(default_factory=dict)
    panel: Chat | None = None


class Command(Struct, frozen=True):
    do: str
    target: str
    chat_id: str
    fields: FrameFields


def read_command(fields: FrameFields) -> Command:
    do, _, target = fields.text("do", 100).partition(":")
    if do not in COMMANDS:
        raise RoostError("bad_frame", reason=Text("reason.web.no_command", name=repr(do[:40])))
    return Command(do, target[:ID_CHARS], fields.text("chat", ID_CHARS, ""), fields)


def address_of(result: CommandResult) -> str:
    """The URL to show after a command; it includes the undo command, so that the page can offer it."""
    url = f"/chat/{result.chat_id}" if result.chat_id else "/"
    if result.panel is not None and not result.chat_id and result.panel.preset_id:
        return f"/?preset={result.panel.preset_id}"
    return f"{url}?done={result.done.rpartition('.')[2]}&undo={result.undo}" if result.undo else url


class Commands:
    """Runs commands for one reader. ``client`` identifies the reader, for fairness; ``role`` returns the current role,
    because a session may end while its page is open."""

    def __init__(self, page: ChatContext, client: str, role: Callable[[], Role]) -> None:
        self.page = page
        self.client = client
        self.role = role

    def perform(self, command: Command) -> CommandResult:
        """Raises the typed error of a failed command; nothing is left half done. ``owner_only`` if the reader may not
        run it."""
        if self.role() < COMMAND_ROLES.get(command.do, Role.OWNER):
            raise RoostError("owner_only")
        self._check_own(command)
        result = COMMANDS[command.do](self, command)
        touched = {command.chat_id, result.chat_id, result.changed_id} - {""}
        self.page.news.publish(self.page.list_topic, *(chat_topic(chat_id) for chat_id in touched))
        return result

    def _check_own(self, command: Command) -> None:
        """A target is the id of a message, a chat or a file of the chat, or after a second colon a token."""
        self.page.store.check(command.chat_id, *command.target.split(":"))

    # turns

    def send(self, command: Command) -> CommandResult:
        text = command.fields.text("text", TEXT_CHARS)
        if not text.strip():
            raise RoostError("bad_frame", reason=Text("reason.common.is_empty"))
        count = _count(command, 1)
        if command.chat_id:
            self.page.turns.send(command.chat_id, text, self.client, count)
            return CommandResult(command.chat_id)
        chat_id = self._new_chat(command, title_of(text))
        self.page.turns.send(chat_id, text, self.client, count)
        return CommandResult(chat_id, is_new_chat=True)

    def stop(self, command: Command) -> CommandResult:
        chat_id = command.target or command.chat_id
        self.page.turns.stop(chat_id)
        return CommandResult(chat_id)

    def regenerate(self, command: Command) -> CommandResult:
        return CommandResult(self.page.turns.regenerate(command.target, self.client).chat_id)

    # answers side by side

    def several(self, command: Command) -> CommandResult:
        variants = [Variant()] * _count(command, FEWEST_ANSWERS)
        return CommandResult(self.page.turns.several(command.target, variants, self.client).chat_id)

    def compare(self, command: Command) -> CommandResult:
        """Compares the presets, models or states in the fields ``first`` and ``second``, as ``kind:value``."""
        variants = [self._variant(command.fields.text(name, MODEL_NAME_CHARS)) for name in ("first", "second")]
        if any(variant.kind != "state" for variant in variants) and self.role() < Role.LOCAL:
            raise RoostError("owner_only")  # this may swap the model
        return CommandResult(self.page.turns.several(command.target, variants, self.client).chat_id)

    def _variant(self, text: str) -> Variant:
        kind, _, value = text.partition(":")
        if kind not in VARIANTS:
            raise RoostError("bad_frame", reason=Text("reason.web.no_command", name=repr(text[:40])))
        if kind == "preset":
            return Variant(kind, value, shown_name(self.page.presets.get(value), self.page.t))
        if kind == "state" and value:
            self.page.manager.check_state(value)
        return Variant(kind, value, value or self.page.t("chat.several.no_state"))

    def stop_answer(self, command: Command) -> CommandResult:
        self.page.turns.stop_answer(command.target)
        return CommandResult(self.page.store.message(command.target).chat_id)

    def vote(self, command: Command) -> CommandResult:
        return CommandResult(self.page.turns.beside.vote(command.target).chat_id)

    def keep(self, command: Command) -> CommandResult:
        """Of answers side by side, keeps only the target (``keep``), the ticked ones (fields ``keep:ID``), or all."""
        stored = self.page.store.message(command.target)
        members = [row.id for row in self.page.turns.beside.undecided(stored)]
        kept = {"keep": [stored.id], "keep_all": members, "keep_none": []}.get(command.do)
        if kept is None:
            kept = [name for name in members if f"keep:{name}" in command.fields]
            if not kept:
                raise RoostError("bad_frame", reason=Text("reason.web.none_ticked"))
        gone = self.page.turns.decide(stored.id, kept)
        if not gone:
            return CommandResult(stored.chat_id)
        undo = f"restore_beside:{stored.parent_id}"
        return CommandResult(stored.chat_id, done="chat.done.answers_discarded", undo=undo)

    def restore_beside(self, command: Command) -> CommandResult:
        return CommandResult(self.page.turns.beside.undo(command.target))

    def fork(self, command: Command) -> CommandResult:
        """The target is ``MESSAGE:POSITION:TOKEN``."""
        message_id, *numbers = command.target.split(":")
        if len(numbers) != 2 or not all(re.fullmatch(r"\d{1,9}", number) for number in numbers):
            raise RoostError("bad_frame", reason=Text("reason.web.no_token_named"))
        return CommandResult(self.page.turns.fork(message_id, int(numbers[0]), int(numbers[1]), self.client).chat_id)

    def edit(self, command: Command) -> CommandResult:
        text = command.fields.text("text", TEXT_CHARS)
        if not text.strip():
            raise RoostError("bad_frame", reason=Text("reason.common.is_empty"))
        if self.page.store.message(command.target).message.role is Speaker.ASSISTANT:
            return CommandResult(self.page.turns.rewrite(command.target, text))
        return CommandResult(self.page.turns.edit(command.target, text, self.client).chat_id)

    def replay(self, command: Command) -> CommandResult:
        chat_id = self.page.store.message(command.target).chat_id
        self.page.turns.replays.start(command.target, self.client)
        return CommandResult(chat_id, done="chat.done.replaying")

    def continue_answer(self, command: Command) -> CommandResult:
        return CommandResult(self.page.turns.continue_answer(command.target, self.client).chat_id)

    # calls

    def approve_call(self, command: Command) -> CommandResult:
        """Uses the form's arguments; ``always``: this tool needs no further approval in this chat."""
        arguments = command.fields.text("arguments", ARGUMENT_CHARS, "") or None
        message_id, call_id = command.target, command.fields.text("call", ID_CHARS)
        self.page.turns.tools.approve(message_id, call_id, arguments, "always" in command.fields)
        return self._of_call(message_id)

    def refuse_call(self, command: Command) -> CommandResult:
        self.page.turns.tools.refuse(command.target, command.fields.text("call", ID_CHARS))
        return self._of_call(command.target)

    def give_result(self, command: Command) -> CommandResult:
        result = command.fields.text("result", TEXT_CHARS)
        self.page.turns.tools.give(command.target, command.fields.text("call", ID_CHARS), result)
        return self._of_call(command.target)

    def resume_calls(self, command: Command) -> CommandResult:
        self.page.turns.tools.resume(command.target)
        return self._of_call(command.target)

    def _of_call(self, message_id: str) -> CommandResult:
        return CommandResult(self.page.store.message(message_id).chat_id)

    # files

    def attach(self, command: Command, name: str, data: bytes) -> CommandResult:
        """Attaches a file to the next message. Creates the chat if needed, so that a reload loses nothing; until the
        first message its title is the file's name."""
        self._check_own(command)
        text = self.page.files.check(name, data)
        chat_id = command.chat_id or self._new_chat(command, title_of(display_name(name)))
        self.page.files.attach(chat_id, name, data, text)
        self.page.news.publish(self.page.list_topic, chat_topic(chat_id))
        return CommandResult(chat_id, is_new_chat=not command.chat_id)

    def toggle_attachment(self, command: Command) -> CommandResult:
        self.page.files.toggle(command.chat_id, command.target)
        return CommandResult(command.chat_id)

    def remove_attachment(self, command: Command) -> CommandResult:
        files, chat_id = self.page.files.store, command.chat_id
        name = title_of(files.get(chat_id, command.target).name)
        files.remove(chat_id, command.target)
        if self.page.store.get(chat_id).title == name:
            self.page.store.rename(chat_id, next((title_of(file.name) for file in files.pending(chat_id)), ""))
        return CommandResult(chat_id)

    # messages

    def select(self, command: Command) -> CommandResult:
        chat_id = self.page.store.message(command.target).chat_id
        self.page.store.select_version(command.target)
        return CommandResult(chat_id)

    def delete_message(self, command: Command) -> CommandResult:
        chat_id = self.page.store.message(command.target).chat_id
        self.page.turns.stop(chat_id)
        self.page.store.delete_message(command.target)
        return CommandResult(chat_id, done="chat.done.message_deleted", undo=f"restore_message:{command.target}")

    def restore_message(self, command: Command) -> CommandResult:
        self.page.store.restore_message(command.target)
        return CommandResult(self.page.store.message(command.target).chat_id)

    # chats

    def rename_chat(self, command: Command) -> CommandResult:
        title = command.fields.text("title", TITLE_CHARS).strip()
        if title:
            self.page.store.rename(command.chat_id, title)
        return CommandResult(command.chat_id)

    def delete_chat(self, command: Command) -> CommandResult:
        self.page.turns.delete(command.target)
        shown = "" if command.chat_id == command.target else command.chat_id
        return CommandResult(
            shown, changed_id=command.target, done="chat.done.chat_deleted", undo=f"restore_chat:{command.target}"
        )

    def read_chat(self, command: Command) -> CommandResult:
        """Prefills an imported chat now, so that its next answer starts at once."""
        self.page.turns.read(command.target, self.client)
        return CommandResult(command.target)

    def restore_chat(self, command: Command) -> CommandResult:
        self.page.store.restore(command.target)
        return CommandResult(command.target)

    def duplicate_chat(self, command: Command) -> CommandResult:
        page = self.page
        title = page.t("chat.list.copy_of", title=page.store.get(command.target).title)[:TITLE_CHARS]
        made = ChatFiles(page.manager, page.store, page.presets).duplicate(command.target, title)
        return CommandResult(made.id)

    def pin_chat(self, command: Command) -> CommandResult:
        return self._placed(command, is_pinned=command.do == "pin_chat")

    def move_chat(self, command: Command) -> CommandResult:
        return self._placed(command, folder=command.fields.text("folder", FOLDER_CHARS))

    def archive_chat(self, command: Command) -> CommandResult:
        undo = f"unarchive_chat:{command.target}"
        return replace(self._placed(command, is_archived=True), done="chat.done.chat_archived", undo=undo)

    def unarchive_chat(self, command: Command) -> CommandResult:
        return self._placed(command, is_archived=False)

    def _placed(self, command: Command, **place: Any) -> CommandResult:
        self.page.store.place([command.target], **place)
        return CommandResult(command.chat_id, changed_id=command.target)

    def options(self, command: Command) -> CommandResult:
        return self._changed(chat_with(self.page, self._chat(command), command.fields))

    # presets

    def save_preset(self, command: Command) -> CommandResult:
        """Makes a new preset from the panel's values; the chat uses it from then on without own settings."""
        name = command.fields.text("name", NAME_CHARS)
        chat = chat_with(self.page, self._chat(command), command.fields)
        made = as_preset(self.page, chat, name)
        allowed = ChatTools(approved=chat.tools.approved)
        result = self._changed(replace(NEW_CHAT, id=chat.id, preset_id=made.id, tools=allowed))
        return replace(result, done="chat.done.preset_saved", done_with={"name": made.name})

    def load_preset(self, command: Command) -> CommandResult:
        """Makes it the active preset and loads its model."""
        self.page.presets.apply(command.target)
        return CommandResult(command.chat_id)

    def _changed(self, chat: Chat) -> CommandResult:
        if chat.id:
            save_options(self.page, chat)
        return CommandResult(chat.id, panel=chat)

    def _chat(self, command: Command) -> Chat:
        return self.page.store.get(command.chat_id) if command.chat_id else NEW_CHAT

    def _new_chat(self, command: Command, title: str) -> str:
        """Creates a chat with the panel's current values: its form fields are sent with the first message."""
        chat = chat_with(self.page, NEW_CHAT, command.fields)
        begun = self.page.store.begin(replace(chat, title=title))
        persona = find_persona(self.page, begun.persona_id)
        if persona is not None and (greeting := str(persona.body.get("greeting", "")).strip()):
            self.page.store.add_message(begun.id, None, Message(Speaker.ASSISTANT, greeting))
        return begun.id


def _count(command: Command, least: int) -> int:
    return int(command.fields.number("answers", least, MAX_ANSWERS, least))


COMMANDS: dict[str, Callable[[Commands, Command], CommandResult]] = {
    "send": Commands.send,
    "stop": Commands.stop,
    "regenerate": Commands.regenerate,
    "fork": Commands.fork,
    "several": Commands.several,
    "compare": Commands.compare,
    "stop_answer": Commands.stop_answer,
    "vote": Commands.vote,
    "keep": Commands.keep,
    "keep_ticked": Commands.keep,
    "keep_all": Commands.keep,
    "keep_none": Commands.keep,
    "restore_beside": Commands.restore_beside,
    "edit": Commands.edit,
    "continue": Commands.continue_answer,
    "replay": Commands.replay,
    "approve_call": Commands.approve_call,
    "refuse_call": Commands.refuse_call,
    "give_result": Commands.give_result,
    "resume_calls": Commands.resume_calls,
    "toggle_attachment": Commands.toggle_attachment,
    "remove_attachment": Commands.remove_attachment,
    "select": Commands.select,
    "delete_message": Commands.delete_message,
    "restore_message": Commands.restore_message,
    "rename_chat": Commands.rename_chat,
    "delete_chat": Commands.delete_chat,
    "restore_chat": Commands.restore_chat,
    "duplicate_chat": Commands.duplicate_chat,
    "pin_chat": Commands.pin_chat,
    "unpin_chat": Commands.pin_chat,
    "move_chat": Commands.move_chat,
    "archive_chat": Commands.archive_chat,
    "unarchive_chat": Commands.unarchive_chat,
    "read_chat": Commands.read_chat,
    "options": Commands.options,
    "save_preset": Commands.save_preset,
    "load_preset": Commands.load_preset,
}


# the socket

MAX_SHOWN = 10_000
INTERNAL_ERROR = 1011
GOING_AWAY = 1001
_toast_numbers = itertools.count(1)


def answer_handshake() -> Any:
    """The view for ``/ws/chat``."""
    return _view()()


@functools.cache
def _view() -> Callable[[], Any]:
    """flask-sock's view, taken from it directly, because new URLs cannot be added to the application at this time."""
    from flask_sock import Sock  # imports asyncio, which a start does not need

    made: list[Callable[[], Any]] = []
    Sock().route("/ws/chat", bp=SimpleNamespace(route=lambda *_, **__: made.append))(chat_socket)
    return made[0]


def chat_socket(ws: Any) -> None:
    from simple_websocket import ConnectionClosed

    viewer = Viewer(this_app(), current_locale(), ws.send, g.person)
    role, session = current_role(), g.get("session")
    context = chat_context()
    context.manager.prepare()
    is_over = threading.Event()  # the session behind the role has ended
    commands = Commands(context, asker(), lambda: Role.STRANGER if is_over.is_set() else role)
    page = PageSocket(viewer, commands, ws.close, ConnectionClosed)
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
    """Handles incoming frames of one page's socket. ``gone`` is raised when the page has left."""

    def __init__(self, viewer: Viewer, commands: Commands, close: Callable[..., None], gone: type[Exception]) -> None:
        self.viewer = viewer
        self.commands = commands
        self.close = close
        self.gone = gone

    def show(self) -> None:
        """Runs until the page is gone. After an internal error it closes the socket so that the page reconnects."""
        try:
            self.viewer.run()
        except self.gone:
            pass
        except Exception:
            log.exception("showing a chat page failed")
            with contextlib.suppress(self.gone):
                self.close(INTERNAL_ERROR)

    def take(self, data: Any) -> None:
        """Handles one frame. Any error is shown on the page, and the loop continues."""
        sent_as = ""
        try:
            fields = parse_frame(data)
            sent_as = fields.text("sent_as", ID_CHARS, "")
            if fields.values.get("do") == "open":
                self._open(fields)
            else:
                self._perform(fields, sent_as)
        except self.gone:
            raise
        except RoostError as exc:
            self._refuse(exc, sent_as)
        except Exception as exc:
            log.exception("a command of the chat page failed")
            self._refuse(as_roost_error(exc), sent_as)

    def _open(self, fields: FrameFields) -> None:
        rows = fields.values.get("shown", [])
        if not isinstance(rows, list) or len(rows) > MAX_SHOWN:
            raise RoostError("bad_frame", reason=Text("reason.web.shown_not_a_list"))
        shown = [
            Shown(str(row[0])[:ID_CHARS], str(row[1])[:ID_CHARS])
            for row in rows
            if isinstance(row, list) and len(row) == 2
        ]
        chat_id = fields.text("chat", ID_CHARS, "")
        draft = NEW_CHAT if chat_id else self._draft(fields)
        panel = fields.text("panel", ID_CHARS, "")
        self.commands.page.store.check(chat_id)
        self.viewer.open(chat_id, shown, fields.flag("fresh"), panel, draft)

    def _draft(self, fields: FrameFields) -> Chat:
        """The chat that has not begun, from its panel; invalid values are reported when they are used."""
        try:
            return chat_with(self.commands.page, NEW_CHAT, fields)
        except RoostError:
            return NEW_CHAT

    def _perform(self, fields: FrameFields, sent_as: str) -> None:
        command = read_command(fields)
        with self.viewer.held():  # otherwise its notification would render the panel again while a person uses it
            result = self.commands.perform(command)
            if result.panel is not None:
                self.viewer.take_panel(result.panel)
            if result.is_new_chat:  # before its notification can render list and panel without it
                self.viewer.frame(type="chat", id=result.chat_id, url=f"/chat/{result.chat_id}")
                self.viewer.open(result.chat_id, [])
        if command.do in ("delete_chat", "restore_chat", "duplicate_chat") and result.chat_id != self.viewer.chat_id:
            self.viewer.frame(type="go", url=address_of(result))
        elif result.done:
            text = self.viewer.page.t(result.done, **result.done_with)
            self.viewer.toast(Toast(f"s{next(_toast_numbers)}", text, undo=result.undo))
        self.viewer.frame(type="accepted", sent_as=sent_as, do=command.do)

    def _refuse(self, error: RoostError, sent_as: str) -> None:
        self.viewer.frame(type="refused", sent_as=sent_as)
        self.viewer.toast(self.viewer.page.error_toast(error, id=f"s{next(_toast_numbers)}"))

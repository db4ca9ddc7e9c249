"""`roost chat`: chat with a model in the terminal. Chats are stored in the data folder and also appear on the page."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from msgspec.structs import replace

from webapp.chat.messages import ContentDelta, Failed, Finished, ReasoningDelta, Role, Waiting
from webapp.cli.options import (
    add_model_options,
    add_sampling_options,
    in_one_line,
    in_terminal,
    sampling_given,
    settings_from,
    stored,
)
from webapp.cli.parser import columns_of
from webapp.errors import ChatNotFound, RoostError, StorageError, error_from_dict
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services.chat.turn_writer import LiveTurn
from webapp.services.chat.turns import ChatTurns
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database
from webapp.storage.records import Chat, ChatTools

STOP_WAIT_S = 6.0
LISTED, MAX_SEARCHED = 50, 100_000
ID_CHARS = 8
SHOWN_MESSAGES = 4
"""The last messages of a resumed chat, printed as a reminder."""
NEW_CHAT = Chat("", tools=ChatTools(is_own=True))
"""Without tools: the terminal cannot ask to approve a call."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_sampling_options(parser)
    parser.add_argument("--system", help=t("cli.chat.system"))
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--resume", nargs="?", const="", metavar="CHAT", help=t("cli.chat.resume"))
    which.add_argument("--list", action="store_true", help=t("cli.chat.list"))
    which.add_argument("--temporary", action="store_true", help=t("cli.chat.temporary"))


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    if args.list:
        return _list(settings)
    sampling = sampling_given(args)
    with contextlib.ExitStack() as closing:
        manager = closing.enter_context(contextlib.closing(ModelManager(settings)))
        turns, chats = _turns(manager, settings, closing, args)
        manager.model_info()  # reports a wrong model name before the first message
        new = replace(NEW_CHAT, system_prompt=args.system or "", sampling=sampling)
        chat = new
        if args.resume is not None:
            chat = chosen_chat(chats, args.resume)
            chats.set_options(chat.id, sampling={**chat.sampling, **sampling})
            if args.system is not None:
                chats.set_system_prompt(chat.id, args.system)
        _converse(turns, chats, chat, new)
    return 0


def _turns(
    manager: ModelManager, settings: Settings, closing: contextlib.ExitStack, args: argparse.Namespace
) -> tuple[ChatTurns, ChatStore]:
    """Uses the data folder, or a temporary one while another program uses it. Raises ``data_folder_in_use`` if a stored
    chat was to be resumed."""
    if not args.temporary:
        try:
            return _open(manager, settings, closing, settings.database_path)
        except StorageError as error:
            if error.code != "data_folder_in_use" or args.resume is not None:
                raise
        print(t("cli.chat.not_kept"), file=sys.stderr)
    folder = closing.enter_context(tempfile.TemporaryDirectory(prefix="roost-chat-"))
    return _open(manager, settings, closing, Path(folder) / "chat.db")


def _open(
    manager: ModelManager, settings: Settings, closing: contextlib.ExitStack, path: Path
) -> tuple[ChatTurns, ChatStore]:
    database = closing.enter_context(contextlib.closing(Database(path)))
    turns = closing.enter_context(contextlib.closing(ChatTurns(manager, database, settings)))
    return turns, ChatStore(database)


def _list(settings: Settings) -> int:
    """Prints the chats of the data folder, last used first."""
    with stored(settings, may_create=True) as database:
        for chat in ChatStore(database).list(limit=LISTED):
            used = time.strftime("%Y-%m-%d %H:%M", time.localtime(chat.updated_at))
            print(f"{chat.id[:ID_CHARS]}  {used}  {in_terminal(chat.title)}")
    return 0


def chosen_chat(chats: ChatStore, wanted: str) -> Chat:
    """The last used chat whose id starts with ``wanted`` or whose title contains it; "" matches any. Raises
    ChatNotFound."""
    words = wanted.casefold()
    for chat in chats.list(limit=MAX_SEARCHED):
        if chat.id.startswith(words) or words in chat.title.casefold():
            return chats.get(chat.id)
    raise ChatNotFound()


def _converse(turns: ChatTurns, chats: ChatStore, chat: Chat, new: Chat) -> None:
    """Continues ``chat``; `/new` starts another one like ``new``. A chat without an id is created at its first
    message."""
    print(t("cli.chat.help"), file=sys.stderr)
    if chat.id:
        print(t("cli.chat.resumed", title=in_terminal(chat.title)), file=sys.stderr)
        for row in chats.branch(chat.id)[-SHOWN_MESSAGES:]:
            who = "> " if row.message.role is Role.USER else ""
            print(f"{who}{row.message.content.strip()}\n", file=sys.stderr)
    while (text := _read_line()) is not None:
        if text in ("/quit", "/exit"):
            return
        if text == "/new":
            chat = new
            print(t("cli.chat.new"), file=sys.stderr)
        elif text:
            if not chat.id:
                chat = chats.create(system_prompt=new.system_prompt, sampling=new.sampling, tools=new.tools)
            _answer(turns, chat.id, text)


def _read_line() -> str | None:
    try:
        return input("> ").strip()
    except EOFError:
        print(file=sys.stderr)
        return None


def _answer(turns: ChatTurns, chat_id: str, text: str) -> None:
    try:
        turn = turns.send(chat_id, text)
    except RoostError as error:
        print(in_one_line(error), file=sys.stderr)
        return
    try:
        _print_turn(turn)
    except KeyboardInterrupt:
        turns.stop(chat_id)
        turn.wait_finished(STOP_WAIT_S)
        print("\n" + t("cli.chat.stopped"), file=sys.stderr)


def _print_turn(turn: LiveTurn) -> None:
    position, thinking, loading = 0, False, False
    shows_loading = sys.stderr.isatty()  # in a log file, every update would be a line
    while True:
        events, position = turn.events_after(position, timeout_s=0.5)
        for event in events:
            is_loading = shows_loading and isinstance(event, Waiting) and event.phase == "loading"
            if loading and not is_loading:
                print(_clear_loading(), end="", file=sys.stderr, flush=True)
            loading = is_loading
            if isinstance(event, Waiting):
                if is_loading and event.total:
                    print("\r" + _loading(100 * event.done // event.total), end="", file=sys.stderr, flush=True)
            elif isinstance(event, ReasoningDelta):
                print(("" if thinking else t("cli.chat.thinks")) + event.text, end="", flush=True)
                thinking = True
            elif isinstance(event, ContentDelta):
                print(("\n\n" if thinking else "") + event.text, end="", flush=True)
                thinking = False
            elif isinstance(event, Failed):
                print(f"\n{in_one_line(error_from_dict(event.error))}", file=sys.stderr)
                return
            elif isinstance(event, Finished):
                print()
                return


def _loading(percent: int) -> str:
    return t("cli.chat.loading", percent=percent)


def _clear_loading() -> str:
    """Clears the line and moves to its start."""
    return "\r" + " " * columns_of(_loading(100)) + "\r"

"""`roost chat`: talk to a model in the terminal. Nothing is kept afterwards."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from webapp.chat.events import ContentDelta, Failed, Finished, ReasoningDelta, Waiting
from webapp.cli.options import SAMPLING_OPTIONS, add_model_options, add_sampling_options, in_one_line, settings_from
from webapp.cli.parser import columns_of
from webapp.errors import RoostError, error_from_dict
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services.chat.turn_writer import LiveTurn
from webapp.services.chat.turns import ChatTurns
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database

STOP_WAIT_S = 6.0


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser("chat", help=t("cli.chat.about"))
    add_model_options(parser)
    add_sampling_options(parser)
    parser.add_argument("--system", default="", help=t("cli.chat.system"))
    return parser


def run(args: argparse.Namespace) -> int:
    settings = settings_from(args)
    sampling = {name: getattr(args, name) for name in SAMPLING_OPTIONS if getattr(args, name) is not None}
    manager = ModelManager(settings)
    with tempfile.TemporaryDirectory(prefix="roost-chat-") as folder:
        database = Database(Path(folder) / "chat.db")
        turns = ChatTurns(manager, database, settings)
        try:
            manager.model_info()  # a wrong model name ends here, not at the first message
            _converse(turns, ChatStore(database), args.system, sampling)
        finally:
            turns.close()
            manager.close()
            database.close()
    return 0


def _converse(turns: ChatTurns, chats: ChatStore, system: str, sampling: dict[str, Any]) -> None:
    chat = chats.create(system_prompt=system, sampling=sampling)
    print(t("cli.chat.help"), file=sys.stderr)
    while (text := _read_line()) is not None:
        if text in ("/quit", "/exit"):
            return
        if text == "/new":
            chat = chats.create(system_prompt=system, sampling=sampling)
            print(t("cli.chat.new"), file=sys.stderr)
        elif text:
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
    shows_loading = sys.stderr.isatty()  # a line that is written over would fill a log
    while True:
        events, position = turn.events_after(position, timeout_s=0.5)
        for event in events:
            is_loading = shows_loading and isinstance(event, Waiting) and event.phase == "loading"
            if loading and not is_loading:
                print(_loading_gone(), end="", file=sys.stderr, flush=True)
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


def _loading_gone() -> str:
    """Writes over the line and goes back to its beginning."""
    return "\r" + " " * columns_of(_loading(100)) + "\r"

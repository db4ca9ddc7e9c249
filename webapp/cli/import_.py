"""`roost import`: imports chats from files of Roost and other programs."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from webapp.cli.options import add_settings, in_one_line, in_terminal, settings_from, stored
from webapp.errors import FileMissing, RoostError
from webapp.i18n import system_reason
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services.chat.chat_file import ChatFiles
from webapp.services.chat.imports import MAX_BYTES
from webapp.services.presets.presets import Presets
from webapp.storage.chats import ChatStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help=t("cli.import.files"))
    add_settings(parser, ("data_dir", "models_dir", "model", "strategy"))


def run(args: argparse.Namespace) -> int:
    """Imports each file on its own. Returns 2 if a file could not be read."""
    code = 0
    with chat_files(args) as (files, store):
        for name in args.files:
            try:
                opened = files.open(Path(name).name, read_file(name))
            except RoostError as exc:
                print(f"roost: {in_one_line(exc)}", file=sys.stderr)
                code = 2
                continue
            for chat_id in opened.chat_ids[:20]:
                print(f"{chat_id}  {in_terminal(store.get(chat_id).title) or t('chat.list.untitled')}")
            print(t("chat.import.came", count=len(opened.chat_ids), messages=opened.messages))
            if opened.left_out:
                kinds = (t(f"chat.import.left_out.{kind}", count=n) for kind, n in sorted(opened.left_out.items()))
                print(t("chat.import.left", kinds=", ".join(kinds)))
            if opened.states:
                print(t("chat.import.goes_on"))
            elif opened.has_states:
                print(t("chat.import.other_model", model=in_terminal(opened.made_by)))
    return code


def read_file(name: str) -> bytes:
    """Reads at most one byte more than the limit. Raises FileMissing."""
    try:
        with open(name, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as exc:
        raise FileMissing(path=name) from exc
    except OSError as exc:
        raise RoostError("chat_import_invalid", name=name, reason=system_reason(exc)) from exc


@contextlib.contextmanager
def chat_files(args: argparse.Namespace) -> Iterator[tuple[ChatFiles, ChatStore]]:
    """Uses the data folder, as :func:`stored` does. A running server finds the imported states after the next start of
    its engine."""
    settings = settings_from(args)
    with stored(settings, may_create=True) as database, contextlib.closing(ModelManager(settings)) as manager:
        store = ChatStore(database)
        yield ChatFiles(manager, store, Presets(manager, database, settings), may_choose=True), store

"""`roost import` and `roost export`: chats from files of Roost and other programs, and to files."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from webapp.cli.chat import chosen_chat
from webapp.cli.options import add_settings, in_one_line, in_terminal, settings_from, stored
from webapp.errors import FileMissing, RoostError
from webapp.i18n import size_text, system_reason
from webapp.i18n.terminal import t
from webapp.manager.manager import ModelManager
from webapp.services.chat.chat_file import ENDING, ChatFiles, chat_document, chat_markdown
from webapp.services.chat.imports import MAX_BYTES
from webapp.services.presets.presets import Presets
from webapp.storage.chats import ChatStore


def add_arguments_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help=t("cli.import.files"))
    add_settings(parser, ("data_dir", "models_dir", "model", "strategy"))


def run_import(args: argparse.Namespace) -> int:
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


def add_arguments_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("chat", help=t("cli.export.chat"))
    parser.add_argument("file", nargs="?", default="", help=t("cli.export.file"))
    add_settings(parser, ("data_dir", "models_dir", "model", "strategy"))


def run_export(args: argparse.Namespace) -> int:
    """The ending chooses the format: .md and .json are for reading; any other ending is a chat file."""
    with chat_files(args) as (files, store):
        chat = chosen_chat(store, args.chat)
        name = args.file or (re.sub(r"[^\w\- ]", "", chat.title).strip() or "chat") + ENDING
        ending = Path(name).suffix.lower()
        if ending == ".md":
            pieces = [memoryview(chat_markdown(store, chat.id).encode("utf-8", "replace"))]
        elif ending == ".json":
            text = json.dumps(chat_document(store, chat.id), ensure_ascii=False, indent=1)
            pieces = [memoryview(text.encode("utf-8", "replace"))]
        else:
            pieces = files.save(chat.id)
        if name == "-":
            sys.stdout.buffer.writelines(pieces)
            return 0
        with open(name, "wb") as file:
            file.writelines(pieces)
        print(t("cli.export.saved", file=name, size=size_text(sum(piece.nbytes for piece in pieces))))
    return 0


@contextlib.contextmanager
def chat_files(args: argparse.Namespace) -> Iterator[tuple[ChatFiles, ChatStore]]:
    """Uses the data folder, as :func:`stored` does. A running server finds the imported states after the next start of
    its engine."""
    settings = settings_from(args)
    with stored(settings, may_create=True) as database, contextlib.closing(ModelManager(settings)) as manager:
        store = ChatStore(database)
        yield ChatFiles(manager, store, Presets(manager, database, settings), may_choose=True), store

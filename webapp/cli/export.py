"""`roost export`: saves a chat to a file, as a backup or to continue it elsewhere."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from webapp.cli.chat import chosen_chat
from webapp.cli.import_ import chat_files
from webapp.cli.options import add_settings
from webapp.i18n import size_text
from webapp.i18n.terminal import t
from webapp.services.chat.chat_file import ENDING, chat_document, chat_markdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("chat", help=t("cli.export.chat"))
    parser.add_argument("file", nargs="?", default="", help=t("cli.export.file"))
    add_settings(parser, ("data_dir", "models_dir", "model", "strategy"))


def run(args: argparse.Namespace) -> int:
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

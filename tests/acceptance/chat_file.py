"""A chat as a file: its size, seconds to save and open it, and how many tokens the first answer on the other machine

    python -m tests.acceptance.chat_file [--messages 5000] [--strategy S]

Two data folders and two models folders represent two machines, each with its own engine process; the model is the
starter, with another name on the second. The messages are generated, except the last ones, which the model answers, so
that there is a state to move; the whole chat is prefilled once for it. Prints the figures as one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from msgspec.structs import replace

from tests.acceptance.never_read_twice import PATIENCE_S, text_of, timed
from tests.acceptance.served_roost import STARTER
from webapp.chat.messages import Message, Role, ThinkMode
from webapp.manager.manager import ModelManager
from webapp.services.chat.chat_file import ChatFiles
from webapp.services.chat.turns import ChatTurns
from webapp.services.presets.presets import Presets
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database
from webapp.storage.records import StoredMessage


class Place:
    """A machine: its folders and services."""

    def __init__(self, folder: Path, model_name: str, strategy: str) -> None:
        (folder / "models").mkdir(parents=True)
        shutil.copy(STARTER, folder / "models" / model_name)
        settings = Settings(
            data_dir=folder,
            models_dir=folder / "models",
            model=model_name,
            strategy=strategy,
            max_prompt_tokens=1 << 22,
        )
        self.manager = ModelManager(settings)
        self.database = Database(folder / "roost.db")
        presets = Presets(self.manager, self.database, settings)
        self.turns = ChatTurns(self.manager, self.database, settings, presets)
        self.store = ChatStore(self.database)
        self.files = ChatFiles(self.manager, self.store, presets)
        self.manager.load(model=model_name, strategy=strategy)
        self.manager.wait_ready(PATIENCE_S)

    def close(self) -> None:
        self.turns.close()
        self.manager.close()
        self.database.close()


def filled(place: Place, messages: int) -> str:
    """A chat of so many messages, the last two of the model's own time."""
    rng, chat = random.Random(7), place.store.create(think_mode=ThinkMode.NONE, sampling={"max_tokens": 40, "seed": 1})
    rows: list[StoredMessage] = []
    for number in range(messages - 2):
        role = (Role.USER, Role.ASSISTANT)[number % 2]
        parent = rows[-1].id if rows else None
        rows.append(StoredMessage(f"{chat.id}-{number}", "", parent, Message(role, text_of(5, rng))))
    with place.database.transaction() as connection:
        connection.execute("DELETE FROM chats WHERE id = ?", (chat.id,))
    place.store.add_chat(replace(chat, head_id=rows[-1].id), rows)
    return chat.id


def measure(folder: Path, messages: int, strategy: str) -> dict[str, Any]:
    here = Place(folder / "here", STARTER.name, strategy)
    there = Place(folder / "there", "renamed.safetensors", strategy)
    try:
        chat_id = filled(here, messages)
        first = timed(lambda: here.turns.send(chat_id, "And then?"))
        begun = time.perf_counter()
        pieces = here.files.save(chat_id)
        saved_s = time.perf_counter() - begun
        path = folder / "chat.rwkvchat"
        with path.open("wb") as file:
            file.writelines(pieces)
        begun = time.perf_counter()
        opened = there.files.open(path.name, path.read_bytes())
        opened_s = time.perf_counter() - begun
        next_turn = timed(lambda: there.turns.send(opened.chat_ids[0], "And then?"))
        return {
            "messages": opened.messages,
            "prompt_tokens": first["prompt"],
            "read_whole_ms": first["first_ms"],
            "file_bytes": path.stat().st_size,
            "save_s": round(saved_s, 3),
            "open_s": round(opened_s, 3),
            "states": opened.states,
            "next_turn_elsewhere": {name: next_turn[name] for name in ("read", "again", "first_ms")},
            "strategy": here.manager.status().strategy,
            "load_average": round(psutil.getloadavg()[0], 1),
        }
    finally:
        here.close()
        there.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--strategy", default="auto")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="roost-chat-file-"))
    try:
        print(json.dumps(measure(folder, args.messages, args.strategy)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

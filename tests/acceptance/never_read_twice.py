"""How much a chat prefills again, and the time to the next answer's first words: warm, after a restart, after another
model.

    python -m tests.acceptance.never_read_twice [--parked 1000] [--long-tokens 26000] [--walks 0] [--only-responses]
    python -m tests.acceptance.never_read_twice --model FILE --only-messages
    python -m tests.acceptance.never_read_twice --soak 10

The turns are those of the page, with a separate engine process, which a restart ends; times are from the request to the
first words of the answer, with a loaded model. `full` is the same answer without stored states.

``--walks N``: N random sequences of edits, branches, undone messages, stops and restarts, each answer compared with one
generated from the start (on the fake backend). ``--soak N``: for N minutes, 50 chats ask and regenerate at once, with
disk space for the states of a few; memory and disk every ten seconds. Prints one line per measurement and, as the last
line, one JSON document.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from flask import Flask, g

from tests.acceptance.served_roost import STARTER
from tests.engine.test_snapshot_store import walk
from tests.weights.make_checkpoints import write_checkpoint
from webapp.chat.messages import ContentDelta, ReasoningDelta, ThinkMode
from webapp.engine.snapshot_store import folder_use
from webapp.manager.manager import ModelManager
from webapp.services.chat.turn_writer import LiveTurn
from webapp.services.chat.turns import ChatTurns
from webapp.services.generation.completions import Completions
from webapp.services.generation.request import AnswerRequest, TextPrompt
from webapp.services.presets.presets import Presets
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.storage.database import Database
from webapp.storage.people import People
from webapp.web import error_answers
from webapp.web.api.calls import install

WORDS = ("heron", "river", "stone", "light", "morning", "water", "boat", "bridge", "garden", "winter", "song", "letter")
OTHER = "other.safetensors"
PATIENCE_S = 300.0


class Roost:
    """The services of a server with one data folder, without its sockets."""

    def __init__(self, folder: Path, strategy: str, model: str = STARTER.name, **settings: Any) -> None:
        self.settings = Settings(
            data_dir=folder / "data", models_dir=folder / "models", model=model, strategy=strategy, **settings
        )
        self.strategy = strategy
        self._open()

    def _open(self) -> None:
        self.manager = ModelManager(self.settings)
        self.database = Database(self.settings.data_dir / "roost.db")
        self.presets = Presets(self.manager, self.database, self.settings)
        self.turns = ChatTurns(self.manager, self.database, self.settings, self.presets)
        self.store = ChatStore(self.database)
        self.load(self.settings.model, self.strategy)

    def load(self, model: str, strategy: str) -> None:
        self.manager.load(model=model, strategy=strategy)
        status = self.manager.wait_ready(PATIENCE_S)
        assert status.phase == "ready" and status.model == model, status

    def close(self) -> None:
        self.turns.close()
        self.manager.close()
        self.database.close()

    def restart(self) -> None:
        self.close()
        self._open()

    def swap_and_back(self) -> None:
        self.load(OTHER, "auto")
        self.load(self.settings.model, self.strategy)

    def forget(self) -> None:
        """A restart without stored states."""
        self.close()
        shutil.rmtree(self.settings.snapshot_dir, ignore_errors=True)
        self._open()

    def engine_rss(self) -> int:
        children = psutil.Process().children(recursive=True)
        return max((child.memory_info().rss for child in children), default=0)

    def chat(self, max_tokens: int) -> str:
        sampling = {"max_tokens": max_tokens, "temperature": 1.0, "seed": 1}
        return self.store.create(sampling=sampling, think_mode=ThinkMode.NONE).id


def timed(begin: Callable[[], LiveTurn]) -> dict[str, Any]:
    """The answer's figures, with ``first_ms``."""
    begun, position, first_ms = time.perf_counter(), 0, 0.0
    live = begin()
    while not live.is_finished or live.event_count > position:
        events, position = live.events_after(position, 1.0)
        if not first_ms and any(isinstance(event, (ContentDelta, ReasoningDelta)) for event in events):
            first_ms = 1000 * (time.perf_counter() - begun)
        last = events[-1] if events else None
    assert live.failure is None, live.failure
    stats = last.stats
    return {
        "first_ms": round(first_ms, 1),
        "prompt": stats["prompt_tokens"],
        "read": stats["prefilled_tokens"],
        "again": stats["read_again"],
        "message_id": live.message_id,
    }


def text_of(words: int, rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=words)).capitalize() + "."


def shown(name: str, found: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in found.items() if key != "message_id"}
    print(name, found, flush=True)
    return found


def eighty_messages(roost: Roost) -> dict[str, Any]:
    rng = random.Random(1)
    chat_id = roost.chat(max_tokens=60)
    for _ in range(40):
        last = timed(lambda: roost.turns.send(chat_id, text_of(150, rng)))
    branch = roost.store.branch(chat_id)
    assert len(branch) == 80
    report: dict[str, Any] = {"messages": 80, "prompt_tokens": last["prompt"]}
    tip, middle = branch[-1].id, branch[40].id
    ways: dict[str, Callable[[], LiveTurn]] = {
        "regenerate": lambda: roost.turns.regenerate(tip),
        "edit message 41": lambda: roost.turns.edit(middle, text_of(20, rng)),
        "branch at message 20": lambda: roost.turns.regenerate(branch[19].id),
        "undo": lambda: _undo(roost, chat_id, tip, rng),
    }

    def measure(before: Callable[[], None]) -> dict[str, Any]:
        found = {}
        for name, way in ways.items():
            before()
            found[name] = shown(name, timed(way))
        return found

    for name, before in (
        ("full", roost.forget),
        ("warm", lambda: None),
        ("restart", roost.restart),
        ("swap and back", roost.swap_and_back),
    ):
        print(f"-- {name}", flush=True)
        if name == "warm":  # loaded again after the full prefill
            timed(lambda: roost.turns.regenerate(tip))
            for place in (19, 41):
                timed(partial(roost.turns.regenerate, branch[place].id))
            timed(lambda: _undo(roost, chat_id, tip, rng))
        report[name] = measure(before)
    return report


def _undo(roost: Roost, chat_id: str, tip: str, rng: random.Random) -> LiveTurn:
    """Undoes the last exchange of the chat and asks something else."""
    question = roost.store.message(tip).parent_id
    assert question is not None
    roost.store.select_version(tip)
    roost.store.delete_message(question)
    live = roost.turns.send(chat_id, text_of(20, rng))
    roost.store.restore_message(question)
    return live


def long_chat(roost: Roost, tokens: int) -> dict[str, Any]:
    rng = random.Random(2)
    chat_id = roost.chat(max_tokens=40)
    words = tokens * 9 // 10
    first = timed(lambda: roost.turns.send(chat_id, text_of(words, rng)))
    report = {"full": shown("long chat, read whole", first)}
    roost.restart()
    again = timed(lambda: roost.turns.regenerate(first["message_id"]))
    report["regenerate after a restart"] = shown("regenerate after a restart", again)
    roost.restart()
    report["go on after a restart"] = shown(
        "go on after a restart", timed(lambda: roost.turns.send(chat_id, "And then?"))
    )
    return report


def parked_chats(roost: Roost, count: int) -> dict[str, Any]:
    rng = random.Random(3)
    texts = [text_of(60, rng) for _ in range(count)]
    before = folder_use(roost.settings.snapshot_dir)

    def park(text: str) -> str:
        chat_id = roost.chat(max_tokens=16)
        timed(partial(roost.turns.send, chat_id, text))
        return chat_id

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(park, texts))
    roost.restart()
    files, used = (after - then for after, then in zip(folder_use(roost.settings.snapshot_dir), before, strict=True))
    report = {
        "chats": count,
        "files_a_chat": round(files / count, 2),
        "disk_bytes_a_chat": used // count,
        "web_rss_mb": psutil.Process().memory_info().rss >> 20,
        "engine_rss_mb": roost.engine_rss() >> 20,
    }
    firsts, again = [], 0
    for chat_id in rng.sample(ids, min(200, count)):
        found = timed(partial(roost.turns.send, chat_id, "And then?"))
        firsts.append(found["first_ms"])
        again += found["again"]
    firsts.sort()
    report |= {
        "opened": len(firsts),
        "read_again": again,
        "p50_ms": statistics.median(firsts),
        "p99_ms": firsts[int(0.99 * (len(firsts) - 1))],
        "engine_rss_after_mb": roost.engine_rss() >> 20,
    }
    return shown("parked chats", report)


def many_answers(roost: Roost, answers: int, tokens: int) -> dict[str, Any]:
    rng = random.Random(4)
    prompt = TextPrompt(token_ids=tuple(rng.choices(range(300, 2000), k=tokens)))
    completions = Completions(roost.manager, roost.presets)

    def run(choices: int) -> tuple[int, float, int]:
        before, begun = roost.manager.counters(), time.perf_counter()
        order = AnswerRequest((prompt,), {"max_tokens": 64, "temperature": 1.0}, choices=choices)
        for _ in completions.start(order).events(1.0):
            pass
        after = roost.manager.counters()
        read = after["prefilled_tokens_total"] - before["prefilled_tokens_total"]
        return read, time.perf_counter() - begun, after["decoded_tokens_total"] - before["decoded_tokens_total"]

    rss = roost.engine_rss()
    read, seconds, written = run(answers)
    alone = run(1)
    return shown(
        "answers side by side",
        {
            "answers": answers,
            "prompt_tokens": tokens,
            "read": read,
            "tokens_per_s": round(written / seconds),
            "alone_tokens_per_s": round(alone[2] / alone[1]),
            "engine_grew_mb": (roost.engine_rss() - rss) >> 20,
        },
    )


def fifty_responses(roost: Roost, turns: int = 50) -> dict[str, Any]:
    """A conversation of ``/v1/responses`` by ``previous_response_id``, with a restart in the middle."""
    rng, last, read, asked = random.Random(5), None, [], []
    for turn in range(turns):
        if turn == turns // 2:
            roost.restart()
        app = create_app_over(roost)
        before = roost.manager.counters()["prefilled_tokens_total"]
        body = {"input": text_of(20, rng), "previous_response_id": last, "max_output_tokens": 40, "seed": turn}
        answer = app.test_client().post("/v1/responses", json=body).get_json()
        last = answer["id"]
        read.append(roost.manager.counters()["prefilled_tokens_total"] - before)
        asked.append(answer["usage"]["input_tokens"])
    report = {"turns": turns, "prompt_tokens": asked, "read": read, "restart_before_turn": turns // 2 + 1}
    return shown("responses", report)


SOAK_QUOTA_BYTES = 64 << 20
SOAK_CHATS = 50


def soak(roost: Roost, minutes: float) -> dict[str, Any]:
    """Many chats at once for a long time, to find growth."""
    end = time.monotonic() + 60 * minutes
    answers, faults, lock = 0, [], threading.Lock()

    def talk(number: int) -> None:
        nonlocal answers
        rng = random.Random(number)
        while time.monotonic() < end:
            chat_id, last = roost.chat(max_tokens=40), ""
            for _ in range(rng.randint(2, 12)):
                if time.monotonic() >= end:
                    return
                begin = partial(roost.turns.send, chat_id, text_of(rng.randint(5, 80), rng))
                if last and rng.random() < 0.3:
                    begin = partial(roost.turns.regenerate, last)
                try:
                    last = timed(begin)["message_id"]
                except Exception as exc:  # counted; the run continues
                    faults.append(repr(exc))
                with lock:
                    answers += 1

    workers = [threading.Thread(target=talk, args=(number,)) for number in range(SOAK_CHATS)]
    for worker in workers:
        worker.start()
    curve = []
    while any(worker.is_alive() for worker in workers):
        files, used = folder_use(roost.settings.snapshot_dir)
        web = psutil.Process().memory_info().rss
        curve.append(
            {"engine_mb": roost.engine_rss() >> 20, "web_mb": web >> 20, "files": files, "disk_mb": used / 2**20}
        )
        time.sleep(10)
    return shown(
        "soak",
        {
            "minutes": minutes,
            "chats_at_once": SOAK_CHATS,
            "answers": answers,
            "faults": faults[:5],
            "quota_mb": SOAK_QUOTA_BYTES >> 20,
            "most_disk_mb": round(max(row["disk_mb"] for row in curve), 1),
            "curve": [[row["engine_mb"], row["web_mb"], round(row["disk_mb"], 1)] for row in curve],
        },
    )


def create_app_over(roost: Roost) -> Flask:
    """The API with the open manager and database."""
    app = Flask("webapp")
    app.extensions.update(
        settings=roost.settings, database=roost.database, model_manager=roost.manager, presets=roost.presets
    )
    app.extensions["completions"] = Completions(roost.manager, roost.presets)
    owner = People(roost.database).owner
    app.before_request(lambda: setattr(g, "person", owner))
    install(app, roost.settings)
    error_answers.install(app)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parked", type=int, default=1000)
    parser.add_argument("--long-tokens", type=int, default=26000)
    parser.add_argument("--walks", type=int, default=0)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--model", type=Path, default=STARTER, help="another model than the starter")
    parser.add_argument("--only-messages", action="store_true", help="the chat of eighty messages alone")
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES", help="the soak alone")
    parser.add_argument("--only-responses", action="store_true", help="the fifty turns of /v1/responses alone")
    args = parser.parse_args()
    report: dict[str, Any] = {"strategy": args.strategy}
    folder = Path(tempfile.mkdtemp(prefix="roost-twice-"))
    try:
        if args.walks:
            answers, read, asked = walk(folder / "walks", args.walks, seed=11)
            report["walks"] = shown(
                "walks", {"sequences": args.walks, "answers": answers, "read": read, "asked": asked}
            )
        (folder / "models").mkdir()
        (folder / "data").mkdir()
        model = folder / "models" / args.model.name
        model.symlink_to(args.model.absolute())
        write_checkpoint(folder / "models" / OTHER, "7", n_layer=2, n_embd=128, vocab_size=65536)
        quota = {"snapshot_limit_bytes": SOAK_QUOTA_BYTES} if args.soak else {}
        roost = Roost(folder, args.strategy, model.name, **quota)
        try:
            report["strategy"] = roost.manager.status().strategy
            report["state_bytes"] = roost.manager.model_info().config.state_bytes()  # type: ignore[union-attr]
            if args.soak:
                report["soak"] = soak(roost, args.soak)
            elif args.only_messages:
                report["eighty messages"] = eighty_messages(roost)
            elif args.only_responses:
                report["responses"] = fifty_responses(roost)
            else:
                report["responses"] = fifty_responses(roost)
                report["eighty messages"] = eighty_messages(roost)
                report["side by side"] = many_answers(roost, 32, 2000)
                if args.long_tokens:
                    report["long chat"] = long_chat(roost, args.long_tokens)
                if args.parked:
                    report["parked"] = parked_chats(roost, args.parked)
        finally:
            roost.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report["load_average"] = round(psutil.getloadavg()[0], 1)
    print(json.dumps(report))


if __name__ == "__main__":
    main()

"""How many tokens per second `roost serve` sends to many readers at once, over the pages' socket and over the API.

    python -m tests.acceptance.many_chats [--at-once 1,16,32,64] [--seconds 8] [--model FILE] [--strategy S] [--ways W]
        [--pages /,/models]

Each reader asks again when its answer is complete, so prefill is included: with ``chat`` in the same chat on one
socket, with ``new chats`` each time in a new chat on its own socket, with ``sse`` over the API. ``share`` compares with
the speed of `roost bench` for the same number (measured before, with the same file). ``fairness``: the amount that the
slowest reader received divided by that of the fastest, in characters of HTML or, with ``sse``, in events. A separate
process requests pages all the time; their cost is part of the server's share. Prints one line per measurement and, as
the last line, one JSON document.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance.api_load import p99_ms
from tests.acceptance.page_times import PageTimes
from tests.acceptance.served_roost import QUIET, ROOT, STARTER, Page, ServedRoost

QUESTIONS = [
    "Tell me a long story about a heron.",
    "Why do birds sing?",
    "给我讲一个关于苍鹭的长故事。",
    "Who are you?",
]
MAX_TOKENS = 200
SERVER = (
    *("--max-sequences", "64", "--max-queue", "64", "--websocket-limit", "80", "--http-threads", "96"),
    *("--api-streams", "70", "--api-streams-per-client", "70", "--connections-per-client", "200"),
)


class Reader(threading.Thread):
    """Asks, reads, asks again. ``firsts``: seconds to each answer's first words; ``got``: amount received."""

    def __init__(self, number: int, ask: Callable[[str, Reader], None]) -> None:
        super().__init__(daemon=True)
        self.number, self._ask = number, ask
        self.firsts: list[float] = []
        self.got = self.answers = 0
        self.is_over = threading.Event()
        self.failure = ""

    def run(self) -> None:
        try:
            turn = self.number
            while not self.is_over.is_set():
                self._ask(QUESTIONS[turn % len(QUESTIONS)], self)
                self.answers += 1
                turn += 1
        except Exception as exc:
            self.failure = f"{type(exc).__name__}: {exc}"


def measure(roost: ServedRoost, way: str, at_once: int, seconds: float, paths: list[str]) -> dict[str, Any]:
    readers = [
        Reader(number, api_reader(roost) if way == "sse" else socket_reader(roost, way == "new chats"))
        for number in range(at_once)
    ]
    times = PageTimes(roost.host, *paths)
    server, engine = psutil.Process(roost.process.pid), roost.engine()
    cpu = [process.cpu_times() for process in (server, engine) if process]
    written = written_tokens(roost)
    started = time.monotonic()
    for reader in readers:
        reader.start()
    time.sleep(seconds)
    wall = time.monotonic() - started
    written = written_tokens(roost) - written
    after = [process.cpu_times() for process in (server, engine) if process]
    for reader in readers:
        reader.is_over.set()
    for reader in readers:
        reader.join(60)
    pages = times.stop()
    firsts = sorted(first for reader in readers for first in reader.firsts)
    got = [reader.got for reader in readers]
    answers = sum(reader.answers for reader in readers)
    used = [end.user + end.system - begin.user - begin.system for begin, end in zip(cpu, after, strict=True)]
    return {
        "way": way,
        "at_once": at_once,
        "tokens_per_s": round(written / wall, 1),
        "fairness": round(min(got) / max(max(got), 1), 2),
        "answers_per_s": round(answers / wall, 1),
        "first_token_ms": [round(1000 * statistics.median(firsts)), p99_ms(firsts)] if firsts else None,
        "page_p99_ms": {name: p99_ms(found) for name, found in pages.items()},
        "cpu_share_server_engine": [round(value / wall, 2) for value in used],
        "server_ms_per_answer": round(1000 * used[0] / max(answers, 1), 1),
        "failed": [reader.failure for reader in readers if reader.failure][:3],
        "load_average": round(psutil.getloadavg()[0], 1),
    }


def written_tokens(roost: ServedRoost) -> float:
    """Of all answers so far, including running ones."""
    for line in roost.get("/metrics").decode().splitlines():
        if line.startswith("roost_engine_decoded_tokens_total"):
            return float(line.rsplit(" ", 1)[1])
    raise AssertionError("no such figure")


def socket_reader(roost: ServedRoost, is_new_each_time: bool) -> Callable[[str, Reader], None]:
    """Reads frames as a browser's script does."""
    pages: list[Page] = []

    def ask(question: str, reader: Reader) -> None:
        page = pages.pop() if pages else Page(roost)
        begun = time.monotonic()
        page.send(question, **{**QUIET, "max_tokens": str(MAX_TOKENS)})
        is_first = True
        while True:
            data = page.socket.receive(timeout=60)
            if data is None:
                raise TimeoutError("nothing came for a minute")
            if not isinstance(data, str) or not data.startswith("{"):
                continue
            frame = json.loads(data)
            if frame["type"] == "chat":
                page.chat_id = frame["id"]
            if frame["type"] == "text":
                reader.got += len(frame["final"]) + len(frame["tail"])
                if is_first:
                    reader.firsts.append(time.monotonic() - begun)
                is_first = False
            if frame["type"] == "finished":
                break
        if is_new_each_time or reader.is_over.is_set():
            page.close()
        else:
            pages.append(page)

    return ask


def api_reader(roost: ServedRoost) -> Callable[[str, Reader], None]:
    def ask(question: str, reader: Reader) -> None:
        asked = {
            "prompt": f"User: {question}\n\nAssistant:", "max_tokens": MAX_TOKENS, "stream": True, "temperature": 0,
            "frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {"0": -100},
        }  # fmt: skip
        connection = http.client.HTTPConnection(roost.host, timeout=60)
        begun, is_first = time.monotonic(), True
        try:
            connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise AssertionError(f"{response.status} {response.read()[:200]!r}")
            for line in iter(response.readline, b""):
                if not line.startswith(b"data: {"):
                    continue
                if is_first:
                    reader.firsts.append(time.monotonic() - begun)
                is_first = False
                reader.got += 1
        finally:
            connection.close()

    return ask


def benched(model: Path, strategy: str, counts: list[int]) -> dict[int, float]:
    command = [sys.executable, "-m", "webapp.cli", "bench", "--models", str(model.parent), "--model", model.name]
    more = ["--sequences", ",".join(map(str, counts)), "--prefill", "", "--repeat", "3", "--strategy", strategy]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([*command, *more, "--data", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    runs = json.loads(done.stdout.splitlines()[-1])["runs"]
    return {run["sequences"]: run["decode_tokens_per_s"] for run in runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", default="1,16,32,64")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--model", type=Path, default=STARTER)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--ways", default="chat,new chats,sse")
    parser.add_argument("--pages", default="/,/models", help='asked for meanwhile; "" for none')
    args = parser.parse_args()
    counts = [int(count) for count in args.at_once.split(",")]
    paths = args.pages.split(",") if args.pages else []
    bench = benched(args.model.absolute(), args.strategy, counts)
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        ServedRoost(
            Path(folder) / "data", "--models", str(args.model.absolute().parent), "--model", args.model.name,
            "--strategy", args.strategy, *SERVER,
        ) as roost,
    ):  # fmt: skip
        page = roost.page()
        page.send("Hello", max_tokens="4", **QUIET)
        page.finish()  # loads the model
        page.close()
        for path in paths:
            roost.get(path)  # compiles the templates
        for at_once in counts:
            for way in args.ways.split(","):
                row = measure(roost, way, at_once, args.seconds, paths)
                row["share"] = round(row["tokens_per_s"] / bench[at_once], 2) if at_once in bench else None
                found.append(row)
                print(row, flush=True)
    print(json.dumps({"model": args.model.name, "strategy": args.strategy, "bench": bench, "runs": found}))


if __name__ == "__main__":
    main()

"""Many simultaneous streams of `roost serve` that disconnect at random: each must get only the word it asked for.

    python -m tests.acceptance.api_load --seconds 300 --streams 64

A bias makes the word's token certain, so every backend and model works. Meanwhile, a prompt of 4,000 tokens is
prefilled now and then, and pages are requested continuously. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance.page_times import PageTimes
from tests.acceptance.served_roost import ServedRoost

FAKE = "fake slots=32 delay_ms=4"
WORDS = [chr(65 + number // 26) + chr(97 + number % 26) for number in range(26 * 26)]
LIMITS = ("--api-streams-per-client", "70", "--api-streams", "70", "--http-threads", "96", "--state-cache-bytes", "16M")
"""Room for streams that reconnect and the long prompt. A small cache is full soon, so growing memory shows a leak."""
PAGES = ("/status", "/health", "/")


class Load:
    """Runs until :meth:`stop`; ``counts`` and ``latencies`` (page -> seconds) are the results."""

    def __init__(self, roost: ServedRoost, streams: int, prompt_tokens: int) -> None:
        self.roost = roost
        self.prompt_tokens = prompt_tokens
        self.counts: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = {}
        self.wrong: list[str] = []
        self._is_over = threading.Event()
        words = single_tokens(roost, streams)
        jobs = [threading.Thread(target=self._stream, args=(n, *word)) for n, word in enumerate(words)]
        jobs.append(threading.Thread(target=self._read_long))
        self._jobs = jobs

    def run(self, seconds: float, is_enough: Callable[[Counter[str]], bool] = lambda counts: True) -> None:
        """Runs for this time, and up to a minute longer until ``is_enough``."""
        times = PageTimes(self.roost.host, *PAGES)
        for job in self._jobs:
            job.start()
        time.sleep(seconds)
        deadline = time.monotonic() + 60
        while not is_enough(self.counts) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.latencies = times.stop()
        self._is_over.set()
        for job in self._jobs:
            job.join(60)

    def _stream(self, number: int, word: str, token_id: int) -> None:
        rng = random.Random(number)
        while not self._is_over.is_set():
            wanted = rng.randint(5, 120)
            leaves_after = rng.randint(0, wanted) if rng.random() < 0.3 else None
            try:
                text, ended = self._ask(word, token_id, wanted, leaves_after)
            except OSError as exc:
                self.counts[f"failed: {type(exc).__name__}"] += 1
                continue
            if text.replace(word, "") or (ended and text != word * wanted):
                self.wrong.append(f"{word}: {text!r}")
            self.counts["whole" if ended else "left"] += 1
            self.counts["tokens"] += len(text) // 2

    def _ask(self, word: str, token_id: int, wanted: int, leaves_after: int | None) -> tuple[str, bool]:
        """(text so far, came to its end)."""
        asked = {
            "prompt": f"{word} {time.monotonic()}", "max_tokens": wanted, "logit_bias": {str(token_id): 100},
            "temperature": 0, "frequency_penalty": 0, "presence_penalty": 0, "stream": True,
        }  # fmt: skip
        connection = http.client.HTTPConnection(self.roost.host, timeout=60)
        try:
            connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                self.counts[f"refused {response.status}"] += 1
                time.sleep(0.2)
                return "", False
            return self._read(response, leaves_after)
        finally:
            connection.close()

    @staticmethod
    def _read(response: http.client.HTTPResponse, leaves_after: int | None) -> tuple[str, bool]:
        text = ""
        for count, line in enumerate(iter(response.readline, b"")):
            if leaves_after is not None and count >= 2 * leaves_after:
                return text, False
            if line == b"data: [DONE]\n":
                return text, True
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                if "error" in event:
                    return text + f"<{event['error']['code']}>", False
                text += event["choices"][0]["text"]
        return text, False

    def _read_long(self) -> None:
        while not self._is_over.wait(2):
            asked = {"prompt": [40 + n % 200 for n in range(self.prompt_tokens)], "max_tokens": 1, "seed": 1}
            asked["prompt"][0] = random.randint(40, 250)  # type: ignore[index]
            self.counts["long prompts"] += post(self.roost, "/v1/completions", asked)[0] == 200


def post(roost: ServedRoost, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(roost.host, timeout=300)
    try:
        connection.request("POST", path, json.dumps(asked), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def single_tokens(roost: ServedRoost, count: int) -> list[tuple[str, int]]:
    """Two-letter words that are one token each and that the model may write (tokens it never saw are banned)."""
    found = []
    for word in WORDS:
        tokens = post(roost, "/v1/tokenize", {"text": word})[1]["tokens"]
        if len(tokens) == 1 and is_written(roost, word, tokens[0]):
            found.append((word, tokens[0]))
        if len(found) == count:
            return found
    raise AssertionError("too few words are single tokens")


def is_written(roost: ServedRoost, word: str, token_id: int) -> bool:
    asked = {"prompt": word, "max_tokens": 2, "temperature": 0, "logit_bias": {str(token_id): 100}}
    found = post(roost, "/v1/completions", {**asked, "frequency_penalty": 0, "presence_penalty": 0})[1]
    return bool(found["choices"][0]["text"] == word * 2)


def figures(roost: ServedRoost) -> dict[str, float]:
    lines = [line for line in roost.get("/metrics").decode().splitlines() if line and line[0] != "#"]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def rest_after(roost: ServedRoost, timeout_s: float = 30) -> dict[str, float]:
    """What is still open some seconds after everybody has gone: all 0 when nothing leaks."""
    names = (
        "roost_api_open_requests",
        "roost_engine_running",
        "roost_engine_waiting",
        "roost_engine_unowned_sequences",
    )
    deadline = time.monotonic() + timeout_s
    while True:
        found = figures(roost)
        rest = {name: found[name] for name in names}
        if not any(rest.values()) or time.monotonic() > deadline:
            return rest
        time.sleep(0.2)


def p99_ms(seconds: list[float]) -> float:
    return round(1000 * statistics.quantiles(seconds, n=100)[98], 1) if len(seconds) > 1 else 0.0


def run(seconds: float, streams: int, prompt_tokens: int, strategy: str, data_dir: Path, **more: Any) -> dict[str, Any]:
    with ServedRoost(data_dir, "--strategy", strategy, *LIMITS) as roost:
        post(roost, "/v1/completions", {"prompt": "a", "max_tokens": 1})  # loads the model
        load = Load(roost, streams, prompt_tokens)
        warm = min(10.0, seconds / 4)
        memory: list[float] = []
        timer = threading.Timer(warm, lambda: memory.append(rss_mb(roost)))
        timer.start()
        load.run(seconds, **more)
        memory.append(rss_mb(roost))
        return {
            "seconds": seconds,
            "streams": streams,
            "strategy": strategy,
            **dict(load.counts),
            "wrong": load.wrong[:5],
            "rest": rest_after(roost),
            "rss_mb_warm_and_end": memory,
            "p99_ms": {page: p99_ms(found) for page, found in load.latencies.items()},
        }


def rss_mb(roost: ServedRoost) -> float:
    """Of the web process and the engine."""
    process = psutil.Process(roost.process.pid)
    return round(sum(p.memory_info().rss for p in (process, *process.children())) / 1e6, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=4000)
    parser.add_argument("--strategy", default=FAKE, help="such as 'cpu fp32' for the bundled model itself")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(args.seconds, args.streams, args.prompt_tokens, args.strategy, Path(folder))
    print(json.dumps(found, ensure_ascii=False))
    assert not found["wrong"] and not any(found["rest"].values())


if __name__ == "__main__":
    main()

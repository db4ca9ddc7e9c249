"""A hundred guests with an open page, who all send a message at the same moment.

    python -m tests.acceptance.many_people [--people 100] [--rounds 3] [--tokens 20] [--tls]

Each logs in separately, so each is a person with separate chats, and has a WebSocket. ``confirmed_ms`` is the time
until the page reports that the message is stored; ``first_words_ms`` until the answer's first words, which is mostly
the wait for a slot. ``web_mib`` is the memory of the web process: idle, with all pages open, and the maximum. The
clients run in this process, on the same machine. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import statistics
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance.api_load import p99_ms
from tests.acceptance.served_roost import QUIET, ServedRoost
from tests.web.ws_client import WebSocketClient

TOKEN = "a-token-for-many-people"
MIB = 1 << 20
PATIENCE_S = 600.0


class Guest:
    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        scheme = "https" if tls else "http"
        if tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection("127.0.0.1", port, context=tls)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port)
        origin = f"{scheme}://127.0.0.1:{port}"
        headers = {"Origin": origin, "Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", "/login", urllib.parse.urlencode({"token": TOKEN, "next": "/"}), headers)
        cookie = (connection.getresponse().getheader("Set-Cookie") or "").partition(";")[0]
        connection.close()
        extra = f"Origin: {origin}\r\nCookie: {cookie}\r\n"
        self.socket = WebSocketClient(port, "/ws/chat", extra=extra, timeout=PATIENCE_S, tls=tls)
        self.chat_id = ""
        self.confirmed: list[float] = []
        self.first_words: list[float] = []
        self.failure = ""
        self.socket.send(json.dumps({"do": "open", "chat": "", "shown": []}))

    def ask(self, tokens: int) -> None:
        """One question; returns when its answer is complete."""
        began, has_words = time.monotonic(), False
        told = {"do": "send", "chat": self.chat_id, "text": "Why do birds sit on wires?", "sent_as": "one"}
        self.socket.send(json.dumps({**told, "max_tokens": str(tokens), **QUIET}))
        while True:
            text = self.socket.receive()
            frame = json.loads(text) if text.startswith("{") else {"type": "fragment"}
            if frame["type"] == "accepted":
                self.confirmed.append(time.monotonic() - began)
            elif frame["type"] == "refused":
                raise AssertionError("the message was refused")
            elif frame["type"] == "chat":
                self.chat_id = frame["id"]
            elif frame["type"] == "text" and not has_words:
                has_words = True
                self.first_words.append(time.monotonic() - began)
            elif frame["type"] == "finished":
                return


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--tls", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--token", TOKEN, "--websocket-limit", str(args.people + 10), "--websockets-per-client", "5000"]
        with ServedRoost(Path(folder), *flags, *(["--tls"] if args.tls else [])) as roost:
            tls = ssl.create_default_context(cafile=f"{folder}/tls/authority.crt") if args.tls else None
            print(json.dumps(measured(roost, args, tls)))


def measured(roost: ServedRoost, args: argparse.Namespace, tls: ssl.SSLContext | None) -> dict[str, Any]:
    port, web = int(roost.host.rpartition(":")[2]), psutil.Process(roost.process.pid)
    first = Guest(port, tls)
    first.ask(args.tokens)  # loads the model
    at_rest = web.memory_info().rss
    guests = [Guest(port, tls) for _ in range(args.people)]
    is_open, peak, is_over = web.memory_info().rss, 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.1):
            peak = max(peak, web.memory_info().rss)

    def take_part(guest: Guest, start: threading.Barrier) -> None:
        try:
            for _ in range(args.rounds):
                start.wait(PATIENCE_S)
                guest.ask(args.tokens)
        except Exception as exc:
            guest.failure = f"{type(exc).__name__}: {exc}"
            start.abort()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began, start = time.monotonic(), threading.Barrier(len(guests))
    threads = [threading.Thread(target=take_part, args=(guest, start), daemon=True) for guest in guests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    seconds = time.monotonic() - began
    is_over.set()
    confirmed = [value for guest in guests for value in guest.confirmed]
    words = [value for guest in guests for value in guest.first_words]
    failures = sorted({guest.failure for guest in guests if guest.failure})
    return {
        "people": len(guests),
        "tls": tls is not None,
        "sends": len(confirmed),
        "confirmed_ms": figures(confirmed),
        "first_words_ms": figures(words),
        "seconds": round(seconds, 1),
        "web_mib": {name: round(value / MIB) for name, value in (("rest", at_rest), ("open", is_open), ("most", peak))},
        "failures": failures,
    }


def figures(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {"median": round(1000 * statistics.median(seconds), 1), "p99": p99_ms(seconds)}


if __name__ == "__main__":
    main()

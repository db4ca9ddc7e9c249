"""How much of the server a client without a token can occupy, and whether others notice.

    python -m tests.acceptance.front_door [--idle 400] [--bodies 8] [--megabytes 60]

Starts `roost serve` with a token. One address (127.0.0.1) opens idle connections, half of them with an unfinished
header, and then sends large bodies without a token; another address (127.0.0.2) requests /health meanwhile. Prints the
times of /health, the bytes the server held in temporary files, and its memory; the last line is one JSON document.
Linux only: it reads /proc and needs the whole of 127.0.0.0/8.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.acceptance.served_roost import ServedRoost

TOKEN = "front-door-acceptance"
STRANGER, OTHER = "127.0.0.1", "127.0.0.2"
HALF_HEADER = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "
PATIENCE_S = 5.0


def health(port: int) -> float | None:
    """Seconds from connect to the complete response, from the other address; None if there was none in time."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S, source_address=(OTHER, 0))
    try:
        connection.request("GET", "/health", headers={"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        response.read()
        return time.perf_counter() - began if response.status == 200 else None
    except OSError:
        return None
    finally:
        connection.close()


def probe(port: int, requests: int, pause_s: float = 0.01) -> dict[str, Any]:
    """p50, p99 and maximum of /health in milliseconds, and how many requests were not answered in time."""
    times = []
    for _ in range(requests):
        times.append(health(port))
        if times[-5:] == [None] * 5:  # blocked; the others would time out too
            break
        time.sleep(pause_s)
    answered = sorted(value * 1000 for value in times if value is not None)
    found: dict[str, Any] = {"asked": len(times), "unanswered": times.count(None)}
    if answered:
        found |= {"p50_ms": round(answered[len(answered) // 2], 1), "max_ms": round(answered[-1], 1)}
        found["p99_ms"] = round(answered[min(len(answered) - 1, int(len(answered) * 0.99))], 1)
    return found


def open_idle(port: int, count: int) -> tuple[list[socket.socket], int]:
    """The stranger's connections, and how many could be opened."""
    held = []
    for number in range(count):
        with contextlib.suppress(OSError):
            sock = socket.create_connection(("127.0.0.1", port), timeout=2, source_address=(STRANGER, 0))
            held.append(sock)
            if number % 2:
                sock.sendall(HALF_HEADER)
    return held, len(held)


def still_open(held: list[socket.socket]) -> int:
    """How many connections the server has neither answered nor closed."""
    count = 0
    for sock in held:
        sock.setblocking(False)
        try:
            sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            count += 1
        except OSError:
            pass
    return count


def send_body(port: int, size: int, outcome: Counter[str]) -> None:
    """Sends a body without a token to the end, whatever the server responds, as simple clients do."""
    chunk = b"x" * 65536
    with socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(STRANGER, 0)) as sock:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {size}\r\n"
        try:
            sock.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
            for _ in range(size // len(chunk)):
                sock.sendall(chunk)
            outcome["sent whole"] += 1
        except OSError:
            outcome["sending was cut"] += 1
        try:
            outcome[sock.recv(12).decode("latin-1") or "no answer"] += 1
        except OSError:
            outcome["answer lost"] += 1


def temporary_bytes(pid: int) -> int:
    """Bytes in deleted files under the temporary folder that the process holds open."""
    total = 0
    folder = tempfile.gettempdir()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(entry)
            if target.startswith(folder) and target.endswith("(deleted)"):
                total += entry.stat().st_size
    return total


class Watch(threading.Thread):
    """The maximum of bytes in temporary files and of memory during the run."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.most_temporary = 0
        self.most_memory = 0
        self._may_end = threading.Event()

    def run(self) -> None:
        while not self._may_end.wait(0.005):
            self.most_temporary = max(self.most_temporary, temporary_bytes(self.process.pid))
            self.most_memory = max(self.most_memory, self.process.memory_info().rss)

    def end(self) -> None:
        self._may_end.set()
        self.join()


def measure(roost: ServedRoost, idle: int, bodies: int, megabytes: int) -> dict[str, Any]:
    port, pid = int(roost.host.rpartition(":")[2]), roost.process.pid
    memory = psutil.Process(pid).memory_info
    found: dict[str, Any] = {"health_alone": probe(port, 200), "rss_before": memory().rss}

    held, connected = open_idle(port, idle)
    time.sleep(1)
    found["idle"] = {"connected": connected, "kept": still_open(held)}
    found["health_beside_idle"] = probe(port, 500)
    found["rss_with_idle"] = memory().rss

    outcome: Counter[str] = Counter()
    watch = Watch(pid)
    watch.start()
    senders = [threading.Thread(target=send_body, args=(port, megabytes << 20, outcome)) for _ in range(bodies)]
    for sender in senders:
        sender.start()
    found["health_beside_bodies"] = probe(port, 200)
    for sender in senders:
        sender.join()
    watch.end()
    for sock in held:
        sock.close()
    found["bodies"] = dict(outcome)
    return found | {"temporary_bytes": watch.most_temporary, "rss_most": watch.most_memory, "rss_after": memory().rss}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--idle", type=int, default=400)
    parser.add_argument("--bodies", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=60)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ServedRoost(Path(folder), "--token", TOKEN) as roost:
        found = measure(roost, args.idle, args.bodies, args.megabytes)
    for name, value in found.items():
        print(f"{name:22} {value / 2**20:.1f} MB" if isinstance(value, int) else f"{name:22} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

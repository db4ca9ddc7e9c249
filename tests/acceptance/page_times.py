"""Response times of pages, requested again and again in a separate process: a process that also generates the load
would measure its own threads.

    python -m tests.acceptance.page_times HOST PATH...

Ends when its standard input ends; then prints one JSON document: path -> seconds of each answer.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time

BETWEEN_S = 0.05


class PageTimes:
    """Starts immediately; :meth:`stop` returns the seconds by path."""

    def __init__(self, host: str, *paths: str) -> None:
        command = [sys.executable, "-m", __spec__.name, host, *paths]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def stop(self) -> dict[str, list[float]]:
        found, _ = self._process.communicate(timeout=60)
        return dict(json.loads(found))


def seconds_of(host: str, path: str) -> float:
    began = time.perf_counter()
    connection = http.client.HTTPConnection(host, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise AssertionError(f"{path}: {response.status}")
    finally:
        connection.close()
    return time.perf_counter() - began


def main(host: str, *paths: str) -> None:
    is_over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    found: dict[str, list[float]] = {path: [] for path in paths}
    while not is_over.wait(BETWEEN_S):
        for path in paths:
            found[path].append(seconds_of(host, path))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

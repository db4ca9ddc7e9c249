"""A 2 GB download through the real server, killed halfway: does it resume, is the hash right, what does it cost?

    python -m tests.acceptance.big_download [--gigabytes 2]

A local hub serves a sparse file; the server is `roost serve` in its own process, killed with SIGKILL halfway and
started again. Pages are requested all the time. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil

from tests.weights.make_checkpoints import make_tensors

NAME, REPO = "big.safetensors", "someone/big"
PAGES = ("/models", "/presets", "/jobs", "/health")


def write_sparse_model(path: Path, size_bytes: int) -> str:
    """A tiny RWKV-7 with one more tensor of zeros, a hole in the file. Returns its sha256."""
    tensors = make_tensors("7", 1, 64, 64, 256)
    header: dict[str, Any] = {}
    offset = 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + 4 * array.size]}
        offset += 4 * array.size
    rows = (size_bytes - offset) // 4096
    header["filler"] = {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [offset, offset + rows * 4096]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(array.astype("<f4").tobytes())
        file.truncate(8 + len(text) + offset + rows * 4096)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def serve_hub(path: Path, digest: str) -> tuple[ThreadingHTTPServer, list[str]]:
    ranges: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked, size = self.headers.get("Range", "bytes=0-"), path.stat().st_size
            ranges.append(asked)
            start = int(asked[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(size - start))
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("ETag", f'"{digest}"')
            self.end_headers()
            with path.open("rb") as file:
                self.connection.sendfile(file, start)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            pass  # the test kills the client

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, ranges


class Served:
    """`roost serve` and the browser of its owner."""

    def __init__(self, folder: Path, hub_url: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        places = {"ROOST_DATA_DIR": folder / "data", "ROOST_MODELS_DIR": folder / "models", "ROOST_HUB_URL": hub_url}
        limits = {"ROOST_REQUESTS_PER_S": "100000", "ROOST_REQUEST_BURST": "100000"}
        environment = {**os.environ, **{key: str(value) for key, value in places.items()}, **limits}
        command = [sys.executable, "-m", "webapp.cli", "serve", "--port", str(self.port)]
        self.process = subprocess.Popen(
            command,
            env={**environment, "ROOST_OPEN_BROWSER": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self.process.kill)
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).read()
                break
            except OSError:
                assert time.monotonic() < deadline and self.process.poll() is None, "the server did not start"
                time.sleep(0.1)
        self.key = (folder / "data" / "owner.key").read_text(encoding="utf-8").strip()

    def ask(self, path: str, form: dict[str, str] | None = None) -> str:
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        headers = {"Authorization": f"Bearer {self.key}", "Origin": self.url}
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def statuses(self) -> list[tuple[str, str]]:
        return re.findall(r'data-job="(\w+)" data-status="(\w+)"', self.ask("/jobs"))


def until(claim: Any, timeout_s: float = 600.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not claim():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


class Watch(threading.Thread):
    """Measures response times of pages and the server's memory during the download."""

    def __init__(self, served: Served) -> None:
        super().__init__(daemon=True)
        self._served = served
        self.over = threading.Event()
        self.first_ms: dict[str, float] = {}
        """Of each page, once a server: its templates are compiled then, if nothing has done it before."""
        self.page_ms: list[float] = []
        self.rss_mb: list[float] = []

    def run(self) -> None:
        process = psutil.Process(self._served.process.pid)
        while not self.over.wait(0.02):
            for path in PAGES:
                began = time.perf_counter()
                try:
                    self._served.ask(path)
                    self.rss_mb.append(process.memory_info().rss / 1e6)
                except (OSError, psutil.Error):
                    return
                took_ms = 1000 * (time.perf_counter() - began)
                if path in self.first_ms:
                    self.page_ms.append(took_ms)
                self.first_ms.setdefault(path, round(took_ms, 1))


def figures(watch: Watch) -> dict[str, Any]:
    times = sorted(watch.page_ms)
    return {
        "first_ms": watch.first_ms,
        "pages": len(times),
        "p50_ms": round(times[len(times) // 2], 1),
        "p99_ms": round(times[int(len(times) * 0.99)], 1),
        "first_rss_mb": round(watch.rss_mb[0], 1),
        "peak_rss_mb": round(max(watch.rss_mb), 1),
    }


def run(folder: Path, gigabytes: float) -> dict[str, Any]:
    (folder / "models").mkdir()
    source = folder / NAME
    digest = write_sparse_model(source, int(gigabytes * 1e9))
    size = source.stat().st_size
    hub, ranges = serve_hub(source, digest)
    hub_url = f"http://127.0.0.1:{hub.server_port}"
    parts = folder / "models" / ".downloads"

    def arrived() -> int:
        return sum(part.stat().st_size for part in parts.glob("*.part"))

    served = Served(folder, hub_url)
    quiet = Watch(served)
    quiet.start()
    until(lambda: len(quiet.page_ms) >= 200)
    quiet.over.set()
    quiet.join()
    watch = Watch(served)
    watch.start()
    served.ask("/models/downloads", {"repo": REPO, "file": NAME, "size": str(size), "sha256": digest, "hub": "custom"})
    until(lambda: arrived() >= size // 2)
    served.process.send_signal(signal.SIGKILL)
    served.process.wait()
    watch.over.set()
    watch.join()
    at_kill = arrived()
    is_clean = not (folder / "models" / NAME).exists()

    served = Served(folder, hub_url)
    [(job_id, status)] = served.statuses()
    again = Watch(served)
    again.start()
    began = time.monotonic()
    served.ask(f"/jobs/{job_id}/resume", {})
    until(lambda: served.statuses()[0][1] in ("done", "failed"))
    seconds = time.monotonic() - began
    again.over.set()
    again.join()
    ended = served.statuses()[0][1]
    assert ended == "done", re.findall(r'data-error="(\w+)"|<pre>(.*?)</pre>', served.ask("/jobs"), re.DOTALL)
    served.process.terminate()
    served.process.wait(60)
    found = hashlib.sha256()
    with (folder / "models" / NAME).open("rb") as file:
        while piece := file.read(1 << 22):
            found.update(piece)
    hub.shutdown()
    return {
        "size_bytes": size,
        "arrived_at_kill": at_kill,
        "nothing_in_the_library_at_kill": is_clean,
        "status_after_restart": status,
        "went_on_with": ranges[-1],
        "ended": ended,
        "hash_is_right": found.hexdigest() == digest,
        "seconds_for_the_rest_with_check": round(seconds, 1),
        "without_a_download": figures(quiet),
        "first_half": figures(watch),
        "second_half_and_check": figures(again),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), args.gigabytes)
    assert found["hash_is_right"] and found["went_on_with"] == f"bytes={found['arrived_at_kill']}-", found
    print(json.dumps(found))


if __name__ == "__main__":
    main()

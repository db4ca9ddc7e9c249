"""Files that try to crash or freeze their reader or fill its memory, on every way into a running server.

    python -m tests.acceptance.hostile_files
    python -m tests.acceptance.hostile_files --files FOLDER     (other files instead of ours)

`roost serve` runs in its own process, with the starter. Each file is uploaded, then put into the models folder and
listed on the models page, then put into the states folder and listed on its page, then given to `roost inspect`.
Meanwhile another client requests `/health` a hundred times per second. Prints one row per file (seconds and the error's
code; `roost inspect` has an exit code), and at the end one JSON document: the slowest file of each way, files that were
not refused, the web process's resident memory before, at its maximum and after, and the delays of `/health`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.acceptance.served_roost import ROOT, ServedRoost
from tests.weights.hostile_files import HOSTILE
from tests.weights.make_checkpoints import write_checkpoint, write_state
from webapp.manager.library import STATE_ENDINGS
from webapp.services.access import KEY_NAME

WAYS = ("upload", "models", "states", "inspect")
BOUND_S = 2.0
QUIET_S = 20.0
"""The duration of `/health` on this machine without an attack, for comparison."""
SLICE_BYTES = 8 << 20


@dataclass
class Row:
    """``codes`` and ``seconds`` by way. The code "" means that the file was not refused."""

    name: str
    codes: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return "".join(f"{self.codes[way] or 'taken':>20} {self.seconds[way]:5.2f} s" for way in WAYS)

    def take(self, way: str, tried: Callable[[], str]) -> None:
        began = time.monotonic()
        self.codes[way] = tried()
        self.seconds[way] = time.monotonic() - began


class HealthWatch:
    """Requests /health on one connection every 10 ms; ``seconds`` of each response."""

    def __init__(self, host: str) -> None:
        self.seconds: list[float] = []
        self._host = host
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> HealthWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        while not self._is_over.wait(0.01):
            began = time.monotonic()
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            self.seconds.append(time.monotonic() - began)
        connection.close()


class Attack:
    def __init__(self, folder: Path) -> None:
        self.models = folder / "models"
        self.states = self.models / "states"
        self.states.mkdir(parents=True)
        write_checkpoint(self.models / "good.pth", "7")
        write_state(self.states / "good.pth")
        self.roost = ServedRoost(folder / "data", "--models", str(self.models))
        self.web = psutil.Process(self.roost.process.pid)
        self._data = folder / "data"
        self._key = (self._data / KEY_NAME).read_text(encoding="ascii").strip()

    def row(self, name: str, content: bytes) -> Row:
        row = Row(name)
        row.take("upload", lambda: self._upload(name, content))
        for way, folder, page in (("models", self.models, "/models/list?q="), ("states", self.states, "/states?q=")):
            (folder / name).write_bytes(content)
            row.take(way, lambda page=page: self._listed(page, name))  # type: ignore[misc]
            if way == "states":
                row.take("inspect", lambda: self._inspected(self.states / name))
            (folder / name).unlink()
        return row

    def _upload(self, name: str, content: bytes) -> str:
        """As the page's script does: start, slice by slice; the response to the last one says what the file is."""
        about = urllib.parse.urlencode({"name": name, "size": len(content)}).encode()
        told = self._ask("POST", "/models/uploads", about)
        while "error" not in told and not told.get("is_done"):
            offset = told["offset"]
            piece = content[offset : offset + SLICE_BYTES]
            told = self._ask("PUT", f"/models/uploads/{told['id']}?offset={offset}", piece)
        if "error" in told:
            return str(told["error"]["code"])
        (self.models / name).unlink(missing_ok=True)
        (self.states / name).unlink(missing_ok=True)
        return ""

    def _ask(self, method: str, path: str, body: bytes) -> dict:  # type: ignore[type-arg]
        headers = {"Origin": self.roost.url, "Authorization": f"Bearer {self._key}"}
        if method == "PUT":
            headers["Content-Type"] = "application/octet-stream"
        request = urllib.request.Request(self.roost.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return dict(json.loads(answer.read()))
        except urllib.error.HTTPError as exc:
            with exc:
                return dict(json.loads(exc.read()))

    def _listed(self, page: str, name: str) -> str:
        """The code in the file's row; "not listed" for a name that the states page does not accept."""
        found = self.roost.get(page + urllib.parse.quote(name)).decode()
        rows = re.findall(r'<li class="row [^>]*>.*?</li>', found, re.DOTALL)
        own = [row for row in rows if f">{name}</a>" in row]
        if not own and page.startswith("/states") and not name.endswith(STATE_ENDINGS):
            return "not listed"
        assert own, f"{name} is not listed"
        code = re.search(r'data-error="([^"]*)"', own[0])
        return code[1] if code else ""

    def _inspected(self, path: Path) -> str:
        command = [sys.executable, "-m", "webapp.cli", "inspect", str(path), "--data", str(self._data)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60)
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return f"exit {done.returncode}" if done.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, help="a folder of files to use in place of ours")
    options = parser.parse_args()
    files = {path.name: path.read_bytes for path in sorted(options.files.iterdir())} if options.files else HOSTILE
    with tempfile.TemporaryDirectory() as folder:
        attack = Attack(Path(folder))
        with attack.roost, HealthWatch(attack.roost.host) as health:
            attack.roost.get("/models")
            attack.roost.get("/states")
            rss = [attack.web.memory_info().rss]
            quiet = len(health.seconds)
            time.sleep(QUIET_S)
            begin = len(health.seconds)
            rows = []
            print(f"{'file':42}" + "".join(f"{way:>28}" for way in WAYS))
            for name, content in files.items():
                row = attack.row(name, content())
                rows.append(row)
                rss.append(attack.web.memory_info().rss)
                print(f"{name:42}{row}{rss[-1] >> 20:>6} MB", flush=True)
            is_alive = b"ok" in attack.roost.get("/health")
    told = {
        "files": len(rows),
        "is_alive": is_alive,
        "slowest_s": {way: round(max(row.seconds[way] for row in rows), 2) for way in WAYS},
        "not_refused": [f"{row.name} ({way})" for row in rows for way in WAYS if not row.codes[way]],
        "web_rss_mb": {"before": rss[0] >> 20, "most": max(rss) >> 20, "after": rss[-1] >> 20},
        "health_ms": {"quiet": _delays(health.seconds[quiet:begin]), "attacked": _delays(health.seconds[begin:])},
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }
    print(json.dumps(told))
    is_in_time = max(told["slowest_s"].values()) < BOUND_S  # type: ignore[attr-defined]
    return int(not (is_alive and is_in_time and not told["not_refused"]))


def _delays(seconds: list[float]) -> dict[str, float]:
    """In ms; "over_200" counts responses that took longer."""
    found = sorted(seconds)
    p99, latest = (round(1000 * one, 1) for one in (found[int(len(found) * 0.99)], found[-1]))
    over = sum(one > 0.2 for one in found)
    return {
        "asked": len(found),
        "p50": round(1000 * found[len(found) // 2], 1),
        "p99": p99,
        "latest": latest,
        "over_200": over,
    }


if __name__ == "__main__":
    sys.exit(main())

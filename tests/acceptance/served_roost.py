"""`roost serve` as a user starts it: a separate process, the bundled model, real sockets."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import simple_websocket

from tests.waiting import WaitRanOut

ROOT = Path(__file__).resolve().parent.parent.parent
STARTER = ROOT / "models" / "roost-starter-v7.safetensors"
QUIET = {"temperature": "0", "frequency_penalty": "0", "presence_penalty": "0"}


class ServedRoost:
    """Starts immediately; ``url`` is set when its page is available. Ends with :meth:`stop`, or with ``with``."""

    def __init__(self, data_dir: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "webapp.cli", "serve", "--port", "0", "--no-browser", "--data", str(data_dir)]
        limits = ["--requests-per-s", "1000", "--request-burst", "5000", "--websockets-per-client", "200"]
        self.process = subprocess.Popen(
            [*command, *limits, *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"https?://(\S+?)/", line):
                self.host = found[1]
                break
        else:
            raise AssertionError(f"roost serve did not start: {''.join(self.lines)}")
        threading.Thread(target=self._drain, daemon=True).start()
        self.url = f"http://{self.host}"

    def _drain(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line)

    def __enter__(self) -> ServedRoost:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def page(self) -> Page:
        return Page(self)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            body: bytes = response.read()
            return body

    def export(self, chat_id: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.get(f"/chat/{chat_id}/export.json"))
        return found

    def engine(self) -> psutil.Process | None:
        """The engine process; the server may have another child process, which reads files."""
        children = psutil.Process(self.process.pid).children()
        return next((child for child in children if "webapp.manager.loop" in " ".join(child.cmdline())), None)

    def footprint(self) -> tuple[int, int, int]:
        """(open descriptors, threads, child processes) of the web process."""
        process = psutil.Process(self.process.pid)
        descriptors = process.num_fds() if os.name != "nt" else process.num_handles()
        return descriptors, process.num_threads(), len(process.children())


class Page:
    """The socket of one browser, without the browser."""

    def __init__(self, roost: ServedRoost) -> None:
        self.roost = roost
        headers = {"Origin": f"http://{roost.host.split(':')[0]}"}  # the client sends its Host without the port
        self.socket = simple_websocket.Client(f"ws://{roost.host}/ws/chat", headers=headers)
        self.chat_id = ""
        self.seen: list[str] = []
        """The types of all frames so far."""
        self.socket.send(json.dumps({"do": "open", "chat": "", "shown": []}))

    def send(self, text: str, **options: str) -> None:
        """Sends a message in this page's chat; the first one creates it, with ``options`` as in the panel."""
        self.socket.send(json.dumps({"do": "send", "chat": self.chat_id, "text": text, **options}))

    def frames(self, seconds: float) -> list[dict[str, Any]]:
        """The JSON frames that come within ``seconds``, or until the answer is finished."""
        found, end = [], time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            data = self.socket.receive(timeout=left)
            if not isinstance(data, str) or not data.startswith("{"):
                continue
            frame = json.loads(data)
            if frame["type"] == "chat":
                self.chat_id = frame["id"]
            found.append(frame)
            self.seen.append(frame["type"])
            if frame["type"] == "finished":
                break
        return found

    def finish(self, seconds: float = 120) -> Page:
        """Waits until the answer is finished. If it is stored as ended, its last frame was lost: no machine is too slow
        for that, so it fails at once. Otherwise the wait ran out."""
        found = self.frames(seconds)
        if not found or found[-1]["type"] != "finished":
            status = self.answer()["status"] if self.chat_id else "not begun"
            told = f"no end in {seconds} s; stored: {status}; frames: {self.seen[-40:]}; log: {self.roost.lines[-20:]}"
            if status in ("not begun", "streaming"):
                raise WaitRanOut(told)
            raise AssertionError(told)
        return self

    def answer(self) -> dict[str, Any]:
        """The last stored message of the chat."""
        message: dict[str, Any] = self.roost.export(self.chat_id)["messages"][-1]
        return message

    def tokens(self) -> int:
        """Tokens of all answers of the chat so far, including the running one."""
        return sum(len(message["token_ids"]) for message in self.roost.export(self.chat_id)["messages"])

    def stop(self) -> None:
        self.socket.send(json.dumps({"do": "stop", "chat": self.chat_id}))

    def close(self) -> None:
        self.socket.close()

    def vanish(self) -> None:
        """Ends the connection without a close frame. close() alone would leave it to the thread that reads from it."""
        self.socket.sock.shutdown(socket.SHUT_RDWR)
        self.socket.sock.close()

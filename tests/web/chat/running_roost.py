"""The real app on a real port; only the model is fake and writes a script."""

from __future__ import annotations

import atexit
import functools
import json
import re
import shutil
import tempfile
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import ClassVar

from tests.manager.thread_engine import start_engine_in_thread
from tests.web.owner import owner_cookie
from tests.web.ws_client import WebSocketClient
from tests.weights.make_checkpoints import write_checkpoint
from webapp.manager.manager import ModelManager
from webapp.settings import Settings
from webapp.storage.chats import ChatStore
from webapp.web.app import create_app
from webapp.web.serve import make_server

ANSWER = """Birds perch on wires because **no current** flows through them.

1. Both feet touch the *same* wire.
2. Copper conducts better than a bird.

```python
def current(voltage, resistance):
    return voltage / resistance
```

That is all there is to it: 鸟儿很安全。
"""


@functools.cache
def models_dir() -> Path:
    """One tiny file for all tests; the fake backend reads only its sizes."""
    folder = Path(tempfile.mkdtemp(prefix="roost-models-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_checkpoint(folder / "roost-starter-v7.safetensors", "7", n_layer=1, n_embd=64, vocab_size=65536)
    return folder


def fake_strategy(answer: str = ANSWER, **options: object) -> str:
    """The fake backend's options; one byte of the answer is one token."""
    ids = ",".join(str(byte + 1) for byte in answer.encode())
    return " ".join(["fake", f"script={ids}", *(f"{name}={value}" for name, value in options.items())])


PAGE = {"Accept": "text/html"}
"""Headers of a browser that requests a page; a program without a type gets errors as JSON."""


class RunningRoost:
    """``url`` is its address, ``owner`` the cookie (name, value) of the owner's session, which every request here
    sends. :meth:`restart` keeps the port and the data."""

    at_port: ClassVar[dict[int, RunningRoost]] = {}

    def __init__(self, data_dir: Path, strategy: str, port: int = 0, **settings: object) -> None:
        settings.setdefault("models_dir", models_dir())
        self.settings = Settings(
            port=port,
            data_dir=data_dir,
            strategy=strategy,
            http_threads=8,
            requests_per_s=1000,
            request_burst=1000,
            open_browser=False,
            **{"models_dir": models_dir(), **settings},
        )
        self.start()

    def start(self) -> None:
        self.app = create_app(self.settings, ModelManager(self.settings, start_engine_in_thread))
        self.server = make_server(self.app, self.settings)
        self.port = self.server.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.owner = owner_cookie(self.app, self.port)
        self.at_port[self.port] = self
        self.cookie = "=".join(self.owner)
        self.store = ChatStore(self.app.extensions["database"])
        self.turns = self.app.extensions["chat_turns"]
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(60)
        self.app.extensions["close"]()

    def request(self, path: str, body: bytes | None = None, **headers: str) -> urllib.request.Request:
        given = {name.replace("_", "-"): value for name, value in {"Cookie": self.cookie, **PAGE, **headers}.items()}
        return urllib.request.Request(self.url + path, body, given)

    def get(self, path: str, **headers: str) -> str:
        with urllib.request.urlopen(self.request(path, **headers)) as answer:
            return answer.read().decode()

    def weight(self, path: str) -> int:
        """Bytes of a page with everything it loads, as transferred; a page may have at most 150 KB."""
        page = self.get(path)
        todo = re.findall(r'(?:href|src)="(/static/[^"#]+)', page)
        sizes: dict[str, int] = {}
        while todo:
            path = todo.pop()
            if path in sizes:
                continue
            with urllib.request.urlopen(self.request(path, Accept_Encoding="gzip")) as answer:
                sizes[path] = len(answer.read())
            if path.endswith(".js"):
                folder = path.rpartition("/")[0]
                todo += [f"{folder}/{name}" for name in re.findall(r'from "\./([\w/.]+)"', self.get(path))]
        assert len(sizes) > 5, sizes
        return len(page.encode()) + sum(sizes.values())

    def post(self, path: str, **fields: str) -> tuple[str, str]:
        """(final address, page) after the redirect, like a browser without scripts."""
        body = urllib.parse.urlencode(fields).encode()
        with urllib.request.urlopen(self.request(path, body, Origin=self.url)) as answer:
            return answer.url.removeprefix(self.url), answer.read().decode()

    def socket(self) -> PageClient:
        return PageClient(self)

    def answered(self, text: str = "Hello", chat_id: str = "") -> str:
        """The id of a chat with a complete answer."""
        chat_id = chat_id or self.store.create(title=text).id
        turn = self.turns.send(chat_id, text)
        assert turn.wait_finished(60)
        return chat_id


class PageClient:
    """The socket of a page, without a page."""

    def __init__(self, roost: RunningRoost) -> None:
        head = f"Origin: {roost.url}\r\nCookie: {roost.cookie}\r\n"
        self.client = WebSocketClient(roost.port, "/ws/chat", extra=head, timeout=60)

    def send(self, **fields: object) -> None:
        self.client.send(json.dumps(fields))

    def open(self, chat_id: str = "", shown: tuple[tuple[str, str], ...] = ()) -> None:
        self.send(do="open", chat=chat_id, shown=[list(row) for row in shown])

    def until(self, is_wanted: object) -> list[object]:
        """Everything up to and including the first frame (dict) or fragment (str) for which ``is_wanted`` is true."""
        found: list[object] = []
        while not found or not is_wanted(found[-1]):  # type: ignore[operator]
            text = self.client.receive()
            found.append(json.loads(text) if text[0] == "{" else text)
        return found

    def until_type(self, kind: str) -> list[object]:
        return self.until(lambda frame: isinstance(frame, dict) and frame["type"] == kind)

    def close(self) -> None:
        self.client.close()


def shown_text(frames: list[object], channel: str = "content") -> str:
    """The HTML that a page would show after these text frames."""
    final = tail = ""
    for frame in frames:
        if isinstance(frame, dict) and frame["type"] == "text" and frame["channel"] == channel:
            final = frame["final"] if frame["reset"] else final + frame["final"]
            tail = frame["tail"]
    return final + tail

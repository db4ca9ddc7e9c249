"""The real app on a real port, used by the official clients; only the model is fake and writes a script."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.manager.thread_engine import start_engine_in_thread
from tests.web.chat.running_roost import models_dir
from webapp.manager.manager import ModelManager
from webapp.settings import Settings
from webapp.web.app import create_app
from webapp.web.serve import make_server

ANSWER = "Birds 🐦 sit on wires.\n\n鸟儿很安全。"
MODEL = "roost-starter-v7.safetensors"


class ApiServer:
    """``url`` is its address. Uses the World vocabulary; one byte of the script is one token."""

    def __init__(
        self, data_dir: Path, strategy: str, start_engine: Any = start_engine_in_thread, **changes: Any
    ) -> None:
        settings: dict[str, Any] = {
            "port": 0,
            "data_dir": data_dir,
            "models_dir": models_dir(),
            "strategy": strategy,
            "http_threads": 24,
            "requests_per_s": 10_000,
            "request_burst": 10_000,
            "open_browser": False,
        }
        self.settings = Settings(**{**settings, **changes})
        self.manager = ModelManager(self.settings, start_engine)
        self.app = create_app(self.settings, self.manager)
        self.server = make_server(self.app, self.settings)
        self.url = f"http://127.0.0.1:{self.server.addresses[0][1]}"
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(60)
        self.app.extensions["close"]()

    def openai(self, path: str = "/v1", **options: Any) -> Any:
        import openai

        return openai.OpenAI(base_url=self.url + path, max_retries=0, timeout=60, **{"api_key": "none", **options})

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """(status, JSON); a ``body`` of bytes is sent unchanged."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {
            "Content-Type": "application/json",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return self._ask(urllib.request.Request(self.url + path, data, given))

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._ask(urllib.request.Request(self.url + path, headers=given))

    def events(self, path: str, body: Any) -> list[Any]:
        """The data of every server-sent event, "[DONE]" unchanged."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read().decode("utf-8")
        found = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        return [data if data == "[DONE]" else json.loads(data) for data in found]

    def _ask(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, _parsed(answer.read())
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, _parsed(exc.read())


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return data.decode("utf-8", "replace")

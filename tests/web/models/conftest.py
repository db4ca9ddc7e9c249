"""An app with its own folder; requests are like those of a browser on this machine."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.services.library.library_folder import good_bytes, torn_bytes
from tests.web.apps import open_app
from tests.web.owner import owner_client
from tests.weights.make_checkpoints import write_tensors
from webapp.manager.manager import ModelManager
from webapp.settings import Settings

OWN = {"Origin": "http://127.0.0.1"}
HTMX = {**OWN, "HX-Request": "true"}


@dataclass
class Browser:
    """``get`` and ``post`` return (status, text); ``part`` and ``act`` do the same with htmx."""

    client: FlaskClient
    folder: Path
    app: Any

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        answer = self.client.get(path, base_url="http://127.0.0.1", headers=headers)
        return answer.status_code, answer.get_data(as_text=True)

    def part(self, path: str) -> tuple[int, str]:
        return self.get(path, **HTMX)

    def post(self, url: str, **form: str) -> tuple[int, str]:
        """After the redirect, like a browser without scripts."""
        answer = self.client.post(url, base_url="http://127.0.0.1", headers=OWN, data=form, follow_redirects=True)
        return answer.status_code, answer.get_data(as_text=True)

    def act(self, url: str, **form: str) -> tuple[int, str]:
        answer = self.client.post(url, base_url="http://127.0.0.1", headers=HTMX, data=form)
        return answer.status_code, answer.get_data(as_text=True)

    def upload(self, name: str, size: int, stamp: str = "1", parts: str = "") -> Any:
        form = {"name": name, "size": str(size), "stamp": stamp, "parts": parts}
        return self.client.post("/models/uploads", base_url="http://127.0.0.1", headers=OWN, data=form)

    def slice(self, upload_id: str, offset: object, content: bytes) -> Any:
        url = f"/models/uploads/{upload_id}?offset={offset}"
        return self.client.put(url, base_url="http://127.0.0.1", headers=OWN, data=content)

    @property
    def manager(self) -> ModelManager:
        manager: ModelManager = self.app.extensions["model_manager"]
        return manager


@pytest.fixture
def open_browser(tmp_path: Path):
    """open_browser(strategy, **settings) -> Browser; models/ has a good file, a truncated one and one that is not
    RWKV."""
    apps = contextlib.ExitStack()

    def make(strategy: str = "fake", **settings: Any) -> Browser:
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        (folder / "good.safetensors").write_bytes(good_bytes())
        (folder / "torn.safetensors").write_bytes(torn_bytes())
        os.utime(folder / "torn.safetensors", (1, 1))
        import numpy as np

        weights = {"model.embed_tokens.weight": np.ones((2, 2), np.float32)}
        write_tensors(folder / "llama.safetensors", weights, metadata={"origin": "<b>somewhere</b>"})
        made = Settings(
            data_dir=tmp_path / "data",
            models_dir=folder,
            strategy=strategy,
            open_browser=False,
            requests_per_s=1e6,
            request_burst=10**6,
            **settings,
        )
        app = apps.enter_context(open_app(made))
        return Browser(owner_client(app), folder, app)

    with apps:
        yield make


@pytest.fixture
def browser(open_browser) -> Browser:
    return open_browser()

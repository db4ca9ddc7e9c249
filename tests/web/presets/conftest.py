"""An app with two tiny models and a fake engine; requests are like those of a browser on this machine."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from html import unescape
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.web.apps import open_app
from tests.web.chat.running_roost import fake_strategy
from tests.weights.make_checkpoints import write_checkpoint, write_state
from webapp.manager.manager import ModelManager
from webapp.services.presets.presets import Presets
from webapp.settings import Settings

BASE = "http://127.0.0.1"
OWN = {"Origin": BASE}
HTMX = {"HX-Request": "true"}
FORM_FIELD = re.compile(r'<(input|textarea|select)\b[^>]*\bname="([^"]+)"[^>]*>', re.DOTALL)


@dataclass
class Browser:
    client: FlaskClient
    app: Any

    @property
    def presets(self) -> Presets:
        presets: Presets = self.app.extensions["presets"]
        return presets

    @property
    def manager(self) -> ModelManager:
        manager: ModelManager = self.app.extensions["model_manager"]
        return manager

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        answer = self.client.get(path, base_url=BASE, headers={"Accept": "text/html", **headers})
        return answer.status_code, answer.get_data(as_text=True)

    def part(self, path: str, **query: str) -> str:
        answer = self.client.get(path, base_url=BASE, headers=HTMX, query_string=query)
        assert answer.status_code == 200
        return unescape(answer.get_data(as_text=True))

    def post(self, path: str, **form: Any) -> tuple[int, str, str]:
        """(status, redirect, page): redirects are not followed, so that a test sees the response to a save."""
        answer = self.client.post(path, base_url=BASE, headers=OWN, data=form)
        return answer.status_code, answer.headers.get("Location", ""), unescape(answer.get_data(as_text=True))

    def save(self, preset_id: str, **form: Any) -> tuple[int, str, str]:
        return self.post(f"/presets/{preset_id}", **form)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "roost-starter-v7.safetensors", "7", n_layer=2, n_embd=64, vocab_size=65536)
    write_checkpoint(folder / "six.safetensors", "6", n_layer=3, n_embd=64, vocab_size=65536)
    (folder / "states").mkdir()
    write_state(folder / "states" / "poet.safetensors", n_layer=2, n_head=1, head_size=64)
    write_state(folder / "states" / "other.safetensors", n_layer=5, n_head=1, head_size=64)
    return folder


@pytest.fixture
def start(tmp_path, models):
    """start(**settings) -> Browser; everything is closed afterwards."""
    apps = contextlib.ExitStack()

    def start(**changes: Any) -> Browser:
        settings = Settings(
            data_dir=tmp_path / "data",
            models_dir=models,
            **{"strategy": fake_strategy(), "request_burst": 10_000, **changes},
        )
        app = apps.enter_context(open_app(settings))
        return Browser(app.test_client(), app)

    with apps:
        yield start


@pytest.fixture
def browser(start):
    return start()

"""A server without pages still answers programs, says so, and is healthy."""

from __future__ import annotations

import pytest
from safetensors.numpy import save_file

from tests.web.apps import open_app
from tests.weights.make_checkpoints import make_tensors
from webapp.settings import Settings

BASE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api_only")
    save_file(make_tensors("7", 1, 64, 64, 256), str(folder / "v7.safetensors"))
    settings = Settings(data_dir=folder, models_dir=folder, model="v7.safetensors", strategy="fake", api_only=True)
    with open_app(settings) as app:
        yield app.test_client()


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/status", "/docs", "/openapi.json"])
def test_what_programs_and_their_writers_need_is_there(client, path: str) -> None:
    assert client.get(path, base_url=BASE, headers={"Accept": "application/json"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/presets", "/models/v7.safetensors", "/states", "/tools", "/convert", "/chats"])
def test_no_page_is_there(client, path: str) -> None:
    assert client.get(path, base_url=BASE, headers={"Accept": "text/html"}).status_code == 404

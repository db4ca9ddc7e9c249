"""A local hub, downloads from it, and their results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.services.downloads.hub_server import HubServer
from tests.services.library.library_folder import good_bytes
from webapp.manager.library import ModelLibrary
from webapp.services.downloads import transfer
from webapp.services.downloads.downloads import Downloads
from webapp.services.jobs import Job, Jobs
from webapp.settings import Settings

REPO, FILE = "someone/models", "tiny.safetensors"
HALF = 40_000


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(transfer, "TRIES", 3)
    monkeypatch.setattr(transfer, "PROGRESS_BYTES", 1)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    hub = HubServer({FILE: good_bytes(), "sub/other.safetensors": good_bytes(), "README.md": b"# hello"})
    yield hub
    hub.close()


@pytest.fixture
def settings(tmp_path: Path, hub: HubServer) -> Settings:
    (tmp_path / "data").mkdir()
    (tmp_path / "models").mkdir()
    return Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models", hub_url=hub.url)


@pytest.fixture
def open_downloads(settings: Settings) -> Iterator[Any]:
    """open_downloads() -> Downloads, as in a new process."""
    made: list[Downloads] = []

    def open_one(**changes: Any) -> Downloads:
        library = ModelLibrary(settings.models_dir, settings.data_dir / "none")
        made.append(Downloads(library, Jobs(), replace(settings, **changes)))
        return made[-1]

    yield open_one
    for downloads in made:
        downloads.jobs.close()
        downloads.close()


@pytest.fixture
def downloads(open_downloads: Any) -> Downloads:
    found: Downloads = open_downloads()
    return found


def fetched(downloads: Downloads, wanted: str = f"{REPO}/{FILE}", **known: Any) -> Job:
    source = replace(downloads.named(wanted), **known)
    return downloads.jobs.wait(downloads.start(source).id, 30)


def gone_on(downloads: Downloads, job: Job) -> Job:
    downloads.jobs.resume(job.id)
    return downloads.jobs.wait(job.id, 30)


def code(job: Job) -> str:
    return job.error.code if job.error else job.status


def cut(hub: HubServer, size: int = HALF) -> Any:
    return lambda handler: hub.send(handler, cut=size)

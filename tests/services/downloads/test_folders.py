"""A model of several files, as on Hugging Face: one download, one entry in the library, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.errors import raises_code
from tests.services.downloads.conftest import code, cut, fetched, gone_on
from tests.services.downloads.hub_server import HubServer, answer
from tests.services.library.library_folder import tree
from tests.weights.spellings import official, write_folder
from webapp.services.downloads import catalogue
from webapp.services.downloads.downloads import KIND, Downloads
from webapp.settings import Settings

FOLDER = "RWKV7-G1"


@pytest.fixture
def folder_files(tmp_path: Path, hub: HubServer) -> dict[str, bytes]:
    """Files of a repository with one model and other files that do not belong to it."""
    made = write_folder(tmp_path / "made", official("7"), tokenizer={"a": 1}, generation_config={"top_p": 0.3})
    files = {path.name: path.read_bytes() for path in made.iterdir()}
    hub.files = {**files, "README.md": b"#", "modeling_rwkv.py": b"import os", "old/x.pth": b"no"}
    return files


def test_a_repository_that_is_a_model_arrives_as_one_folder(
    downloads: Downloads, settings: Settings, hub: HubServer, folder_files: dict[str, bytes]
) -> None:
    job = fetched(downloads, f"RWKV/{FOLDER}")
    assert (code(job), job.details["model"]) == ("done", FOLDER)
    assert tree(settings.models_dir) == [f"{FOLDER}/{name}" for name in sorted(folder_files)]
    assert {path.name: path.read_bytes() for path in (settings.models_dir / FOLDER).iterdir()} == folder_files
    assert (job.done, job.total) == (sum(map(len, folder_files.values())),) * 2
    assert downloads._library.entry(FOLDER).inspection.kind == "model"
    with raises_code("file_name_taken"):
        downloads.start(downloads.named(f"RWKV/{FOLDER}"))


def test_a_published_folder_is_fetched_by_its_name(
    downloads: Downloads, settings: Settings, hub: HubServer, folder_files: dict[str, bytes]
) -> None:
    known = next(model for model in catalogue.known_models() if model.is_folder)
    assert hub.requests == []
    job = fetched(downloads, known.file)
    assert job.status == "done" and job.details["model"] == known.file
    assert job.total == sum(map(len, folder_files.values()))
    assert {path.rpartition("/resolve/")[0] for path, _ in hub.requests[1:]} == {f"/{known.repo}"}


def test_a_folder_of_a_repository_of_several(
    downloads: Downloads, settings: Settings, hub: HubServer, folder_files: dict[str, bytes]
) -> None:
    hub.files = {f"0.1b/{name}": content for name, content in folder_files.items()}
    [found] = downloads.hubs.look("custom", "rwkv-rs/g1-st")
    assert (found.path, len(found.members)) == ("0.1b", len(folder_files))
    assert code(fetched(downloads, "rwkv-rs/g1-st/0.1b")) == "done"
    assert sorted(path.name for path in (settings.models_dir / "0.1b").iterdir()) == sorted(folder_files)
    with raises_code("download_not_found"):
        downloads.named("rwkv-rs/g1-st/9b")


def test_a_folder_continues_after_a_restart_with_only_what_is_missing(
    open_downloads: Any, settings: Settings, hub: HubServer, folder_files: dict[str, bytes]
) -> None:
    first = open_downloads()
    names = sorted(folder_files)
    second_shard = names.index("model-00002-of-00002.safetensors")
    source = first.named(f"RWKV/{FOLDER}")
    hub.requests.clear()
    send = lambda handler: hub.send(handler)  # noqa: E731
    hub.behaviours = [send] * second_shard + [cut(hub, 1000)] + [answer(404)]
    assert code(first.jobs.wait(first.start(source).id, 30)) == "download_not_found"
    assert [path.name for path in settings.models_dir.iterdir()] == [".downloads"]
    assert first._library.files() == []
    first.jobs.close()
    first.close()

    hub.requests.clear()
    again = open_downloads()
    [job] = again.jobs.jobs(KIND)
    assert (job.status, job.title, job.total) == ("paused", FOLDER, sum(map(len, folder_files.values())))
    assert job.done == sum(len(folder_files[name]) for name in names[:second_shard]) + 1000
    assert code(gone_on(again, job)) == "done"
    asked = [path.rpartition("/")[2] for path, _ in hub.requests]
    assert asked == names[second_shard:] and hub.requests[0][1]["range"] == "bytes=1000-"
    assert {path.name: path.read_bytes() for path in (settings.models_dir / FOLDER).iterdir()} == folder_files
    assert [path.name for path in settings.models_dir.iterdir()] == [FOLDER]


def test_a_folder_with_a_wrong_file_is_not_in_the_library(
    downloads: Downloads, settings: Settings, hub: HubServer, folder_files: dict[str, bytes]
) -> None:
    source = downloads.named(f"RWKV/{FOLDER}")
    whole = hub.files["model-00002-of-00002.safetensors"]
    hub.files["model-00002-of-00002.safetensors"] = bytes(len(whole))
    hub.tells_sha256 = False
    job = downloads.jobs.wait(downloads.start(source).id, 30)
    assert code(job) == "download_wrong_hash"
    assert [path.name for path in settings.models_dir.iterdir()] == [".downloads"]
    hub.files["model-00002-of-00002.safetensors"] = whole
    assert code(gone_on(downloads, job)) == "done"
    assert downloads._library.entry(FOLDER).inspection.kind == "model"


def test_a_folder_that_is_given_up_leaves_nothing(
    downloads: Downloads, settings: Settings, hub: HubServer, folder_files: dict[str, bytes]
) -> None:
    source = downloads.named(f"RWKV/{FOLDER}")
    hub.behaviours = [lambda handler: hub.send(handler), answer(404)]
    job = downloads.jobs.wait(downloads.start(source).id, 30)
    assert code(job) == "download_not_found"
    downloads.jobs.remove(job.id)
    assert list(settings.models_dir.iterdir()) == []


def test_a_folder_that_is_no_rwkv_model_keeps_nothing(
    downloads: Downloads, settings: Settings, hub: HubServer, folder_files: dict[str, bytes]
) -> None:
    index = {"weight_map": {"a": "missing.safetensors"}}
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    assert code(fetched(downloads, f"RWKV/{FOLDER}")) == "file_truncated"
    assert list(settings.models_dir.iterdir()) == []

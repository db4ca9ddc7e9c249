"""Downloads from a hub that misbehaves: each way has its own code, and nothing half-written is in the library."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.errors import raises_code
from tests.services.downloads.hub_server import HubServer, answer, disconnect
from tests.services.library.library_folder import good_bytes, tree
from tests.waiting import wait_until
from tests.weights.spellings import official, write_folder
from webapp.errors import RoostError
from webapp.manager.library import ModelLibrary
from webapp.services.downloads import catalogue, http, transfer
from webapp.services.downloads.downloads import KIND, Downloads
from webapp.services.downloads.hubs import AUTOMATIC, HubFile
from webapp.services.jobs import Job, Jobs
from webapp.services.library import placing
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
    """open_downloads() -> Downloads, as a process that starts."""
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


def is_whole(settings: Settings) -> bool:
    return tree(settings.models_dir) == [FILE] and (settings.models_dir / FILE).read_bytes() == good_bytes()


def cut(hub: HubServer, size: int = HALF) -> Any:
    return lambda handler: hub.send(handler, cut=size)


def test_a_file_arrives_is_checked_and_can_be_loaded(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
    job = fetched(downloads)
    assert job.status == "done" and is_whole(settings)
    assert job.details["model"] == FILE and job.details["sha256"] == hashlib.sha256(good_bytes()).hexdigest()
    assert (job.done, job.total) == (len(good_bytes()), len(good_bytes()))
    [(path, headers)] = hub.requests
    assert path == f"/{REPO}/resolve/main/{FILE}" and "authorization" not in headers


def test_a_state_goes_to_the_states(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
    hub.files["mood.safetensors"] = good_bytes("state")
    assert fetched(downloads, f"{REPO}/mood.safetensors").status == "done"
    assert tree(settings.models_dir) == ["states/mood.safetensors"]


@pytest.mark.parametrize(
    ("behave", "expected"),
    [
        (answer(401), "download_needs_token"),
        (answer(403), "download_forbidden"),
        (answer(404), "download_not_found"),
        (answer(416), "download_range_refused"),
        (answer(429, {"Retry-After": "7200"}), "download_rate_limited"),
        (answer(500), "download_refused"),
        (answer(418), "download_refused"),
        (answer(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>log in</html>"), "download_not_a_file"),
        (answer(200, {"Content-Type": "application/x"}, b"\n<!DOCTYPE html><html>log in"), "download_not_a_file"),
        (answer(302, {"Location": "/login"}), "download_not_found"),
        (answer(302, {"Location": "http://203.0.113.1/x"}), "download_bad_redirect"),
        (answer(302, {"Location": "file:///etc/passwd"}), "download_bad_redirect"),
        (disconnect, "download_interrupted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_refusal_has_its_code(
    behave: Any, expected: str, downloads: Downloads, settings: Settings, hub: HubServer
) -> None:
    hub.behaviours = [behave] * 3
    job = fetched(downloads)
    assert code(job) == expected
    assert not [name for name in tree(settings.models_dir) if not name.startswith(".downloads/")]
    hub.behaviours = []
    assert gone_on(downloads, job).status == "done" and is_whole(settings)


def test_redirects_in_a_circle_end(downloads: Downloads, hub: HubServer) -> None:
    hub.behaviours = [answer(302, {"Location": "/round"})] * 20
    assert code(fetched(downloads)) == "download_bad_redirect"


def test_what_passes_is_tried_again_and_goes_on(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
    hub.behaviours = [cut(hub), answer(503), cut(hub, 10), answer(429, {"Retry-After": "0"}), cut(hub, 10), disconnect]
    job = fetched(downloads)
    assert job.status == "done" and is_whole(settings)
    assert [headers.get("range") for _, headers in hub.requests][-1] == f"bytes={HALF + 20}-"
    assert len(job.log) >= 6


def test_a_server_that_cannot_go_on_in_the_middle(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
    def whole(handler: Any) -> None:
        handler.headers.replace_header("Range", "bytes=0-")
        hub.send(handler)

    hub.behaviours = [cut(hub), whole]
    assert fetched(downloads).status == "done" and is_whole(settings)
    hub.files["b.safetensors"] = good_bytes()
    hub.behaviours = [cut(hub), answer(416)]
    assert fetched(downloads, f"{REPO}/b.safetensors").status == "done"


def test_a_file_that_changed_on_the_server_is_not_glued(
    downloads: Downloads, settings: Settings, hub: HubServer
) -> None:
    hub.etag = "first"
    hub.behaviours = [cut(hub), *[answer(500)] * 3]
    job = fetched(downloads)
    assert code(job) == "download_refused"
    hub.etag = "second"
    assert code(gone_on(downloads, job)) == "download_changed" and tree(settings.models_dir) == []
    assert gone_on(downloads, job).status == "done" and is_whole(settings)


def test_a_wrong_checksum_keeps_nothing(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
    assert code(fetched(downloads, sha256="0" * 64)) == "download_wrong_hash"  # what the hub itself tells
    hub.tells_sha256 = False
    other = replace(downloads.named(f"{REPO}/sub/other.safetensors"), sha256="0" * 64)
    job = downloads.jobs.wait(downloads.start(other).id, 30)
    assert code(job) == "download_wrong_hash"
    assert "other.safetensors" not in str(tree(settings.models_dir))


def test_a_wrong_size_is_told(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
    assert code(fetched(downloads, size_bytes=1234567)) == "download_wrong_size"


def test_an_overlong_answer_keeps_nothing(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
    def endless(handler: Any) -> None:
        hub.files[FILE] = good_bytes() + b"more"
        hub.send(handler, headers={"Connection": "close"})
        handler.close_connection = True

    hub.behaviours = [endless]
    assert code(fetched(downloads, size_bytes=len(good_bytes()))) == "download_too_long"
    assert tree(settings.models_dir) == []


def test_a_stall_is_noticed(
    downloads: Downloads, settings: Settings, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "STALL_S", 0.05)
    monkeypatch.setattr(transfer, "PROGRESS_BYTES", 1000)
    release = threading.Event()

    def stall(handler: Any) -> None:
        hub.send(handler, headers={"Content-Length": str(len(good_bytes()))}, cut=100)
        handler.wfile.flush()
        handler.close_connection = False
        release.wait(30)

    hub.behaviours = [stall] * 3
    job = fetched(downloads)
    release.set()
    assert code(job) == "download_stalled" and job.done >= 100


def test_a_trickle_counts_as_a_stall(downloads: Downloads, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TRICKLE_S", 0.0)
    monkeypatch.setattr(transfer, "PROGRESS_BYTES", 1 << 40)
    monkeypatch.setattr(transfer, "TRICKLE_BYTES", 1 << 40)
    assert code(fetched(downloads)) == "download_stalled"


def test_a_host_that_is_not_there(downloads: Downloads, hub: HubServer) -> None:
    hub.close()
    assert code(fetched(downloads)) == "download_unreachable"


def test_the_next_mirror_is_asked_where_one_is_away(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
    source = downloads.named(f"{REPO}/{FILE}")
    job = downloads.start(replace(source, urls=("http://127.0.0.1:9/x", *source.urls)))
    assert downloads.jobs.wait(job.id, 30).status == "done" and is_whole(settings)


def test_a_disk_that_is_full_is_said_before_and_during(
    downloads: Downloads, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = downloads.named(f"{REPO}/{FILE}")
    monkeypatch.setattr(placing, "free_bytes", lambda folder: placing.RESERVE_BYTES + 100)
    with pytest.raises(RoostError) as refused:
        downloads.start(replace(source, size_bytes=len(good_bytes())))
    assert refused.value.code == "disk_full"
    assert code(downloads.jobs.wait(downloads.start(source).id, 30)) == "disk_full"
    monkeypatch.undo()
    monkeypatch.setattr(transfer, "CHECK_BYTES", 1)
    monkeypatch.setattr(transfer, "free_bytes", lambda folder: 0)
    assert code(downloads.jobs.wait(downloads.start(source).id, 30)) == "disk_full"


def test_what_is_no_model_keeps_nothing(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
    hub.files["junk.pth"] = b"not a model" * 1000
    assert fetched(downloads, f"{REPO}/junk.pth").status == "failed" and tree(settings.models_dir) == []


def halfway(hub: HubServer) -> tuple[Any, threading.Event, threading.Event]:
    """A behaviour of the hub that sends half a file and waits; when it has, and what lets it end."""
    arrived, release = threading.Event(), threading.Event()

    def half(handler: Any) -> None:
        hub.send(handler, headers={"Content-Length": str(len(good_bytes()))}, cut=HALF)
        handler.wfile.flush()
        arrived.set()
        release.wait(30)

    return half, arrived, release


def test_a_pause_a_restart_and_going_on(open_downloads: Any, settings: Settings, hub: HubServer) -> None:
    first = open_downloads()
    half, arrived, release = halfway(hub)
    hub.behaviours = [half]
    job = first.start(first.named(f"{REPO}/{FILE}"))
    wait_until(arrived.is_set)
    wait_until(
        lambda: first.jobs.job(job.id).done or sum(p.stat().st_size for p in settings.models_dir.rglob("*.part"))
    )
    first.jobs.close()
    release.set()
    assert first.jobs.job(job.id).status == "paused"
    again = open_downloads()
    [found] = again.jobs.jobs(KIND)
    assert found.status == "paused" and found.done > 0 and len(hub.requests) == 1
    assert gone_on(again, found).status == "done" and is_whole(settings)
    assert hub.requests[-1][1]["range"] == f"bytes={found.done}-"


def test_cancelled_leaves_nothing_whether_it_runs_waits_or_is_paused(
    downloads: Downloads, settings: Settings, hub: HubServer
) -> None:
    half, arrived, release = halfway(hub)
    hub.behaviours = [half, half]
    running = downloads.start(downloads.named(f"{REPO}/{FILE}"))
    waiting = downloads.start(downloads.named(f"{REPO}/sub/other.safetensors"))
    wait_until(arrived.is_set)
    downloads.jobs.cancel(waiting.id)
    downloads.jobs.pause(running.id)
    assert downloads.jobs.wait(running.id, 30).status == "paused"
    assert tree(settings.models_dir) != []
    downloads.jobs.cancel(running.id)
    release.set()
    assert downloads.jobs.job(running.id).status == "cancelled" and tree(settings.models_dir) == []


def test_one_file_is_in_the_queue_once_and_one_that_is_here_is_refused(downloads: Downloads, hub: HubServer) -> None:
    source = downloads.named(f"{REPO}/{FILE}")
    hub.behaviours = [answer(500)] * 3
    job = downloads.jobs.wait(downloads.start(source).id, 30)
    assert downloads.start(source).id == job.id
    assert downloads.jobs.wait(job.id, 30).status == "done"
    with pytest.raises(RoostError) as refused:
        downloads.start(source)
    assert refused.value.code == "file_name_taken"


@pytest.mark.parametrize(
    "wanted",
    [
        "no-such-model",
        "ftp://127.0.0.1/x.pth",
        "http://203.0.113.1/x.pth",
        "https:///x.pth",
        "owner/../../x.pth",
        "",
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_asked(
    wanted: str, downloads: Downloads, hub: HubServer
) -> None:
    with pytest.raises(RoostError) as refused:
        downloads.start(downloads.named(wanted))
    assert refused.value.code in ("download_link_invalid", "file_name_unusable") and hub.requests == []


def test_a_page_of_a_hub_is_understood_as_its_file(downloads: Downloads, hub: HubServer) -> None:
    source = downloads.named(f"{hub.url}/{REPO}/blob/main/{FILE}?download=true")
    assert source.urls == (f"{hub.url}/{REPO}/resolve/main/{FILE}",)


def test_nothing_is_asked_before_somebody_starts_something(open_downloads: Any, hub: HubServer) -> None:
    open_downloads().named("rwkv7-g1k-1.5b-20260930-ctx25600")
    assert hub.requests == []


def test_a_token_goes_to_its_own_hub_only_and_is_kept_from_others(
    downloads: Downloads, settings: Settings, hub: HubServer
) -> None:
    other = HubServer({FILE: good_bytes()})
    downloads.hubs.set_token("custom", "hf_secret")
    hub.behaviours = [answer(302, {"Location": f"{other.url}/x/resolve/main/{FILE}"})]
    assert fetched(downloads).status == "done"
    assert hub.requests[0][1]["authorization"] == "Bearer hf_secret"
    assert "authorization" not in other.requests[0][1]
    other.close()
    kept = settings.data_dir / "hub.json"
    assert os.name == "nt" or stat.S_IMODE(kept.stat().st_mode) == 0o600
    told = json.dumps([job.to_dict() for job in downloads.jobs.jobs()]) + str(tree(settings.models_dir))
    assert "hf_secret" not in told and "hf_secret" not in repr(downloads.hubs.all)
    downloads.hubs.set_token("custom", "")
    assert not downloads.hubs.has_token("custom") and "hf_secret" not in kept.read_text()
    for bad in ("two words", "line\nbreak", "x" * 600):
        with pytest.raises(RoostError):
            downloads.hubs.set_token("huggingface", bad)


def test_the_choice_of_a_hub_is_kept_and_decides_the_order(open_downloads: Any, settings: Settings) -> None:
    hubs = open_downloads(hub_url="").hubs
    assert hubs.choice == AUTOMATIC and [hub.name for hub in hubs.order()] == ["huggingface", "hf-mirror"]
    hubs.choose("modelscope")
    again = open_downloads(hub_url="")
    [url] = again.named("rwkv7-g1k-1.5b-20260930-ctx25600").urls
    assert url == ("https://modelscope.cn/models/Blink_DL/rwkv7-g1/resolve/master/rwkv7-g1k-1.5b-20260930-ctx25600.pth")
    with pytest.raises(RoostError):
        hubs.choose("elsewhere")


def test_a_repository_is_listed_by_its_models(downloads: Downloads, hub: HubServer) -> None:
    found = downloads.hubs.look("custom", REPO)
    digest = hashlib.sha256(good_bytes()).hexdigest()
    assert found == tuple(HubFile(path, len(good_bytes()), digest) for path in (FILE, "sub/other.safetensors"))
    for behave, expected in (
        (answer(200, {}, b"no json"), "download_not_a_file"),
        (answer(200, {}, b'{"a": 1}'), "download_not_a_file"),
        (answer(404), "download_not_found"),
        (answer(200, {}, b"x" * (9 << 20)), "download_too_long"),
    ):
        hub.behaviours = [behave]
        with pytest.raises(RoostError) as refused:
            downloads.hubs.look("custom", REPO)
        assert refused.value.code == expected
    for bad in ("no-slash", "../..", "a/b/c", "a b/c"):
        with pytest.raises(RoostError):
            downloads.hubs.look("custom", bad)


def test_two_processes_do_not_write_one_file(open_downloads: Any, settings: Settings, hub: HubServer) -> None:
    pytest.importorskip("fcntl")
    first, second = open_downloads(), open_downloads()
    arrived, release = threading.Event(), threading.Event()

    def wait(handler: Any) -> bool:
        arrived.set()
        return release.wait(30)

    hub.behaviours = [wait]
    job = first.start(first.named(f"{REPO}/{FILE}"))
    wait_until(arrived.is_set)
    assert code(fetched(second)) == "download_elsewhere"
    release.set()
    assert first.jobs.wait(job.id, 30).status == "done"


def test_a_certificate_nobody_trusts_is_refused(
    downloads: Downloads, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ssl

    import httpx

    def refuse(self: Any, request: Any, **options: Any) -> None:
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_message = "self-signed certificate"
        raise httpx.ConnectError("refused") from error

    monkeypatch.setattr(httpx.Client, "send", refuse)
    assert code(fetched(downloads, "https://hub.example/x.pth")) == "download_untrusted"


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"name": "a.pth"}', '{"name": "../../a.pth", "key": "k", "urls": ["https://h/a.pth"]}'],
)
def test_a_description_nobody_wrote_here_is_left_alone(content: str, settings: Settings, open_downloads: Any) -> None:
    (settings.models_dir / transfer.PARTS).mkdir()
    (settings.models_dir / transfer.PARTS / "x.json").write_text(content)
    assert open_downloads().jobs.jobs(KIND) == []


# A folder of Hugging Face's form

FOLDER = "RWKV7-G1"


@pytest.fixture
def folder_files(tmp_path: Path, hub: HubServer) -> dict[str, bytes]:
    """Of a repository that is one model, with things beside it that do not belong to it."""
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


def test_a_folder_goes_on_after_a_restart_with_what_is_missing_alone(
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


# A newer list of published models


def listed(**changes: Any) -> bytes:
    row = {
        "file": "rwkv7-g1z-9b-20270101-ctx99.pth",
        "family": "g1",
        "parameters": "9B",
        "size_bytes": 18 * 10**9,
        "size_is_exact": True,
        "sha256": None,
        "good_for": ["chat"],
        "published": "2027-01-01",
        "context": 99,
        "licence": "Apache-2.0",
        "repo": "BlinkDL/rwkv7-g1",
        "architecture": "7",
        "layers": 32,
        "width": 4096,
    }
    return json.dumps([{**row, **changes}]).encode()


@pytest.fixture
def with_list(open_downloads: Any, hub: HubServer) -> Iterator[Any]:
    """with_list(content, its checksum) -> Downloads of a server that names it."""

    def open_one(content: bytes, sha256: str | None = None) -> Downloads:
        hub.files["list.json"] = content
        pinned = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
        url = f"{hub.url}/x/resolve/main/list.json"
        found: Downloads = open_downloads(catalogue_url=url, catalogue_sha256=pinned)
        return found

    yield open_one
    catalogue.use_newer(Path("none"), "")


def test_a_newer_list_is_fetched_when_asked_and_kept(with_list: Any, open_downloads: Any, hub: HubServer) -> None:
    shipped = catalogue.known_models()
    downloads = with_list(listed())
    assert catalogue.known_models() == shipped and hub.requests == []
    downloads.refresh_catalogue()
    assert [model.parameters for model in catalogue.known_models()] == ["9B"]
    assert downloads.named("rwkv7-g1z-9b-20270101-ctx99").size_bytes == 18 * 10**9
    hub.requests.clear()
    with_list(listed())  # a restart
    assert len(catalogue.known_models()) == 1 and hub.requests == []
    open_downloads()  # the settings name it no more
    assert catalogue.known_models() == shipped


@pytest.mark.parametrize(
    ("content", "sha256", "expected"),
    [
        (listed(), "0" * 64, "download_wrong_hash"),
        (listed(), "", "download_link_invalid"),
        (b"<html>", None, "download_not_a_file"),
        (b"[]", None, "download_not_a_file"),
        (listed(file="../../x.pth"), None, "download_not_a_file"),
        (listed(file="a/../../x.pth"), None, "download_not_a_file"),
        (listed(repo="x"), None, "download_not_a_file"),
        (listed(width="4096"), None, "download_not_a_file"),
        (listed(good_for=["nothing"]), None, "download_not_a_file"),
        (listed(more=1), None, "download_not_a_file"),
    ],
)
def test_a_list_that_is_not_the_one_is_not_taken(
    with_list: Any, settings: Settings, content: bytes, sha256: str | None, expected: str
) -> None:
    shipped = catalogue.known_models()
    downloads = with_list(content, sha256)
    with raises_code(expected):
        downloads.refresh_catalogue()
    assert catalogue.known_models() == shipped and not (settings.data_dir / "catalogue.json").exists()


def test_a_list_that_was_changed_on_the_disk_is_not_believed(with_list: Any, settings: Settings) -> None:
    shipped = catalogue.known_models()
    with_list(listed()).refresh_catalogue()
    (settings.data_dir / "catalogue.json").write_bytes(listed(parameters="1B"))
    with_list(listed())
    assert catalogue.known_models() == shipped

"""Downloads from a hub with errors: each error has its own code, and no incomplete file is in the library."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
from typing import Any

import pytest
from msgspec.structs import replace

from tests.errors import raises_code
from tests.services.downloads.conftest import FILE, HALF, REPO, code, cut, fetched, gone_on
from tests.services.downloads.hub_server import HubServer, answer, disconnect
from tests.services.library.library_folder import good_bytes, tree
from tests.waiting import wait_until
from webapp.errors import RoostError
from webapp.services.downloads import hubs, transfer
from webapp.services.downloads.downloads import KIND, Downloads
from webapp.services.downloads.hubs import AUTOMATIC, HubFile
from webapp.services.library import placing
from webapp.settings import Settings


def is_whole(settings: Settings) -> bool:
    return tree(settings.models_dir) == [FILE] and (settings.models_dir / FILE).read_bytes() == good_bytes()


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


def test_what_passes_is_tried_again_and_continues(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
    hub.behaviours = [cut(hub), answer(503), cut(hub, 10), answer(429, {"Retry-After": "0"}), cut(hub, 10), disconnect]
    job = fetched(downloads)
    assert job.status == "done" and is_whole(settings)
    assert [headers.get("range") for _, headers in hub.requests][-1] == f"bytes={HALF + 20}-"
    assert len(job.log) >= 6


def test_a_server_that_cannot_continue_in_the_middle(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
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
    assert code(fetched(downloads, sha256="0" * 64)) == "download_wrong_hash"  # the hub's own hash
    hub.tells_sha256 = False
    other = replace(downloads.named(f"{REPO}/sub/other.safetensors"), sha256="0" * 64)
    job = downloads.jobs.wait(downloads.start(other).id, 30)
    assert code(job) == "download_wrong_hash"
    assert "other.safetensors" not in str(tree(settings.models_dir))


def test_a_wrong_size_is_reported(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
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
    monkeypatch.setattr(hubs, "STALL_S", 0.05)
    monkeypatch.setattr(transfer, "PROGRESS_BYTES", 1000)
    release = threading.Event()

    def stall(handler: Any) -> None:
        hub.send(handler, headers={"Content-Length": str(len(good_bytes()))}, cut=100)
        handler.wfile.flush()
        handler.close_connection = False
        release.wait(60)

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
    """A response that sends half a file and waits; an event for that moment, and one to continue."""
    arrived, release = threading.Event(), threading.Event()

    def half(handler: Any) -> None:
        hub.send(handler, headers={"Content-Length": str(len(good_bytes()))}, cut=HALF)
        handler.wfile.flush()
        arrived.set()
        release.wait(60)

    return half, arrived, release


def test_a_pause_a_restart_and_continuing(open_downloads: Any, settings: Settings, hub: HubServer) -> None:
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


def test_a_token_is_sent_only_to_its_own_hub(downloads: Downloads, settings: Settings, hub: HubServer) -> None:
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


def test_a_full_disk_is_reported_and_keeps_the_choice_there_was(
    open_downloads: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubs = open_downloads(hub_url="").hubs
    hubs.choose("modelscope")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, raises_code("disk_full"):
        patch.setattr(os, "replace", full)
        hubs.choose("huggingface")
    assert hubs.choice == "modelscope"
    assert [path.name for path in settings.data_dir.iterdir() if "hub" in path.name] == ["hub.json"]


def test_of_two_changes_of_the_hubs_at_a_time_both_are_kept(
    open_downloads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hubs = open_downloads(hub_url="").hubs
    other = threading.Thread(target=hubs.set_token, args=("huggingface", "hf_secret"))
    keep = hubs._keep

    def keep_late(values: dict[str, Any]) -> None:
        if other.ident is None:
            other.start()
            other.join(0.1)  # time to interfere; it waits
        keep(values)

    monkeypatch.setattr(hubs, "_keep", keep_late)
    hubs.choose("modelscope")
    other.join()
    assert hubs.choice == "modelscope" and hubs.has_token("huggingface")


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
        return release.wait(60)

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

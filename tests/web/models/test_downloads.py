"""Downloads on the Models page, from a local hub: offered, downloaded, shown, used."""

from __future__ import annotations

import threading

import pytest

from tests.services.downloads.hub_server import HubServer, answer
from tests.services.library.library_folder import good_bytes
from webapp.services.downloads.catalogue import best
from webapp.services.strategy import Hardware

FILE = "fresh.safetensors"


@pytest.fixture
def hub():
    hub = HubServer({FILE: good_bytes(), "mood.safetensors": good_bytes("state")})
    yield hub
    hub.close()


@pytest.fixture
def browser(open_browser, hub):
    return open_browser(hub_url=hub.url)


def finished(browser):
    jobs = browser.app.extensions["jobs"]
    return jobs.wait(jobs.jobs("download")[0].id, 30)


def test_the_page_offers_the_published_models_and_contacts_no_host(browser, hub):
    page = browser.get("/models")[1]
    assert 'data-model="rwkv7-g1k-1.5b-20260930-ctx25600.pth"' in page and hub.url.removeprefix("http://") in page
    assert hub.requests == []


def test_a_repository_is_looked_into_and_one_of_its_files_fetched_and_used(browser, hub):
    page = browser.post("/models/downloads/look", hub="custom", repo="someone/models")[1]
    assert f'value="{FILE}"' in page and "mood.safetensors" in page
    form = {"hub": "custom", "repo": "someone/models", "file": FILE, "size": str(len(good_bytes())), "sha256": ""}
    assert 'data-job="' in browser.post("/models/downloads", **form)[1]
    job = finished(browser)
    part = browser.part("/jobs?kind=download")[1]
    assert job.status == "done" and f"/models/downloads/{job.id}/use" in part
    browser.post(f"/models/downloads/{job.id}/use")
    assert browser.manager.wait_ready(60).model == FILE
    presets = browser.app.extensions["presets"]
    assert presets.active().model == FILE
    browser.post(f"/models/downloads/{job.id}/use")
    assert [preset.model for preset in presets.list()].count(FILE) == 1


def test_a_state_is_shown_where_states_are(browser):
    browser.post("/models/downloads", name="someone/models/mood.safetensors")
    job = finished(browser)
    answered = browser.client.post(
        f"/models/downloads/{job.id}/use", base_url="http://127.0.0.1", headers={"Origin": "http://127.0.0.1"}
    )
    assert answered.location == "/states/mood.safetensors"


@pytest.mark.parametrize(
    ("url", "form", "code"),
    [
        ("/models/downloads", {"name": "nothing-known"}, "download_link_invalid"),
        ("/models/downloads", {"name": "http://203.0.113.1/x.pth"}, "download_link_invalid"),
        ("/models/downloads", {"repo": "a/b", "file": "../../etc/passwd"}, "download_link_invalid"),
        ("/models/downloads", {"repo": "a/b", "file": "x.txt"}, "file_name_unusable"),
        ("/models/downloads", {"name": "a/b/good.safetensors"}, "file_name_taken"),
        ("/models/downloads/look", {"hub": "custom", "repo": "no-slash"}, "download_link_invalid"),
        ("/models/downloads/look", {"hub": "nowhere", "repo": "a/b"}, "settings_invalid"),
        ("/models/downloads/hub", {"choice": "nowhere"}, "settings_invalid"),
        ("/models/downloads/hub", {"choice": "custom", "hub": "custom", "token": "a b"}, "settings_invalid"),
    ],
    ids=str,
)
def test_an_invalid_download_is_refused_with_its_reason(url, form, code, browser, hub):
    status, page = browser.post(url, **form)
    assert status in (400, 404, 409, 422) and f'data-error="{code}"' in page and hub.requests == []


def test_a_refusal_of_the_hub_is_on_the_page(browser, hub):
    hub.behaviours = [answer(404)]
    status, page = browser.post("/models/downloads/look", hub="custom", repo="someone/gone")
    assert status == 404 and 'data-error="download_not_found"' in page
    hub.behaviours = [answer(403)]
    browser.post("/models/downloads", name=f"someone/models/{FILE}")
    job = finished(browser)
    part = browser.part("/jobs?kind=download")[1]
    assert 'data-error="download_forbidden"' in part and f"/jobs/{job.id}/resume" in part
    browser.act(f"/jobs/{job.id}/resume?kind=download")
    assert finished(browser).status == "done"


def test_a_token_is_kept_and_never_shown(browser):
    browser.post("/models/downloads/hub", choice="automatic", hub="custom", token="hf_secret")
    page = browser.get("/models")[1]
    assert "hf_secret" not in page and browser.app.extensions["downloads"].hubs.has_token("custom")
    browser.post("/models/downloads/hub", choice="automatic", hub="custom", forget="1")
    assert not browser.app.extensions["downloads"].hubs.has_token("custom")


def test_another_site_can_start_nothing(browser, hub):
    for path in ("", "/look", "/hub", "/none/use"):
        answered = browser.client.post(
            f"/models/downloads{path}", base_url="http://127.0.0.1", headers={"Origin": "http://evil.example"}
        )
        assert answered.status_code == 403
    assert hub.requests == []


def test_a_running_download_is_shown_on_every_page_until_it_is_over(browser, hub):
    release = threading.Event()
    hub.behaviours = [lambda handler: release.wait(60)]
    assert 'id="strip-jobs" href="/jobs" hidden' in browser.get("/presets")[1]
    browser.post("/models/downloads", name=f"someone/models/{FILE}")
    for path in ("/", "/presets", "/models", "/states"):
        assert 'hx-get="/jobs/strip"' in browser.get(path)[1], path
    release.set()
    assert finished(browser).status == "done"
    assert "hidden" in browser.part("/jobs/strip")[1]


def test_the_welcome_page_offers_the_best_model_until_it_is_on_its_way(open_browser, hub, monkeypatch):
    from webapp.web.kit.page import PageContext

    much = Hardware("a processor", 4, 8, 64 << 30, 48 << 30, ())
    monkeypatch.setattr(PageContext, "hardware", much)
    monkeypatch.setattr("webapp.web.models.downloads.free_bytes", lambda folder: 1 << 40)
    browser = open_browser(hub_url=hub.url)
    name = best(much, 1 << 40).file
    page = browser.get("/")[1]
    assert f'name="name" value="{name}"' in page and hub.url.removeprefix("http://") in page and hub.requests == []
    hub.behaviours = [answer(503)] * 50
    browser.post("/models/downloads", name=name)
    assert f'name="name" value="{name}"' not in browser.get("/")[1]

"""The Settings page: every setting with its source, and values for the next start."""

from __future__ import annotations

import re

import pytest

from tests.web.apps import open_app
from tests.web.models.conftest import Browser
from tests.web.owner import owner_client
from tests.wording import says
from webapp.settings import SETTINGS, load_settings
from webapp.web.settings import FIXED, GROUPS

ENVIRONMENT = {"ROOST_MAX_QUEUE": "7"}
TOKEN = "a-secret-of-the-owner"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "roost.toml").write_text(f'# mine\nmax_sequences = 9  # few\ntoken = "{TOKEN}"\n', encoding="utf-8")
    return tmp_path


def load(folder):
    return load_settings({"data_dir": folder, "models_dir": folder, "strategy": "fake"}, ENVIRONMENT)


@pytest.fixture
def browser(folder):
    settings = load(folder)
    with open_app(settings) as app:
        yield Browser(owner_client(app), folder, app)


def sources(page):
    return dict(re.findall(r'<li class="row" id="(\w+)" data-source="(\w+)"', page))


def test_every_setting_has_its_place_and_says_where_its_value_comes_from(browser):
    assert sorted(name for names in GROUPS.values() for name in names.split()) == sorted(SETTINGS)
    page = browser.get("/settings")[1]
    found = sources(page)
    assert found["max_sequences"] == found["token"] == "file" and found["max_queue"] == "environment"
    assert found["strategy"] == "flag" and found["port"] == "default" and len(found) == len(SETTINGS)
    assert TOKEN not in page and says(page, "settings_page.set")
    forms = set(re.findall(r'action="/settings/(\w+)"', page))
    assert forms == set(SETTINGS) - {*FIXED, "max_queue", "strategy", "models_dir"}


def test_a_value_is_kept_for_the_next_start_and_the_file_stays_as_it_was_written(browser, folder):
    assert browser.post("/settings/max_sequences", value="16")[0] == 200
    assert browser.post("/settings/snapshot_limit_bytes", value="2 GiB")[0] == 200
    assert browser.post("/settings/tool_hosts", value="example.org, 127.0.0.1")[0] == 200
    assert browser.post("/settings/api_switch_models", value="true")[0] == 200
    text = (folder / "roost.toml").read_text(encoding="utf-8")
    assert text.startswith("# mine\nmax_sequences = 16  # few\n") and TOKEN in text
    assert (folder / "roost.toml").stat().st_mode & 0o077 == 0, "the token stands in it"
    again = load(folder)
    assert (again.max_sequences, again.snapshot_limit_bytes) == (16, 2 << 30)
    assert (again.tool_hosts, again.api_switch_models) == (("example.org", "127.0.0.1"), True)
    page = browser.get("/settings")[1]
    assert says(page, "settings_page.waits") and says(page, "settings_page.next", value="16")
    assert re.search(r'id="max_sequences".*?name="value"[^>]* value="16"', page, re.DOTALL)
    browser.post("/settings/max_sequences", do="default")
    assert load(folder).max_sequences == SETTINGS["max_sequences"].default


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "99999"),
        ("port", "<b>8</b>"),
        ("language", "fr"),
        ("lan", "perhaps"),
        ("token", "short"),
        ("data_dir", "/tmp"),
        ("origin", "x"),
        ("banana", "1"),
        ("model", "two\nlines"),
    ],
)
def test_what_cannot_be_is_refused_and_the_file_stays(name, value, browser, folder):
    before = (folder / "roost.toml").read_bytes()
    status, page = browser.post(f"/settings/{name}", value=value)
    assert status == 422 and "<b>8" not in page
    assert ('role="alert"' in page) == (name in SETTINGS)
    assert (folder / "roost.toml").read_bytes() == before


def test_a_file_that_was_broken_meanwhile_is_left_alone(browser, folder):
    (folder / "roost.toml").write_text("port = [", encoding="utf-8")
    assert browser.get("/settings")[0] == 200
    assert browser.post("/settings/port", value="9000")[0] == 422
    assert (folder / "roost.toml").read_text(encoding="utf-8") == "port = ["


def test_a_guest_chooses_for_its_browser_and_sees_nothing_of_the_server(browser, folder):
    answer = browser.client.get("/settings", headers={"Authorization": f"Bearer {TOKEN}", "Cookie": ""})
    page = answer.get_data(as_text=True)
    assert answer.status_code == 200 and 'data-choose="enter=line"' in page
    assert sources(page) == {} and str(folder) not in page

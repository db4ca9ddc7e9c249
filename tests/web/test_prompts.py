"""The prompt library without a browser, and its store, which personas use too."""

import json
import re

import pytest

from tests.errors import raises_code
from tests.web.apps import open_app
from tests.web.models.conftest import Browser
from tests.web.owner import owner_client
from webapp.settings import Settings
from webapp.storage.saved_items import SavedItems

OPEN_WEBUI = [
    {"command": "/summarize", "user_id": "u", "title": "Summarize", "content": "Sum up:\n{{text}}", "timestamp": 1},
    {"command": "later version", "name": "Later", "content": "{{tone:kind|strict}}", "is_active": True, "meta": None},
]


@pytest.fixture
def browser(tmp_path):
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path, strategy="fake", open_browser=False)
    with open_app(settings) as app:
        yield Browser(owner_client(app), tmp_path, app)


def listed(browser):
    return json.loads(browser.get("/prompts/list")[1])["prompts"]


def test_a_prompt_is_saved_changed_deleted_and_restored(browser):
    status, page = browser.post("/prompts", name="/translate", title="To English", content="Translate:\r\n{{text}}")
    assert status == 200 and "{{text}}" in page
    assert listed(browser) == [{"name": "translate", "title": "To English", "content": "Translate:\n{{text}}"}]
    item_id = re.search(r'href="/prompts/(\w{32})#form"', page)[1]
    form = browser.get(f"/prompts/{item_id}")[1]
    seen = re.search(r'name="seen" value="([\d.]+)"', form)[1]
    given = {"id": item_id, "title": "", "content": "Other"}
    assert browser.post("/prompts", name="tr", seen=seen, **given)[0] == 200
    refused = browser.post("/prompts", name="tr", seen=seen, **{**given, "content": "Mine"})
    assert refused[0] == 422 and 'data-code="item_changed"' in refused[1] and "Mine" in refused[1]
    page = browser.post(f"/prompts/{item_id}/delete")[1]
    assert listed(browser) == []
    browser.post("/prompts/do", do=re.search(r'value="(restore:\w+)"', page)[1])
    assert [row["name"] for row in listed(browser)] == ["tr"]


@pytest.mark.parametrize("name, content", [("", "x"), ("two words", "x"), ("a/b", "x"), ("x" * 61, "x"), ("ok", "  ")])
def test_what_cannot_be_typed_after_a_slash_is_refused_and_kept_in_the_form(browser, name, content):
    status, page = browser.post("/prompts", name=name, title="kept", content=content)
    assert status == 422 and 'data-code="item_invalid"' in page and 'value="kept"' in page and listed(browser) == []


def test_open_webuis_export_is_imported_and_ours_has_its_format(browser):
    browser.post("/prompts", name="Summarize", content="mine")
    assert browser.post("/prompts/import", text=json.dumps(OPEN_WEBUI))[0] == 200
    assert [row["name"] for row in listed(browser)] == ["later-version", "Summarize", "summarize-2"]
    exported = json.loads(browser.get("/prompts/export.json")[1])
    assert exported[0] == {**exported[0], "command": "/later-version", "title": "Later", "name": "Later"}
    assert browser.post("/prompts/import", text=json.dumps(exported))[0] == 200
    assert len(listed(browser)) == 6
    for bad in ("", "[]", "{", '[{"command": "/x"}]', '[{"command": "/x", "content": "ok"}, 3]', "[" * 100_000):
        assert browser.post("/prompts/import", text=bad)[0] == 422
    assert len(listed(browser)) == 6


def test_items_of_one_kind_know_nothing_of_another(database):
    one, other = SavedItems(database, "prompt"), SavedItems(database, "persona")
    made = one.save("", "Bird", {"a": 1}, b"picture")
    assert one.picture(made.id) == b"picture" and other.list() == []
    other.save("", "bird", {})
    for call in (other.get, other.delete, other.restore, other.picture):
        with raises_code("item_not_found"):
            call(made.id)
    with raises_code("item_name_taken"):
        one.save("", "BIRD", {})
    one.save(made.id, "Bird", {}, keeps_picture=False)
    with raises_code("item_not_found"):
        one.picture(made.id)
    one.delete(made.id)
    one.save("", "bird", {})
    assert one.restore(made.id).name == "Bird-2"

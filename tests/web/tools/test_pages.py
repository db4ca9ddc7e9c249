"""Tools are created, changed, tested and imported through the pages; errors are shown at their fields."""

from __future__ import annotations

import io
import json
import re
from html import unescape
from typing import Any

import pytest
from safetensors.numpy import save_file

from tests.web.apps import open_app
from tests.web.owner import owner_client
from tests.weights.make_checkpoints import make_tensors
from tests.wording import says
from webapp.i18n import Text, translate
from webapp.settings import Settings
from webapp.storage.tools import ToolStore

BASE = "http://127.0.0.1"
HTMX = {"HX-Request": "true"}


class Browser:
    def __init__(self, app: Any) -> None:
        self.client = owner_client(app)
        self.tools = ToolStore(app.extensions["database"])

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        answer = self.client.get(path, base_url=BASE, headers=headers)
        return answer.status_code, unescape(answer.get_data(as_text=True))

    def post(self, path: str, htmx: bool = False, **form: Any) -> tuple[int, str, str]:
        headers = {"Origin": BASE, **(HTMX if htmx else {})}
        answer = self.client.post(path, base_url=BASE, headers=headers, data=form)
        return answer.status_code, answer.headers.get("Location", ""), unescape(answer.get_data(as_text=True))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    save_file(make_tensors("7", 1, 64, 64, 256), str(folder / "v7.safetensors"))
    settings = Settings(data_dir=folder, models_dir=folder, model="v7.safetensors", strategy="fake")
    with open_app(settings) as app:
        yield Browser(app)


@pytest.fixture(autouse=True)
def no_tools(browser: Browser):
    yield
    for tool in browser.tools.list():
        browser.tools.delete(tool.id)


WEATHER = {
    "name": "get_weather",
    "description": "Weather",
    "row": ["0", "1", "1.0"],
    "0:name": "city",
    "0:kind": "string",
    "0:required": "1",
    "1:name": "at",
    "1:kind": "object",
    "1.0:name": "days",
    "1.0:kind": "integer",
    "1.0:enum": "1\n3",
    "behaviour": "fixed",
    "fixed_value": "22",
    "approval": "once",
}


def test_a_tool_is_defined_in_the_form_and_shown_in_it_again(browser: Browser) -> None:
    status, where, _ = browser.post("/tools", **WEATHER)
    assert status == 303
    stored = browser.tools.list()[0].definition
    assert stored.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "at": {"type": "object", "properties": {"days": {"type": "integer", "enum": [1, 3]}}},
        },
        "required": ["city"],
    }
    status, page = browser.get(where)
    assert status == 200 and 'value="city"' in page and 'name="1.0:enum"' in page
    status, page = browser.get("/tools")
    assert "get_weather(city: string, at?: {days?: 1 | 3})" in page


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"name": "two words"}, "name"),
        ({"0:name": ""}, "0:name"),
        ({"1:name": "city"}, "1:name"),
        ({"1.0:enum": "1\nfew"}, "1.0:enum"),
        ({"1.0:default": "many"}, "1.0:default"),
        ({"more": "{"}, "more"),
        ({"behaviour": "http", "url": "ftp://x", "method": "GET"}, "url"),
        ({"behaviour": "http", "url": "http://a.example/{town}", "method": "GET", "timeout_s": "5"}, "url"),
        ({"behaviour": "http", "url": "http://a.example/", "method": "GET", "timeout_s": "1e9"}, "timeout_s"),
        ({"behaviour": "http", "url": "http://a.example/", "method": "GET", "headers": "no colon"}, "headers"),
        ({"0:kind": "other", "0:more": '{"$ref": "http://evil.example/"}'}, "json"),
        ({"0:kind": "other", "0:more": '{"type": "string", "pattern": "(?=x)"}'}, "json"),
    ],
)
def test_what_is_wrong_is_said_at_its_field_and_nothing_is_kept(browser: Browser, change: dict, place: str) -> None:
    status, _, page = browser.post("/tools", **{**WEATHER, **change})
    assert status == 422 and browser.tools.list() == []
    assert re.search(rf'has-error"[^>]*data-error="{re.escape(place)}"', page), "not at its field"
    _, _, preview = browser.post("/tools/preview", htmx=True, **{**WEATHER, **change})
    assert re.search(rf'<template data-error-of="{re.escape(place)}">\S', preview)


def test_rows_are_added_moved_and_removed_without_losing_what_is_typed(browser: Browser) -> None:
    _, _, page = browser.post("/tools/form", htmx=True, **WEATHER, do="add:1")
    assert 'name="1.1:name"' in page and 'value="days"' in page and "<html" not in page
    _, _, page = browser.post("/tools/form", htmx=True, **WEATHER, do="up:1")
    assert re.search(r'name="0:name" value="at"', page) and re.search(r'name="1:name" value="city"', page)
    _, _, page = browser.post("/tools/form", htmx=True, **WEATHER, do="remove:1")
    assert 'name="1:name"' not in page and "<html" not in page
    _, _, page = browser.post("/tools/form", **WEATHER, do="add:")
    assert "<html" in page and 'name="2:name"' in page


def test_a_form_without_a_name_is_told_of_no_error_yet(browser: Browser) -> None:
    assert "tool-problem" in browser.get("/tools/new")[1] and "note-bad" not in browser.get("/tools/new")[1]
    assert "note-bad" in browser.post("/tools/preview", htmx=True, name="two words")[2]


def test_the_json_next_to_the_form_works_in_both_directions(browser: Browser) -> None:
    _, _, preview = browser.post("/tools/preview", htmx=True, **WEATHER)
    assert '"name": "get_weather"' in preview and says(preview, "tools.preview.sample")
    changed = json.dumps({"name": "other", "parameters": {"type": "object", "properties": {"n": {"type": "number"}}}})
    _, _, page = browser.post("/tools/form", htmx=True, **WEATHER, do="json", json=changed)
    assert 'value="other"' in page and re.search(r'name="0:name" value="n"', page)
    _, _, page = browser.post("/tools/form", htmx=True, **WEATHER, do="json", json="{")
    assert re.search(r'has-error"[^>]*data-error="json"', page) and 'value="get_weather"' in page
    assert re.search(r'id="tool-json"[^>]*>\s*{</textarea>', page)  # to be corrected, not typed again
    _, _, page = browser.post("/tools/form", htmx=True, **{**WEATHER, "name": "a b"}, do="add:", json='{"kept": 1}')
    assert '{"kept": 1}</textarea>' in page


def test_a_tool_is_tried_before_it_is_saved(browser: Browser) -> None:
    _, _, page = browser.post("/tools/try", htmx=True, **WEATHER, arguments='{"city": "Paris"}')
    assert '<pre class="tool-text">22</pre>' in page
    _, _, page = browser.post("/tools/try", htmx=True, **WEATHER, arguments='{"city": 3}')
    assert says(page, "tools.try.failed") and browser.tools.list() == []
    answer = browser.client.post(
        "/tools/try?lang=zh", base_url=BASE, headers={"Origin": BASE}, data={**WEATHER, "arguments": "{}"}
    )
    missing = Text("reason.tools.names_are_missing", names="'city'")
    assert translate("reason.tools.arguments_do_not_fit", "zh", problems=missing) in unescape(
        answer.get_data(as_text=True)
    )
    _, _, page = browser.post(
        "/tools/try?lang=en", htmx=True, **{**WEATHER, "fixed_value": ""}, arguments='{"city": "x"}'
    )
    assert says(page, "tools.try.empty")


def test_lists_are_imported_whole_or_not_at_all_and_exported(browser: Browser) -> None:
    tools = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in "ab"]
    status, _, _ = browser.post("/tools/import", text=json.dumps(tools))
    assert status == 303 and [tool.definition.name for tool in browser.tools.list()] == ["a", "b"]
    status, page = browser.get("/tools/export")
    assert [row["function"]["name"] for row in json.loads(page)] == ["a", "b"]
    for text in (json.dumps([*tools, {"name": "c d"}]), "[", "3", "[]", json.dumps([{"name": "c"}, {"name": "c"}])):
        status, _, page = browser.post("/tools/import", text=text)
        assert status == 422 and len(browser.tools.list()) == 2


@pytest.mark.parametrize(
    "made",
    [
        '{"name": "a", "input_schema": PARAMETERS}',
        '[{"name": "a", "inputSchema": PARAMETERS}]',
        '[{"type": "function", "name": "a", "strict": true, "parameters": PARAMETERS}]',
        '{"tools": [{"function": {"name": "a", "parameters": PARAMETERS}}]}',
        '{"functions": [{"name": "a", "parameters": PARAMETERS}]}',
    ],
)
def test_what_other_products_export_keeps_its_parameters(browser: Browser, made: str) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    file = io.BytesIO(b"\xef\xbb\xbf" + made.replace("PARAMETERS", json.dumps(parameters)).encode())
    assert browser.post("/tools/import", file=(file, "tools.json"))[0] == 303
    assert browser.tools.list()[0].definition.parameters == parameters


def test_an_import_says_which_of_its_tools_is_wrong(browser: Browser) -> None:
    _, _, page = browser.post("/tools/import", text='[{"name": "a"}, {"name": "b c"}]')
    assert "tools[1].name" in page and browser.tools.list() == []


def test_a_schema_larger_than_the_forms_buttons_make_is_saved_whole(browser: Browser) -> None:
    names = [str(number) for number in range(300)]
    form = {**WEATHER, "row": names, **{f"{name}:name": f"p{name}" for name in names}}
    assert browser.post("/tools", **form)[0] == 303
    assert len(browser.tools.list()[0].definition.parameters["properties"]) == len(names)


def test_lines_of_text_stay_lines(browser: Browser) -> None:
    browser.post("/tools", **{**WEATHER, "fixed_value": "a\r\nb", "0:description": "c\r\nd"})
    definition = browser.tools.list()[0].definition
    assert definition.fixed_value == "a\nb" and definition.parameters["properties"]["city"]["description"] == "c\nd"
    _, page = browser.get(f"/tools/{browser.tools.list()[0].id}")
    assert ">\nc\nd</textarea>" in page  # an input has one line


def test_a_deleted_tool_is_restored_by_its_toast(browser: Browser) -> None:
    browser.post("/tools", **WEATHER)
    tool_id = browser.tools.list()[0].id
    _, where, _ = browser.post(f"/tools/{tool_id}/delete")
    _, page = browser.get(where)
    assert f'value="restore:{tool_id}"' in page and browser.tools.list() == []
    browser.post("/tools/do", do=f"restore:{tool_id}")
    assert [tool.id for tool in browser.tools.list()] == [tool_id]


def test_built_in_tools_are_added_once(browser: Browser) -> None:
    assert browser.post("/tools/builtin", name="calculate")[0] == 303
    assert browser.post("/tools/builtin", name="calculate")[0] == 422
    assert browser.post("/tools/builtin", name="nothing")[0] == 303
    assert [tool.definition.name for tool in browser.tools.list()] == ["calculate"]


def test_two_people_editing_one_tool_overwrite_nothing(browser: Browser) -> None:
    browser.post("/tools", **WEATHER)
    tool = browser.tools.list()[0]
    seen = repr(tool.updated_at)
    assert browser.post(f"/tools/{tool.id}", **{**WEATHER, "description": "first", "updated_at": seen})[0] == 303
    status, _, page = browser.post(f"/tools/{tool.id}", **{**WEATHER, "description": "second", "updated_at": seen})
    assert status == 422 and says(page, "reason.storage.changed_elsewhere") and "second" in page
    assert browser.tools.get(tool.id).definition.description == "first"


@pytest.mark.parametrize("path", ["/tools/nothing", "/tools/" + "0" * 32, "/tools/../etc"])
def test_a_tool_that_is_not_there_is_not_found(browser: Browser, path: str) -> None:
    assert browser.get(path)[0] == 404


def test_hostile_names_and_values_stay_text(browser: Browser) -> None:
    hostile = '"><script>alert(1)</script>'
    answer = browser.client.post(
        "/tools", base_url=BASE, headers={"Origin": BASE}, data={**WEATHER, "0:name": hostile, "description": hostile}
    )
    where = answer.headers["Location"]
    page = browser.client.get(where, base_url=BASE).get_data(as_text=True)
    assert "<script>alert" not in page
    page = browser.client.get("/tools", base_url=BASE).get_data(as_text=True)
    assert "<script>alert" not in page

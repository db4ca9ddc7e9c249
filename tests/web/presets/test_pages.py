"""The preset pages: their content, the effect of a posted form, and that no input is lost."""

import json
import re

import pytest

from tests.web.presets.conftest import BASE, OWN
from tests.web.presets.posted_form import form_of
from tests.wording import pattern, says, text
from webapp.services.presets.fields import PARAMETERS


def name_of(page, preset_id):
    return re.search(rf'href="/presets/{preset_id}">([^<]*)</a>', page)[1]


def test_the_list_shows_own_and_shipped_ones_and_marks_the_active(browser):
    mine = browser.presets.create("Mine & yours", {"temperature": 1.5})
    status, page = browser.get("/presets")
    assert (
        status == 200
        and name_of(page, mine.id) == "Mine &amp; yours"
        and f"{text('sampling.temperature.label')} 1.5" in page
    )
    assert all(preset.id in page for preset in browser.presets.list())
    marked = re.findall(r'<li class="row is-current">.*?href="/presets/(\w+)"', page, re.DOTALL)
    assert marked == [browser.presets.active().id] and page.count("badge-accent") == 1


def test_shipped_presets_speak_the_readers_language(browser):
    precise = browser.presets.find("precise")
    names = [name_of(browser.get(f"/presets?lang={locale}")[1], precise.id) for locale in ("en", "zh")]
    assert names[0] == "Precise" and re.search("[\u4e00-\u9fff]", names[1])


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_every_parameter_is_on_the_page_with_its_help(browser, locale):
    from webapp.i18n import translate

    page = browser.get(
        f"/presets/{browser.presets.create('Mine', {'strategy': 'cuda fp16i8 *2 -> cpu fp32'}).id}?lang={locale}"
    )[1]
    page += browser.part(
        "/presets/builder", model="six.safetensors", build_kind="cuda", build_precision="int8", lang=locale
    )
    for row in PARAMETERS:
        assert translate(row.label_key, locale) in page, row.name
        assert translate(row.help_key, locale).split("“")[0].split("'")[0][:40] in page, row.name
        assert re.search(rf'name="(build_)?{row.name}"', page), row.name


def test_saving_changes_what_was_posted_and_nothing_else(browser):
    mine = browser.presets.create("Mine", {"temperature": 1.5, "top_p": 0.5, "global_penalty": True, "stop": ["END"]})
    status, where, _ = browser.save(mine.id, temperature="0.25", system_prompt="Be kind.\r\nBe brief.")
    saved = browser.presets.get(mine.id)
    assert status == 303 and "saved=temperature,system_prompt" in where.replace("%2C", ",")
    assert saved.sampling == {"temperature": 0.25, "top_p": 0.5, "global_penalty": True}
    assert (saved.system_prompt, saved.stop) == ("Be kind.\nBe brief.", ("END",))


def test_a_value_at_its_default_is_no_override(browser):
    mine = browser.presets.create(
        "Mine", {"temperature": 1.5, "threads": 4, "idle_unload_s": 60, "global_penalty": True}
    )
    browser.save(mine.id, temperature="1", threads="0", idle_unload_s="", global_penalty="0")
    saved = browser.presets.get(mine.id)
    assert saved.sampling == {} and saved.options == {}


def test_saving_says_to_whom_it_applies(browser):
    mine = browser.presets.create("Mine")

    def said(value):
        return browser.get(browser.save(mine.id, temperature=value)[1])[1]

    names = text("sampling.temperature.label")
    assert says(said("0.5"), "preset_page.saved.inactive", names=names)
    browser.presets.set_active(mine.id)
    assert says(said("1.2"), "preset_page.saved.applied", names=names)
    assert says(browser.save(mine.id, temperature="x")[2], "preset_page.saved.not")


def test_a_switch_that_is_on_sends_both_its_fields(browser):
    mine = browser.presets.create("Mine")
    browser.save(mine.id, global_penalty=["0", "1"])
    assert browser.presets.get(mine.id).sampling == {"global_penalty": True}


def test_what_differs_from_the_default_has_a_dot(browser):
    mine = browser.presets.create("Mine", {"temperature": 1.5})
    page = browser.get(f"/presets/{mine.id}")[1]
    changed = re.findall(r'form-row[^"]*is-changed[^>]*>.*?for="field-(\w+)"', page, re.DOTALL)
    assert changed == ["temperature"]
    assert f'data-reset="1" aria-label="{text("controls.reset", value=1)}"' in page


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", "1000000000"), ("temperature", "NaN"), ("temperature", "9"), ("top_p", "two"), ("top_k", "1.5"),
        ("seed", "-1"), ("prefill_chunk", "70000"), ("system_prompt", "x" * 20_001), ("template", "nothing"),
        ("think_mode", "x"), ("name", "   "), ("threads", "1e400"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_shown_again_with_its_error(browser, name, value):
    mine = browser.presets.create("Mine", {"top_p": 0.5})
    status, _, page = browser.save(mine.id, **{"min_p": "0.07", "note": "my words", name: value})
    assert status == 422 and browser.presets.get(mine.id) == mine
    wrong = page[page.index(f'id="field-{name}-error"') :]
    assert len(re.match(r"[^>]*>([^<]+)<", wrong)[1]) > 10
    assert 'value="0.07"' in page and 'value="my words"' in page and "data-unsaved" in page
    if name != "template" and name != "think_mode":
        assert value.strip()[:50] in page


def test_in_two_tabs_the_later_save_is_refused_and_keeps_its_input(browser):
    mine = browser.presets.create("Mine")
    page = browser.get(f"/presets/{mine.id}")[1]
    expected = re.search(r'name="expected" value="([^"]+)"', page)[1]
    assert browser.save(mine.id, expected=expected, temperature="0.5")[0] == 303
    status, _, page = browser.save(mine.id, expected=expected, temperature="0.9", system_prompt="Typed here")
    assert status == 409 and browser.presets.get(mine.id).sampling == {"temperature": 0.5}
    assert "Typed here" in page and 'value="0.9"' in page
    table = page[page.index('id="conflict"') : page.index('id="preset"')]
    assert ">0.5<" in table and ">0.9<" in table and 'data-take="temperature" data-value="0.5"' in table
    again = re.search(r'name="expected" value="([^"]+)"', page)[1]
    assert browser.save(mine.id, expected=again, temperature="0.9")[0] == 303
    assert browser.presets.get(mine.id).sampling == {"temperature": 0.9}


def test_saving_the_active_preset_says_what_holds_and_what_needs_a_reload(browser):
    mine = browser.presets.create("Mine", {"model": "roost-starter-v7.safetensors"})
    browser.presets.apply(mine.id)
    browser.manager.wait_ready(60)
    _, where, _ = browser.save(mine.id, temperature="0.5", model="six.safetensors")
    page = browser.get(where)[1]
    assert re.search(pattern("preset_page.saved.reload"), page)
    assert re.search(pattern("preset_page.in_use.reload.title"), browser.part(f"/presets/{mine.id}/in-use"))
    assert browser.manager.status().model == "roost-starter-v7.safetensors"
    browser.save(mine.id, do="save_and_use")
    assert browser.manager.wait_ready(60).model == "six.safetensors"
    assert "note-good" in browser.part(f"/presets/{mine.id}/in-use")


def test_a_state_that_does_not_fit_is_refused_in_place_and_the_old_one_stays(browser):
    mine = browser.presets.create("Mine", {"model": "roost-starter-v7.safetensors", "state": "poet.safetensors"})
    browser.presets.apply(mine.id)
    browser.manager.wait_ready(60)
    status, _, page = browser.save(mine.id, state="other.safetensors", temperature="0.5")
    assert status == 422 and browser.presets.get(mine.id) == mine
    wrong = page[page.index('id="field-state-error"') :]
    said = re.match(r"[^>]*>([^<]+)<", wrong)[1]
    assert text("states.mismatch.layers") in said and set(re.findall(r"\b\d+\b", said)) == {"2", "5"}
    assert browser.manager.status().state == "poet.safetensors" and 'value="0.5"' in page


def test_states_that_do_not_fit_cannot_be_chosen(browser):
    mine = browser.presets.create("Mine", {"model": "roost-starter-v7.safetensors"})
    page = browser.get(f"/presets/{mine.id}")[1]
    assert '<option value="poet.safetensors">' in page and '<option value="other.safetensors" disabled>' in page


def test_a_model_that_is_not_here_stays_what_the_preset_names(browser):
    coding = browser.presets.find("coding")
    page = browser.get(f"/presets/{coding.id}")[1]
    shown = text("preset_page.not_here", name=coding.model)
    assert f'<option value="{coding.model}" selected>{shown}' in page
    browser.save(coding.id, temperature="0.2", model=coding.model)
    assert browser.presets.get(coding.id).model == coding.model


def test_an_unchanged_translated_name_is_no_change_of_name(browser):
    precise = browser.presets.find("precise")
    page = browser.get(f"/presets/{precise.id}?lang=zh")[1]
    shown = re.search(r'id="field-name" name="name"[^>]*value="([^"]+)"', page)[1]
    note = re.search(r'id="field-note" name="note"[^>]*value="([^"]+)"', page)[1]
    browser.client.get("/presets?lang=zh", base_url="http://127.0.0.1")
    browser.save(precise.id, name=shown, note=note, temperature="0.1")
    saved = browser.presets.get(precise.id)
    assert (saved.name, saved.note, saved.sampling["temperature"]) == (precise.name, precise.note, 0.1)


def test_a_new_preset_begins_as_its_template(browser):
    creative = browser.presets.find("creative")
    status, where, _ = browser.post("/presets/do", **{"do": "create", "from": creative.id, "name": "My tales"})
    made = browser.presets.get(where.rpartition("/")[2])
    assert status == 303 and (made.name, made.sampling, made.shipped_key) == ("My tales", creative.sampling, "")
    assert browser.post("/presets/do", **{"do": "create", "from": creative.id})[0] == 303
    assert [p.name for p in browser.presets.list() if not p.shipped_key] == ["Creative (2)", "My tales"]


def test_a_new_preset_from_nothing_needs_a_name_and_keeps_what_was_typed(browser):
    status, _, page = browser.post("/presets/do", do="create", name=" ")
    assert status == 422 and "error-text" in page
    browser.presets.create("Taken")
    assert browser.post("/presets/do", do="create", name="Taken")[0] in (409, 422)
    assert browser.post("/presets/do", do="create", name="Free")[0] == 303


def test_a_deleted_preset_is_restored_by_the_toast(browser):
    mine = browser.presets.create("Mine")
    _, where, _ = browser.post("/presets/do", do=f"delete:{mine.id}")
    page = browser.get(where)[1]
    assert "Mine" not in page and f'name="do" value="restore:{mine.id}"' in page
    browser.post("/presets/do", do=f"restore:{mine.id}")
    assert browser.presets.get(mine.id).name == "Mine"


def test_an_undo_in_the_address_is_believed_only_in_its_form(browser):
    page = browser.get("/presets?said=deleted&undo=delete:" + "0" * 32)[1]
    assert "delete:000" not in page
    assert "&lt;b" not in browser.get("/presets?said=<b>&saved=<b>")[1]
    mine = browser.presets.create("Mine")
    assert "&lt;b" not in browser.get(f"/presets/{mine.id}?saved=<b>,temperature&reload=<b>")[1]


def test_duplicate_rename_and_reset(browser):
    precise = browser.presets.find("precise")
    browser.save(precise.id, temperature="2")
    _, where, _ = browser.post("/presets/do", do=f"duplicate:{precise.id}")
    copy = browser.presets.get(where.rpartition("/")[2])
    assert copy.sampling["temperature"] == 2 and copy.name == "Precise (2)"
    browser.post("/presets/do", do=f"rename:{copy.id}", name="Wild")
    assert browser.presets.get(copy.id).name == "Wild"
    browser.post("/presets/do", do=f"reset:{precise.id}")
    assert browser.presets.get(precise.id) == precise


def test_using_a_preset_whose_model_is_missing_says_so_and_changes_nothing(browser):
    before = browser.presets.active().id
    status, _, page = browser.post("/presets/do", do=f"use:{browser.presets.find('translation').id}")
    assert status == 404 and "toast-error" in page and browser.presets.active().id == before


def test_export_and_import_bring_the_same_preset(browser):
    mine = browser.presets.create("诗人", {"temperature": 1.25, "stop": ["\n\nUser:"], "note": "晚上"})
    answer = browser.client.get(f"/presets/{mine.id}/export.json", base_url="http://127.0.0.1")
    assert "attachment" in answer.headers["Content-Disposition"] and answer.mimetype == "application/json"
    text = answer.get_data(as_text=True)
    assert json.loads(text)["presets"][0]["name"] == "诗人"
    _, where, _ = browser.post("/presets/do", do="import", text=text)
    assert says(browser.get(where)[1], "preset_page.done.imported", count=1)
    copy = browser.presets.find("诗人 (2)")
    assert (copy.sampling, copy.stop, copy.note) == (mine.sampling, mine.stop, mine.note)


def test_a_file_of_rwkv_runner_is_imported(browser):
    import io

    text = json.dumps({"modelConfigs": [{"name": "GPU-2G", "apiParameters": {"temperature": 0.7, "topP": 0.6}}]})
    browser.post("/presets/do", do="import", file=(io.BytesIO(text.encode()), "config.json"))
    assert browser.presets.find("GPU-2G").sampling["temperature"] == 0.7


@pytest.mark.parametrize(
    "text",
    ["", "not json", "[]", "{}", "[" * 50_000, '{"format": "roost-presets", "version": 99}', '{"format": 7}',
     '{"format": "roost-presets", "version": 1, "presets": [{"name": "x", "temperature": 1e999}]}',
     '{"format": "roost-presets", "version": 1, "presets": [{"name": "x"}, {"name": "y", "top_p": "high"}]}'],
)  # fmt: skip
def test_a_bad_import_is_refused_completely_and_its_text_is_shown_again(browser, text):
    before = browser.presets.list()
    status, _, page = browser.post("/presets/do", do="import", text=text)
    assert 400 <= status < 500 and browser.presets.list() == before
    assert "note-bad" in page and "<details" in page and text[:200] in page


def test_a_file_that_is_no_text_is_refused(browser):
    import io

    status, _, page = browser.post("/presets/do", do="import", file=(io.BytesIO(b"\xff\xfe\x00\x80" * 100), "x.json"))
    assert status == 422 and "note-bad" in page


@pytest.mark.parametrize("do", ["", "nothing", "delete", "delete:../../x", f"use:{'0' * 32}", "reset:x", "rename:"])
def test_a_command_that_cannot_be_is_answered_with_the_list(browser, do):
    before = browser.presets.list()
    status, _, page = browser.post("/presets/do", do=do, name="x")
    assert 400 <= status < 500 and "toast-error" in page and browser.presets.list() == before


@pytest.mark.parametrize("path", ["/presets/x", f"/presets/{'0' * 32}", "/presets/..%2f..", "/presets/x/export.json"])
def test_a_preset_that_is_not_there_leads_back(browser, path):
    status, page = browser.get(path)
    assert status == 404 and 'href="/"' in page


def test_another_sites_form_changes_nothing(browser):
    mine = browser.presets.create("Mine")
    for path, form in ((f"/presets/{mine.id}", {"temperature": "2"}), ("/presets/do", {"do": f"delete:{mine.id}"})):
        answer = browser.client.post(
            path, base_url="http://127.0.0.1", headers={"Origin": "http://evil.example"}, data=form
        )
        assert answer.status_code == 403
    assert browser.presets.get(mine.id) == mine


def test_names_are_escaped_everywhere(browser):
    mine = browser.presets.create('<img src=x onerror="alert(1)">', {"note": "</textarea><script>"})
    for path in ("/presets", "/presets/new", f"/presets/{mine.id}"):
        page = browser.get(path)[1]
        assert "<img src=x" not in page and "</textarea><script>" not in page


def test_pages_stay_light(tmp_path):
    from tests.web.chat.running_roost import RunningRoost, fake_strategy

    roost = RunningRoost(tmp_path, fake_strategy())
    try:
        presets = roost.app.extensions["presets"]
        for number in range(30):
            presets.create(f"Preset {number}", {"temperature": 1.5})
        for path in ("/presets", "/presets/new", "/presets/compare", f"/presets/{presets.active().id}"):
            assert roost.weight(path) < 150 * 1024, path
    finally:
        roost.stop()


def test_tools_are_ticked_by_name_and_one_that_is_not_there_is_kept(browser):
    from webapp.storage.tools import ToolStore
    from webapp.tools.definition import ToolDefinition

    ToolStore(browser.app.extensions["database"]).create(ToolDefinition("weather", ""))
    mine = browser.presets.create("Mine", {"tools": ["elsewhere"]})
    page = browser.get(f"/presets/{mine.id}")[1]
    boxes = re.findall(r'type="checkbox" name="tools"[^>]*value="(\w+)"( checked)?', page)
    assert boxes == [("weather", ""), ("elsewhere", " checked")] and "elsewhere (not found)" in page
    browser.save(mine.id, tools=["", "weather", "elsewhere"])
    assert browser.presets.get(mine.id).tools == ("weather", "elsewhere")
    browser.save(mine.id, tools=[""])
    assert browser.presets.get(mine.id).tools == ()


@pytest.mark.parametrize("do", ["save", "preview"])
def test_defaults_follow_the_model_that_is_chosen_in_the_form(browser, monkeypatch, do):
    """The frequency penalty of the small starter must not remain for a large model that is chosen next."""
    sizes = {entry.inspection.parameters: entry.name for entry in browser.manager.library.list()}
    small, large = sizes[min(sizes)], sizes[max(sizes)]
    monkeypatch.setattr("webapp.services.presets.presets.TINY_PARAMETERS", max(sizes))
    mine = browser.presets.create("Mine", {"model": small, "top_p": 0.5})
    posted = form_of(browser.get(f"/presets/{mine.id}")[1])
    assert (posted["frequency_penalty"], posted["top_p"]) == (["0.2"], ["0.5"])

    changed = {**posted, "model": large, "temperature": "1.5", "do": do}
    answer = browser.client.post(f"/presets/{mine.id}", base_url=BASE, headers=OWN, data=changed, follow_redirects=True)
    shown = form_of(answer.get_data(as_text=True))
    assert (shown["frequency_penalty"], shown["top_p"], shown["temperature"]) == (["1"], ["0.5"], ["1.5"])
    browser.save(mine.id, **shown)
    assert browser.presets.get(mine.id).sampling == {"top_p": 0.5, "temperature": 1.5}


@pytest.mark.parametrize("drawn", ["", "{", "[1]", "9" * 5000, '{"frequency_penalty": "x", "other": 1}', "[" * 1999])
def test_a_form_without_its_defaults_is_read_all_the_same(browser, drawn):
    mine = browser.presets.create("Mine")
    assert browser.save(mine.id, drawn=drawn, temperature="1", top_p="0.9")[0] == 303
    assert browser.presets.get(mine.id).sampling == {"top_p": 0.9}

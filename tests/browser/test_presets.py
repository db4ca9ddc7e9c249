"""A preset from a template to the next answer, in a real browser: the engine gets the saved values."""

import json
import logging
import shutil

import pytest

from tests.browser.acting import ask, expect, told, undo, until, until_there
from tests.web.chat.running_roost import RunningRoost, fake_strategy, models_dir
from tests.weights.make_checkpoints import write_state
from tests.wording import text
from webapp.backends.fake import FakeBackend


@pytest.fixture
def roost(tmp_path):
    """With a state that fits its model."""
    folder = tmp_path / "models"
    shutil.copytree(models_dir(), folder)
    (folder / "states").mkdir()
    write_state(folder / "states" / "poet.safetensors", n_layer=1, n_head=1, head_size=64)
    roost = RunningRoost(tmp_path / "data", fake_strategy("Well."), models_dir=folder)
    yield roost
    roost.stop()


@pytest.fixture
def used(caplog):
    """used() -> the engine's parameters for the newest answer, from the log."""
    caplog.set_level(logging.INFO, "webapp.requests")

    def used():
        rows = [json.loads(record.message) for record in caplog.records if record.name == "webapp.requests"]
        return [row for row in rows if row["event"] == "begins"][-1]

    return used


@pytest.fixture
def loads(monkeypatch):
    """One entry for each load of a model."""
    found = []
    load = FakeBackend.load

    def counted(*args, **options):
        found.append(1)
        return load(*args, **options)

    monkeypatch.setattr(FakeBackend, "load", counted)
    return found


def test_a_preset_from_a_template_applies_to_the_next_answer(roost, visit, used, loads):
    creative = roost.app.extensions["presets"].find("creative")
    page = visit(roost.url)
    ask(page)
    plain = used()

    page.goto(f"{roost.url}/presets")
    page.click(".page-actions .button-main")
    page.check(f"input[value='{creative.id}']")
    page.fill("#new-name", "Evenings")
    page.click("[value=create]")
    page.click("#in-use [value^=use]")
    page.wait_for_selector("#in-use.note-good")

    page.fill("#field-temperature", "0.35")
    page.select_option("#field-state", "poet.safetensors")
    told(page, "#save-text", "preset_page.bar.at_once")
    expect(page, "#save-and-use").to_be_hidden()
    expect(page, ".is-changed #field-temperature").to_be_visible()
    page.click(".save-bar [value=save]")
    page.wait_for_selector("#strip:has-text('poet.safetensors')")

    page.goto(roost.url)
    ask(page, "And now?")
    assert used()["sampling"]["temperature"] == 0.35 != plain["sampling"]["temperature"]
    assert used()["state"] == "poet.safetensors" and used()["digest"] != plain["digest"]
    assert len(loads) == 1

    address = f"/presets/{roost.app.extensions['presets'].active().id}"
    chinese = roost.get(address, Accept_Language="zh")
    for word in ("at_once", "reload", "save_and_reload"):  # the script fills in the names
        assert text(f"preset_page.bar.{word}", "zh", names="{names}") in chinese
    page.goto(roost.url + address)
    page.check("#build-custom")
    page.wait_for_selector("#field-strategy:not([readonly])")
    page.fill("#field-strategy", fake_strategy("Otherwise."))
    told(page, "#save-text.is-waiting", "preset_page.bar.reload")
    expect(page, "#save-and-use").to_have_text(text("preset_page.bar.save_and_reload"))
    page.click("#save-and-use")
    page.wait_for_selector("#in-use.note-good")
    page.goto(roost.url)
    ask(page, "And at last?")
    expect(page, ".answer:last-child > .prose").to_have_text("Otherwise.")
    assert used()["sampling"]["temperature"] == 0.35 and len(loads) == 2


def test_leaving_with_unsaved_changes_asks_first_and_two_tabs_lose_nothing(roost, visit):
    presets = roost.app.extensions["presets"]
    mine = presets.create("Mine")
    page = visit(f"{roost.url}/presets/{mine.id}")
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.fill("#field-temperature", "0.4")
    page.click(".back")
    until_there(page, asked)
    assert asked == ["beforeunload"] and page.url.endswith(mine.id)  # at once: nobody leaves without an answer to it
    presets.save(mine.id, {"temperature": 0.9})
    page.expected.append("409")
    page.click(".save-bar [value=save]")
    page.wait_for_selector("#conflict td:has-text('0.9')")
    expect(page, "#field-temperature").to_have_value("0.4")
    page.click("[data-take=temperature]")
    expect(page, "#field-temperature").to_have_value("0.9")
    page.fill("#field-temperature", "0.5")
    page.click(".save-bar [value=save]")
    until(page, "!document.querySelector('#conflict')")
    assert presets.get(mine.id).sampling == {"temperature": 0.5}


def test_a_deleted_preset_is_restored_and_a_slider_changes_its_number(roost, visit):
    mine = roost.app.extensions["presets"].create("Mine", {"top_p": 0.9})
    page = visit(f"{roost.url}/presets")
    page.click(f"[popovertarget=menu-{mine.id}]")
    page.click(f"#menu-{mine.id} .menu-danger")
    undo(page)
    page.click(f".row-title a[href='/presets/{mine.id}']")
    page.press(".knob:has(#field-top_p) input[type=range]", "ArrowLeft")
    expect(page, "#field-top_p").to_have_value("0.89")
    page.click(".knob:has(#field-top_p) .knob-reset")
    expect(page, "#field-top_p").to_have_value("0.3")
    page.on("dialog", lambda dialog: dialog.accept())

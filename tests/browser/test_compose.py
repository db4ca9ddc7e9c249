"""Compose in a browser: a piece is heard and seen while it is written, begins anew from a bar, is changed and saved."""

import json
import re
import shutil

import pytest

from tests.browser.acting import expect, until
from tests.music.models import music_model
from tests.web.chat.running_roost import RunningRoost
from webapp.music.events import notes_of
from webapp.music.midi_file import read_midi

MIDI, ABC = "tiny-midi.safetensors", "tiny-abc.safetensors"


@pytest.fixture
def studio(tmp_path, pytestconfig):
    servers = []

    def studio(kind):
        folder = tmp_path / kind
        folder.mkdir()
        shutil.copy(music_model(pytestconfig, kind), folder / f"tiny-{kind}.safetensors")
        model = f"tiny-{kind}.safetensors"
        servers.append(RunningRoost(tmp_path / f"{kind}-data", "torch cpu f32", models_dir=folder, model=model))
        return servers[-1]

    yield studio
    for server in servers:
        server.stop()


def written(page, times):
    page.wait_for_selector(f"#compose[data-written='{times}']:not([data-writing])")


def test_a_piece_is_heard_and_seen_goes_on_from_a_bar_and_is_saved(studio, visit):
    roost = studio("midi")
    page = visit(f"{roost.url}/compose")
    page.wait_for_selector("#compose[data-ready]")
    page.fill("#field-seconds", "12")
    page.select_option("[name=variations]", "2")
    page.click("[data-do=write]")
    page.wait_for_selector("#compose[data-playing]")
    until(page, "roostMusic.player.level > 0.01")
    until(page, "roostMusic.roll.latencies.length > 5")
    written(page, 1)
    expect(page, "#pieces button").to_have_count(2)
    # anew from the second bar: what comes before it stays
    page.evaluate("roostMusic.player.pause(); roostMusic.player.seek(4.5)")
    page.select_option("[name=variations]", "1")
    kept = page.evaluate("Math.floor(roostMusic.player.now / roostMusic.piece().bar) * roostMusic.piece().bar") - 0.1
    notes_before = f"roostMusic.piece().notes.filter((note) => note.start < {kept}).map((note) => note.pitch)"
    before = page.evaluate(notes_before)
    page.click("[data-do=here]")
    written(page, 2)
    assert before  # at once: it was written before
    until(page, f"JSON.stringify({notes_before}) === '{json.dumps(before, separators=(',', ':'))}'")
    # a file of it has the same notes
    with page.expect_download() as download:
        page.click(".compose-files [value='.mid']")
    notes = notes_of(read_midi(download.value.path().read_bytes()))
    until(page, f"roostMusic.piece().notes.length === {len(notes)}")
    # a note that is removed by hand, and brought back; a reload keeps the piece
    count = len(notes)
    page.evaluate("roostMusic.player.pause(); roostMusic.roll.selected = roostMusic.piece().notes[0]")
    page.focus("#roll")
    page.keyboard.press("Delete")
    until(page, f"roostMusic.piece().notes.length === {count - 1}")
    page.click("#undo")
    until(page, f"roostMusic.piece().notes.length === {count}")
    page.reload()
    page.wait_for_selector("#compose[data-ready]")
    until(page, f"roostMusic.piece().notes.length === {count}")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 844})
        until(page, f"document.documentElement.scrollWidth <= {width}")


def test_a_tune_is_a_score_and_begins_anew_at_a_bar_that_is_clicked(studio, visit):
    roost = studio("abc")
    page = visit(f"{roost.url}/compose?lang=zh")
    page.wait_for_selector("#compose[data-ready]")
    page.fill("#compose-text", "L:1/8\nM:4/4\nK:C\nCDEF GABc|cBAG FEDC|CEGc cGEC|")
    page.dispatch_event("#compose-text", "change")
    page.wait_for_selector("#score svg .abcjs-note")
    until(page, "roostMusic.piece().notes.length === 24")
    page.locator("#score .abcjs-note").nth(9).click(force=True)  # the second bar
    expect(page, "#said").not_to_be_empty()
    page.fill("#field-bars", "2")
    page.click("[data-do=here]")
    written(page, 1)
    expect(page, "#compose-text").to_have_value(re.compile(r"^(?!.*cBAG FEDC\|CEGc).*CDEF GABc\|", re.S))
    until(page, "roostMusic.piece().notes.length > 8")

"""Compose in a browser: a piece plays and appears while it is generated, is regenerated from a bar, edited and
saved."""

import json
import re
import shutil

import pytest

from tests.browser.acting import expect, until
from tests.music.models import music_model
from tests.web.chat.running_roost import RunningRoost
from webapp.music.events import notes_of
from webapp.music.midi_file import read_midi


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


def has_notes(page, count):
    until(page, f"roostMusic.piece().notes.length === {count}")


def drop(page, name, data):
    """Drops a file on the page."""
    page.evaluate(
        """([name, data]) => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([data], name));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }""",
        [name, data],
    )


def test_a_piece_is_heard_and_seen_continued_from_a_bar_and_saved(studio, visit):
    roost = studio("midi")
    page = visit(f"{roost.url}/compose")
    page.wait_for_selector("#compose[data-ready]")
    page.fill("#field-seconds", "8")
    page.select_option("[name=variations]", "2")
    page.click("[data-do=loop]")  # it keeps playing, however late the test checks
    page.click("[data-do=write]")
    page.wait_for_selector("#compose[data-playing]")
    until(page, "roostMusic.player.level > 0.01")
    until(page, "roostMusic.roll.latencies.length > 5")
    page.evaluate("roostMusic.player.pause()")  # the sounding notes are drawn 60 times a second
    written(page, 1)
    expect(page, "#pieces button").to_have_count(2)
    page.click("#pieces button:nth-child(2)")
    expect(page, "#pieces button:nth-child(2)").to_have_attribute("aria-pressed", "true")
    # again from the third bar: the part before it is kept, and nothing of it is prefilled
    page.evaluate("roostMusic.player.seek(4.5)")
    page.select_option("[name=variations]", "1")
    notes_before = "roostMusic.piece().notes.filter((note) => note.start < 3.9).map((note) => note.pitch)"
    before = page.evaluate(notes_before)
    page.click("[data-do=here]")
    written(page, 2)
    assert before  # at once: it was written before
    until(page, f"JSON.stringify({notes_before}) === '{json.dumps(before, separators=(',', ':'))}'")
    expect(page, "#compose").to_have_attribute("data-read", "0")
    # its file has the same notes
    with page.expect_download() as download:
        page.click(".compose-files [value='.mid']")
    notes = notes_of(read_midi(download.value.path().read_bytes()))
    has_notes(page, len(notes))
    # a note is removed by hand, and restored; after a reload the piece is still there
    count = len(notes)
    page.evaluate("roostMusic.player.pause(); roostMusic.roll.selected = roostMusic.piece().notes[0]")
    page.focus("#roll")
    page.keyboard.press("Delete")
    has_notes(page, count - 1)
    page.click("#undo")
    has_notes(page, count)
    page.reload()
    page.wait_for_selector("#compose[data-ready]")
    has_notes(page, count)
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        until(page, f"document.documentElement.scrollWidth <= {width}")
    # a file is dropped, a note of it moved up by two rows, and the piece continued
    drop(page, "start.txt", "pi:3c:a t50 pi:3c:0 pi:40:a t50 pi:40:0")
    has_notes(page, 2)
    page.locator("#roll").scroll_into_view_if_needed()
    x, y, row = page.evaluate(
        """() => {
          const { roll } = roostMusic;
          roll.host.scrollLeft = 0;
          roll.draw();
          const box = roll.canvas.getBoundingClientRect();
          return [box.left + roll.x(0) + 12, box.top + roll.y(60) + roll.row / 2, roll.row];
        }"""
    )
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 2 * row, steps=3)
    page.mouse.up()
    until(page, "roostMusic.piece().text.includes('pi:3e:')")
    page.fill("#field-seconds", "2")
    page.click("[data-do=continue]")
    written(page, 1)
    until(page, "roostMusic.piece().text.startsWith('pi:3e:a t50 pi:3e:0 pi:40:a t50 pi:40:0')")


MIDI_KEYBOARD = """() => {
  window.keyboard = {};
  navigator.requestMIDIAccess = async () => ({ inputs: new Map([["1", window.keyboard]]) });
}"""


def test_a_tune_is_a_score_is_regenerated_from_a_bar_and_accepts_played_notes(studio, visit):
    roost = studio("abc")
    page = visit(f"{roost.url}/compose?lang=zh")
    page.wait_for_selector("#compose[data-ready]")
    page.fill("#compose-text", "L:1/8\nM:4/4\nK:C\nCDEF GABc|cBAG FEDC|CEGc cGEC|")
    page.dispatch_event("#compose-text", "change")
    page.wait_for_selector("#score svg .abcjs-note")
    has_notes(page, 24)
    seek = "roostMusic.player.seek({})".format  # the note that sounds is marked
    page.evaluate(seek("roostMusic.piece().notes[8].start"))
    until(page, "document.querySelectorAll('#score .abcjs-note')[8].matches('.is-sounding')")
    page.evaluate(seek(0))
    expect(page, "#score .is-sounding").to_have_count(0)
    page.locator("#score .abcjs-note").nth(9).click(force=True)  # the second bar
    expect(page, "#said").not_to_be_empty()
    page.fill("#field-bars", "2")
    page.click("[data-do=here]")
    written(page, 1)
    expect(page, "#compose-text").to_have_value(re.compile(r"^(?!.*cBAG FEDC\|CEGc).*CDEF GABc\|", re.S))
    until(page, "roostMusic.piece().notes.length > 8")
    # two notes from a MIDI keyboard and one from the computer's, after a dropped tune
    drop(page, "tune.abc", "X:1\nT:Two\nL:1/8\nM:4/4\nK:C\nC4 G4|")
    has_notes(page, 2)
    page.evaluate(MIDI_KEYBOARD)
    page.click("details:has(#piano) > summary")
    until(page, "Boolean(window.keyboard.onmidimessage)")
    page.click("[data-do=record]")
    for pitch in (62, 65):
        page.evaluate(f"keyboard.onmidimessage({{ data: [0x90, {pitch}, 80] }})")
        expect(page, f"[data-pitch='{pitch}'].is-down").to_have_count(1)
        page.evaluate(f"keyboard.onmidimessage({{ data: [0x80, {pitch}, 0] }})")
    page.focus("[data-do=record]")
    page.keyboard.press("a")  # middle C
    page.click("[data-do=record]")
    has_notes(page, 5)
    until(page, "roostMusic.piece().notes.map((note) => note.pitch).sort().join() === '60,60,62,65,67'")
    page.click("#undo")
    has_notes(page, 2)

"""A phone: Enter, sheets, the keyboard, dictation, reading aloud; and the switcher in a chat's header."""

import pytest

from tests.browser.acting import ANSWER, act, ask, expect, until, until_true, wait_done, wait_ready
from tests.wording import text

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
ROW = (".attach", "#send")
KEYBOARD = """height => {
  Object.defineProperty(visualViewport, "height", { value: height, configurable: true });
  visualViewport.dispatchEvent(new Event("resize"));
}"""
VOICES = """
const said = window.said = [];
const voice = (name, lang, localService) => ({ name, lang, localService });
const voices = [voice("far", "en-US", false), voice("near", "en-GB", true), voice("mei", "zh-CN", true)];
Object.defineProperty(window, "SpeechSynthesisUtterance", { value: class { constructor(text) { this.text = text; } } });
Object.defineProperty(window, "speechSynthesis", { value: {
  getVoices: () => voices, addEventListener() {},
  speak: (one) => said.push([one.text, one.lang, one.voice?.name]) && (window.last = one),
  cancel: () => said.push("cancel"),
} });
"""
HEARS = """
window.SpeechRecognition = window.webkitSpeechRecognition = class {
  start() { window.ear = this; }
  stop() { this.onend(); }
  abort() { this.onend(); }
};
const heard = (isFinal, transcript) => Object.assign([{ transcript }], { isFinal });
window.hear = (isFinal, text) => window.ear.onresult({ resultIndex: 0, results: [heard(isFinal, text)] });
"""


def with_scripts(visit, url, script, **options):
    page = visit("about:blank", **options)
    page.add_init_script(script)
    page.goto(url)
    wait_ready(page)
    return page


def test_enter_makes_a_line_on_touch_until_the_settings_say_otherwise(roost, visit):
    page = visit(roost.url, **PHONE)
    wait_ready(page)
    expect(page, "#prompt").to_have_attribute("enterkeyhint", "enter")
    page.fill("#prompt", "one")
    page.press("#prompt", "Enter")
    page.keyboard.type("two")
    expect(page, "#prompt").to_have_value("one\ntwo")
    expect(page, ".message").to_have_count(0)
    page.goto(f"{roost.url}/settings")
    page.click("[data-choose='enter=send']")
    page.click("[data-choose='density=compact']")
    page.wait_for_selector("html[data-density=compact]")
    page.goto(roost.url)
    wait_ready(page)
    expect(page, "html").to_have_attribute("data-density", "compact")
    expect(page, "#prompt").to_have_attribute("enterkeyhint", "send")
    page.press("#prompt", "Enter")
    page.wait_for_selector(".bubble:has-text('two')")


def test_sheets_slide_up_and_the_keyboard_covers_no_composer(roost, visit):
    page = visit(f"{roost.url}/chat/{roost.answered('A thumb')}", **PHONE)
    wait_ready(page)
    for opener, sheet in ((".rail-item[aria-current]", "#chats"), (".chat-head [data-panel-toggle]", "#panel")):
        page.tap(opener)
        page.wait_for_selector(sheet, state="visible")
        box = f"document.querySelector('{sheet}').getBoundingClientRect()"
        until(page, f"{box}.width === 390 && {box}.y > 100")
        page.keyboard.press("Escape")
        page.wait_for_selector(sheet, state="hidden")
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        attach, sends = (f"document.querySelector('#composer {one}').getBoundingClientRect()" for one in ROW)
        until(page, f"Math.abs({attach}.y - {sends}.y) < 6 && {sends}.right <= {width}")
    page.set_viewport_size({"width": 390, "height": 844})
    page.tap(".head-menu")
    page.wait_for_selector("#chat-menu", state="visible")
    until(page, "Math.abs(document.getElementById('chat-menu').getBoundingClientRect().bottom - 844) <= 1")
    page.tap("[aria-controls=menu-save]")
    page.wait_for_selector("[data-menu-export=json]", state="visible")
    page.keyboard.press("Escape")
    page.evaluate(KEYBOARD, 480)
    until(page, "document.getElementById('composer').getBoundingClientRect().bottom <= 480")
    until(page, "document.getElementById('composer').getBoundingClientRect().bottom > 400")
    expect(page, ".rail").to_be_hidden()
    page.evaluate(KEYBOARD, 844)
    until(page, "document.getElementById('composer').getBoundingClientRect().bottom > 600")
    page.set_viewport_size({"width": 390, "height": 430})  # Android itself makes the page smaller
    until(page, "document.getElementById('composer').getBoundingClientRect().bottom <= 430")


def test_the_menu_of_a_row_opens_from_below(roost, visit):
    page = visit(f"{roost.url}/presets", **PHONE)
    page.tap("[popovertarget^=menu-] >> nth=0")
    menu = "document.querySelector('.row-menu:popover-open').getBoundingClientRect()"
    until(page, f"{menu}.width === 390 && Math.abs({menu}.bottom - 844) <= 1")


def test_an_answer_is_read_by_voices_of_its_languages_without_its_code(roost, visit):
    page = with_scripts(visit, roost.url, VOICES)
    ask(page)
    act(page, ANSWER, "[data-speak]")
    until(page, "said.length > 4")
    read = [row for row in page.evaluate("said") if row != "cancel"]  # at once: one press says all of them
    assert ["Copper conducts better than a bird.", "en", "near"] in read
    assert read[-1][1:] == ["zh-CN", "mei"] and not any("voltage" in words for words, _, _ in read)
    expect(page, f"{ANSWER} [data-speak]").to_have_attribute("aria-pressed", "true")
    page.evaluate("last.onend()")
    expect(page, f"{ANSWER} [data-speak]").to_have_attribute("aria-pressed", "false")
    page.evaluate("said.length = 0")
    act(page, ANSWER, "[data-speak]")
    until(page, "said.length > 4")
    page.evaluate("said.length = 0")
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    until(page, "said.length === 1 && said[0] === 'cancel'")


def test_what_is_said_is_typed_at_the_cursor_after_a_word_on_where_the_sound_goes(roost, visit):
    page = with_scripts(visit, roost.url, HEARS)
    page.fill("#prompt", "Why do")
    page.click("#voice")
    page.wait_for_selector("#voice-note", state="visible")
    expect(page, "#voice-note").to_contain_text("Google")
    assert page.evaluate("window.ear === undefined")  # at once: the press has asked instead
    page.click("[data-voice-start]")
    until(page, "Boolean(window.ear)")
    page.evaluate("hear(false, 'birds')")
    expect(page, "#voice-said").to_contain_text("birds")
    expect(page, "#prompt").to_have_value("Why do")
    page.evaluate("hear(true, 'birds sing')")
    expect(page, "#prompt").to_have_value("Why do birds sing")
    page.click("#voice")
    page.wait_for_selector("#voice-said", state="hidden")
    page.wait_for_selector("#voice[aria-pressed=false]")
    page.evaluate("window.ear = undefined")
    page.click("#voice")  # the explanation is shown only once
    until(page, "Boolean(window.ear)")
    page.evaluate("ear.onerror({ error: 'not-allowed' }); ear.onend()")
    expect(page, "#voice-said").to_have_text(text("chat.speech.denied"))


def test_no_microphone_is_offered_where_the_browser_cannot_listen(roost, visit):
    page = visit(roost.url.replace("127.0.0.1", "roost.test"))
    page.expected.append("Cross-Origin-Opener-Policy header has been ignored")
    wait_ready(page)
    expect(page, "#voice").to_be_hidden()


@pytest.mark.parametrize("is_phone", [False, True])
def test_the_head_switches_preset_and_model_by_a_few_letters(own_roost, visit, says, is_phone):
    says(" Birds perch.")
    own_roost.app.extensions["presets"].create("Heron", {"temperature": 0.4})
    page = visit(own_roost.url, **(PHONE if is_phone else {}))
    wait_ready(page)
    page.click("[data-switch]")
    page.wait_for_selector("#switcher .menu-item[aria-current]")
    page.fill("#switch-words", "hero")
    expect(page, "#switcher .menu-item:visible").to_have_count(1)
    page.press("#switch-words", "Enter")
    page.wait_for_selector("#switcher", state="hidden")
    page.wait_for_selector("#knob-temperature", state="attached")
    until(page, "document.getElementById('knob-temperature').value === '0.4'")
    page.fill("#prompt", "Why?")
    page.click("#send")
    wait_done(page)
    page.wait_for_selector("[data-switch]:has-text('Heron')")
    page.click("[data-switch]")
    page.wait_for_selector("#switcher [name=model][aria-current]")
    expect(page, "#switcher [name=preset][aria-current]").to_have_text("Heron")
    page.keyboard.press("Escape")
    page.wait_for_selector("#switcher", state="hidden")
    expect(page, "#switch > *").to_have_count(0)


def test_the_switcher_is_a_page_without_scripts(own_roost, visit):
    own_roost.app.extensions["presets"].create("Heron", {"temperature": 0.4})
    chat = own_roost.store.create(title="Plain").id
    page = visit(f"{own_roost.url}/chat/{chat}", java_script_enabled=False)
    page.click("[data-switch]")
    page.click("#switch [name=preset]:has-text('Heron')")
    page.wait_for_selector(".head-preset:has-text('Heron')")
    page.click("[data-switch]")
    page.click("#switch [name=model]")
    until_true(page, lambda: own_roost.app.extensions["model_manager"].status().phase == "ready")

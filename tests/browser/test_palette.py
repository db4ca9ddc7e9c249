"""The command palette (Ctrl+K) and the help on shortcuts (?), on every page."""

import pytest

from tests.browser.acting import ANSWER, ask, expect, send, until, until_true, wait_done, wait_ready, wait_streaming
from tests.wording import text

FIELD = "#palette-field"
CHOSEN = "#palette [aria-selected=true]"


def opened(page):
    page.keyboard.press("Control+k")
    page.wait_for_selector(f"{FIELD}:focus")


def test_a_page_is_opened_by_a_few_letters(roost, visit):
    page = visit(f"{roost.url}/presets")
    opened(page)
    page.keyboard.type(text("nav.tools")[:4])
    page.wait_for_selector(f"{CHOSEN}:has-text('{text('nav.tools')}')")
    page.keyboard.press("Enter")
    page.wait_for_url("**/tools")


def test_arrows_choose_escape_closes_and_nothing_is_loaded_before(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    expect(page, "#palette").to_have_count(0)
    opened(page)
    first = page.inner_text(CHOSEN)
    page.keyboard.press("ArrowDown")
    until_true(page, lambda: page.inner_text(CHOSEN) != first)
    second = page.inner_text(CHOSEN)
    page.keyboard.press("ArrowUp")
    until_true(page, lambda: page.inner_text(CHOSEN) == first)
    page.keyboard.press("ArrowUp")
    until_true(page, lambda: page.inner_text(CHOSEN) not in (first, second))
    page.fill(FIELD, "nothing is called this")
    page.wait_for_selector("#palette-none:not([hidden])")
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    page.wait_for_selector("#palette", state="hidden")


def test_chats_are_found_by_their_words(roost, visit):
    page = visit(roost.url)
    ask(page, "What does a platypus eat?")
    chat = page.url
    page.goto(f"{roost.url}/models")
    opened(page)
    page.keyboard.type("platypus")
    page.wait_for_selector("#palette-found .palette-row")
    page.wait_for_selector(f"{CHOSEN}:has-text('platypus')")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{chat}**")


def test_commands_are_those_the_page_can_do(roost, visit, pace):
    page = visit(roost.url)
    wait_ready(page)
    stop = text("palette.do.stop")
    opened(page)
    expect(page, f".palette-row:has-text('{stop}')").to_be_hidden()
    page.keyboard.press("Escape")
    pace.token_s = 0.1
    send(page, "Why?")
    wait_streaming(page)
    pace.hold()
    opened(page)
    page.click(f".palette-row:has-text('{stop}')")
    wait_done(page)
    expect(page, f"{ANSWER} .stats").to_contain_text(text("chat.message.stopped"))


def test_escape_in_the_palette_does_not_stop_an_answer(roost, visit, pace):
    page = visit(roost.url)
    wait_ready(page)
    pace.token_s = 0.1
    send(page, "Why?")
    wait_streaming(page)
    pace.hold()
    opened(page)
    page.keyboard.press("Escape")
    page.wait_for_selector("#palette", state="hidden")
    written = f"document.querySelector('{ANSWER} > .prose').textContent.length"
    until(page, f"{written} > {page.evaluate(written) + 2}")  # the answer continues
    expect(page, "#composer[data-answering]").to_have_count(1)


def test_the_look_is_changed(roost, visit):
    page = visit(f"{roost.url}/models")
    opened(page)
    page.keyboard.type(text("theme.dark"))
    page.keyboard.press("Enter")
    expect(page, "html").to_have_attribute("data-theme", "dark")


@pytest.mark.parametrize("path", ["/", "/models"])
def test_a_question_mark_shows_the_keys_but_not_while_typing(roost, visit, path):
    page = visit(roost.url + path)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    expect(page, "#keys").to_contain_text(text("keys.palette"))
    page.keyboard.press("Escape")
    page.wait_for_selector("#keys", state="hidden")
    if path == "/":
        page.focus("#prompt")
        page.keyboard.press("?")
        expect(page, "#prompt").to_have_value("?")
        expect(page, "#keys").to_be_hidden()

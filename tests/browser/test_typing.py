"""Keys, drafts, scrolling, copying."""

import re

from tests.browser.acting import (
    ANSWER,
    ask,
    at_end,
    expect,
    send,
    until,
    until_there,
    until_true,
    wait_done,
    wait_ready,
)
from tests.web.chat.running_roost import ANSWER as ANSWER_TEXT
from tests.web.chat.running_roost import fake_strategy

PRESS = """([code, composing]) => document.getElementById("prompt").dispatchEvent(new KeyboardEvent("keydown",
    {key: "Enter", keyCode: code, isComposing: composing, bubbles: true, cancelable: true}))"""

CODE = "def current(voltage, resistance):\n    return"
# A button shows it for a moment.
KEEP_SAID = """new MutationObserver((changes) => {
    window.said = changes.map(({ target }) => target.dataset.said).find(Boolean) ?? said;
}).observe(document.body, { subtree: true, attributeFilter: ["data-said"] })"""
KEEP_FOCUSED = """window.focused = [];
document.addEventListener("focusin", ({ target }) => focused.push(target.getAttribute("aria-label") ?? target.id))"""

AT_REST = """new Promise(done => {
    const look = seen => seen === scroller.scrollTop ? done(seen) : setTimeout(look, 150, scroller.scrollTop);
    look(-1);
})"""


def test_enter_that_ends_a_composition_does_not_send(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.fill("#prompt", "ni hao")
    for code, composing in ((13, True), (229, False)):
        page.evaluate(PRESS, [code, composing])
    expect(page, "#prompt").to_have_value("ni hao")
    page.fill("#prompt", "ni hao ma")
    page.evaluate(PRESS, [13, False])
    wait_done(page)
    expect(page, ".bubble").to_have_text("ni hao ma")  # nothing was sent before


def test_shift_enter_begins_a_line_and_the_composer_grows(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    height = page.evaluate("document.getElementById('prompt').offsetHeight")
    page.fill("#prompt", "one")
    for _ in range(3):
        page.press("#prompt", "Shift+Enter")
        page.keyboard.type("more")
    expect(page, "#prompt").to_have_value("one\nmore\nmore\nmore")
    until(page, f"document.getElementById('prompt').offsetHeight > {height + 40}")
    expect(page, ".message").to_have_count(0)


def test_what_is_typed_survives_a_reload_and_goes_when_sent(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.fill("#prompt", "not sent yet")
    page.reload()
    expect(page, "#prompt").to_have_value("not sent yet")
    ask(page, "sent")
    page.goto(roost.url)
    wait_ready(page)
    expect(page, "#prompt").to_have_value("")


def test_what_is_typed_while_a_message_is_on_its_way_stays(roost, visit):
    page = visit("about:blank")
    ends, held = [], []

    def between(page_end):
        def from_server(message):
            held.append(message) if '"accepted"' in str(message) else page_end.send(message)

        ends.append(page_end)
        page_end.connect_to_server().on_message(from_server)

    page.route_web_socket("**/ws/chat", between)
    page.goto(roost.url)
    wait_ready(page)
    send(page, "Why can birds")
    page.wait_for_selector(".bubble:has-text('Why can birds')")
    page.keyboard.type(" and cats")
    until_there(page, held)
    ends[-1].send(held.pop())
    expect(page, "#prompt").to_have_value("and cats")


def test_scrolling_up_while_an_answer_streams_is_left_alone(start, visit, pace):
    roost = start(fake_strategy(ANSWER_TEXT, repeat=0))
    page = visit(roost.url, viewport={"width": 1024, "height": 500})
    wait_ready(page)
    pace.token_s = 0.003
    send(page, "Why?")
    until(page, "scroller.scrollHeight > scroller.clientHeight + 500")
    pace.token_s = 0.05
    until(page, "scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60")
    page.hover("#scroller")
    page.mouse.wheel(0, -300)
    page.wait_for_selector("#jump:visible")
    before, height = page.evaluate(AT_REST), page.evaluate("scroller.scrollHeight")
    until(page, f"scroller.scrollHeight > {height + 60}")
    until(page, f"Math.abs(scroller.scrollTop - {before}) < 5")
    page.click("#jump")
    page.wait_for_selector("#jump", state="hidden")
    page.click(".stop")
    wait_done(page)
    at_end(page)


def test_copying_works_on_plain_http(roost, visit):
    page = visit(roost.url.replace("127.0.0.1", "roost.test"))
    until(page, "!window.isSecureContext")
    page.expected.append("Cross-Origin-Opener-Policy header has been ignored")
    ask(page)
    page.evaluate(KEEP_SAID)
    for button, words in ((f"{ANSWER} [data-copy]", ANSWER_TEXT.strip()), (".code-copy", CODE)):
        page.evaluate("said = ''")
        page.click(button)
        until(page, "said === 'Copied'")
        page.fill("#prompt", "")
        page.press("#prompt", "Control+V")
        expect(page, "#prompt").to_have_value(re.compile(re.escape(words)))


def test_slash_searches_and_escape_leads_back(roost, visit):
    page = visit(roost.url)
    ask(page, "Do herons sleep?")
    page.click("#messages")
    page.keyboard.press("/")
    page.keyboard.type("heron")
    page.wait_for_selector(".hit mark:has-text('heron')")
    expect(page, ".chat-list").to_be_hidden()
    page.keyboard.press("Escape")
    page.wait_for_selector(".chat-list:visible")
    page.keyboard.press("Escape")
    until(page, "document.activeElement.id === 'prompt'")


def test_everything_can_be_reached_by_keyboard(roost, visit):
    page = visit(roost.url)
    ask(page)
    wanted = {"Answer again", "Edit", "This chat", "Search all chats", "Write a message", "system-prompt", "knob-top_p"}
    page.focus(".chats-new")
    page.evaluate(KEEP_FOCUSED)
    for _ in range(200):
        page.keyboard.press("Tab")
    until_true(page, lambda: wanted <= set(page.evaluate("focused")), f"one of {wanted}")

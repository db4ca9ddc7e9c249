"""Keys, drafts, scrolling, copying."""

from tests.browser.acting import ANSWER, ask, at_end, send, until, until_there, wait_done, wait_ready
from tests.web.chat.running_roost import ANSWER as ANSWER_TEXT
from tests.web.chat.running_roost import fake_strategy

PRESS = """([code, composing]) => document.getElementById("prompt").dispatchEvent(new KeyboardEvent("keydown",
    {key: "Enter", keyCode: code, isComposing: composing, bubbles: true, cancelable: true}))"""

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
    page.wait_for_timeout(200)
    assert page.locator(".message").count() == 0 and page.input_value("#prompt") == "ni hao"
    page.evaluate(PRESS, [13, False])
    page.wait_for_selector(".bubble:has-text('ni hao')")


def test_shift_enter_begins_a_line_and_the_composer_grows(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    height = page.locator("#prompt").bounding_box()["height"]
    page.fill("#prompt", "one")
    for _ in range(3):
        page.press("#prompt", "Shift+Enter")
        page.keyboard.type("more")
    assert page.input_value("#prompt") == "one\nmore\nmore\nmore"
    assert page.locator("#prompt").bounding_box()["height"] > height + 40
    assert page.locator(".message").count() == 0


def test_what_is_typed_survives_a_reload_and_goes_when_sent(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.fill("#prompt", "not sent yet")
    page.reload()
    assert page.input_value("#prompt") == "not sent yet"
    ask(page, "sent")
    page.goto(roost.url)
    assert page.input_value("#prompt") == ""


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
    until(page, "document.getElementById('prompt').value === 'and cats'")


def test_scrolling_up_while_an_answer_streams_is_left_alone(start, visit, pace):
    roost = start(fake_strategy(ANSWER_TEXT, repeat=0))
    page = visit(roost.url, viewport={"width": 1024, "height": 500})
    wait_ready(page)
    pace.token_s = 0.003
    send(page, "Why?")
    until(page, "scroller.scrollHeight > scroller.clientHeight + 500")
    until(page, "scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60")
    page.hover("#scroller")
    page.mouse.wheel(0, -300)
    page.wait_for_selector("#jump:visible")
    before, height = page.evaluate(AT_REST), page.evaluate("scroller.scrollHeight")
    until(page, f"scroller.scrollHeight > {height + 60}")
    assert abs(page.evaluate("scroller.scrollTop") - before) < 5
    page.click("#jump")
    page.wait_for_selector("#jump", state="hidden")
    page.click(".stop")
    wait_done(page)
    at_end(page)


def test_copying_works_on_plain_http(roost, visit):
    page = visit(roost.url.replace("127.0.0.1", "roost.test"))
    assert page.evaluate("window.isSecureContext") is False
    page.expected.append("Cross-Origin-Opener-Policy header has been ignored")
    ask(page)
    page.click(f"{ANSWER} [data-copy]")
    page.wait_for_selector(f"{ANSWER} [data-said=Copied]")
    page.focus("#prompt")
    page.keyboard.press("Control+V")
    until(page, "document.getElementById('prompt').value !== ''")
    assert page.input_value("#prompt").strip() == ANSWER_TEXT.strip()
    page.fill("#prompt", "")
    page.click(".code-copy")
    page.wait_for_selector(".code-copy[data-said]")
    page.focus("#prompt")
    page.keyboard.press("Control+V")
    until(page, "document.getElementById('prompt').value !== ''")
    assert page.input_value("#prompt").startswith("def current(voltage, resistance):\n    return")


def test_slash_searches_and_escape_leads_back(roost, visit):
    page = visit(roost.url)
    ask(page, "Do herons sleep?")
    page.click("#messages")
    page.keyboard.press("/")
    page.keyboard.type("heron")
    page.wait_for_selector(".hit mark:has-text('heron')")
    assert not page.is_visible(".chat-list")
    page.keyboard.press("Escape")
    page.wait_for_selector(".chat-list:visible")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "prompt"


def test_everything_can_be_reached_by_keyboard(roost, visit):
    page = visit(roost.url)
    ask(page)
    wanted = {"Answer again", "Edit", "This chat", "Search all chats", "Write a message", "system-prompt", "knob-top_p"}
    page.focus(".chats-new")
    for _ in range(200):
        wanted.discard(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.id"))
        if not wanted:
            break
        page.keyboard.press("Tab")
    assert wanted == set()

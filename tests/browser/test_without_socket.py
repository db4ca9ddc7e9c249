"""If WebSockets are blocked, the chat uses HTTP requests, and switches back later."""

from tests.browser.acting import ANSWER, ask, expect, send, until, wait_done, wait_ready, wait_streaming
from tests.wording import text

# As behind a proxy that does not forward Upgrade: every handshake fails while `blocked` is set. A handshake is tried
# every half second instead of after 5 s and then every 30 s.
BLOCKED = """const Real = WebSocket, later = setTimeout;
window.setTimeout = (act, after, ...more) => later(act, [5000, 30000].includes(after) ? 500 : after, ...more);
window.blocked = true;
window.WebSocket = function (url) {
  if (!window.blocked) return (window.last = new Real(url));
  const failed = new EventTarget();
  failed.readyState = 3;
  failed.close = () => 0;
  setTimeout(() => {
    const event = new CloseEvent("close", { code: 1006 });
    failed.dispatchEvent(event);
    failed.onclose?.(event);
  });
  return failed;
};"""


def opened(visit, roost):
    page = visit(roost.url)
    page.add_init_script(BLOCKED)
    page.expected += ["htmx:wsError", "WebSocket", "ERR_", "404"]
    page.reload()
    wait_ready(page)
    return page


def test_the_chat_works_over_requests_and_says_so_and_goes_back(roost, visit):
    page = opened(visit, roost)
    page.wait_for_selector("#polling:not([hidden])")
    expect(page, "#polling").to_contain_text(text("connection.polling"))
    ask(page)
    page.reload()
    wait_ready(page)
    expect(page, ".message").to_have_count(2)
    page.evaluate("window.blocked = false")
    page.wait_for_selector("#polling", state="hidden")
    until(page, "window.last.readyState === 1")
    ask(page, "And now?")


def test_an_answer_is_stopped_over_requests(roost, visit, pace):
    page = opened(visit, roost)
    pace.token_s = 0.1
    send(page, "Why?")
    wait_streaming(page)
    pace.hold()
    page.keyboard.press("Escape")
    wait_done(page)
    expect(page, f"{ANSWER} .stats").to_contain_text(text("chat.message.stopped"))


def test_a_send_that_is_not_confirmed_says_so_within_seconds(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.route_web_socket("**/ws/chat", lambda socket: None)  # opens, but sends nothing
    page.expected += ["htmx:wsError", "WebSocket"]
    page.reload()
    wait_ready(page)
    send(page, "Do you hear me?")
    page.wait_for_selector(f"#lost:has-text('{text('connection.unsure')}')")
    expect(page, "#prompt").to_have_value("Do you hear me?")

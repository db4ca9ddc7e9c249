"""HTML and SVG in an answer, in a live preview: they run, but cannot access the page or a network."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser.acting import ANSWER, ask, expect, until_true

HOSTILE = """<style>p { color: rgb(1, 2, 3) }</style><p id=said>still</p><img src="ELSEWHERE/image">
<link rel=stylesheet href="ELSEWHERE/style"><iframe src="ELSEWHERE/frame"></iframe><script src="ELSEWHERE/script">
</script><form action="ELSEWHERE/form" id=form></form><script>
const tried = [];
const attempt = (name, act) => { try { act(); } catch (error) { tried.push(name); } };
attempt("cookie", () => document.cookie);
attempt("storage", () => localStorage.length);
attempt("parent", () => parent.document.body);
fetch("ELSEWHERE/fetch").catch(() => 0);
attempt("socket", () => new WebSocket("ws" + "ELSEWHERE/socket".slice(4)));
navigator.sendBeacon("ELSEWHERE/beacon");
form.submit();
open("ELSEWHERE/window");
said.textContent = "ran, refused " + tried.join(" ");
</script>"""


@pytest.fixture
def elsewhere():
    """(address, requested paths) of a server that no preview may reach."""
    asked = []

    class Heard(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Heard)  # Chromium also opens connections without a request
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join(30)
    server.server_close()


def frame_of(page):
    page.wait_for_selector(".preview")
    until_true(page, lambda: any(frame.url.endswith("/preview") for frame in page.frames))
    return next(frame for frame in page.frames if frame.url.endswith("/preview"))


def test_a_preview_runs_and_reaches_neither_the_page_nor_a_network(own_roost, visit, says, elsewhere):
    address, asked = elsewhere
    says("Here:\n\n```html\n" + HOSTILE.replace("ELSEWHERE", address) + "\n```\n\nThat is it.")
    page = visit(own_roost.url)
    page.expected += ["policy", "Policy", "sandbox", "Refused", "Blocked", "blocked", "violates", "ERR_"]
    ask(page)
    page.click(f"{ANSWER} .code-preview")
    frame = frame_of(page)
    frame.wait_for_selector("text=ran, refused cookie storage parent")
    expect(frame, "#said").to_have_css("color", "rgb(1, 2, 3)")
    frame.evaluate(f"setTimeout(() => {{ location = '{address}/away' }})")
    # for a forbidden address, the frame shows the browser's own error page; everything else was left or refused before
    until_true(page, lambda: any(each.url.startswith("chrome-error") for each in page.frames))
    assert asked == [] and page.url.startswith(own_roost.url)  # at once: the frame has come to its end
    page.click(f"{ANSWER} .code-preview")
    page.wait_for_selector(".preview", state="detached")


def test_an_answer_that_is_only_a_drawing_has_a_preview_too(own_roost, visit, says):
    says('<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><circle id="c" r="9"/></svg>')
    page = visit(own_roost.url)
    ask(page)
    page.click(f"{ANSWER} [data-preview]")
    frame_of(page).wait_for_selector("svg circle")

"""All malicious inputs on one page in a real browser, with our policy and htmx: nothing may happen."""

import threading

import pytest
from flask import Flask

from tests.browser.acting import until_true
from tests.browser.conftest import CHROMIUM, launched
from tests.web.hostile_markdown import HOSTILE
from tests.web.owner import install_guard
from webapp.resources import resource_dir
from webapp.settings import Settings
from webapp.web.kit.markdown import render_markdown
from webapp.web.serve import make_server

HTMX_CONFIG = '{"allowEval":false,"allowScriptTags":false,"includeIndicatorStyles":false,"selfRequestsOnly":true}'
PAGE = f"""<!doctype html><meta charset="utf-8"><meta name="htmx-config" content='{HTMX_CONFIG}'>
<script src="/pwn.js"></script><script src="/static/vendor/htmx.min.js"></script><body>"""
PWN = """window.pwned = 0; window.pwn = () => { pwned++ }; window.violations = [];
document.addEventListener("securitypolicyviolation", event => violations.push(event.violatedDirective));"""
# Everything that a user could do, except following a link to another site, which is the user's decision.
PROVOKE = """() => { for (const element of document.body.querySelectorAll("*")) {
  for (const type of ["mouseover", "focus", "keydown"]) element.dispatchEvent(new Event(type, {bubbles: true}));
  if (element.tagName === "A" && /^(https?|mailto):/.test(element.href)) continue;
  element.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true}));
} }"""
INSERT = """html => { const box = document.createElement("div"); document.body.append(box); box.innerHTML = html;
  htmx.process(box); }"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (`chromium` on the PATH)"),
]


def make_app(render):
    app = Flask("hostile", static_folder=str(resource_dir("static")), static_url_path="/static")
    install_guard(app, Settings(requests_per_s=1000, request_burst=1000))
    app.add_url_rule(
        "/page", "chat.index", lambda: PAGE + "".join(f"<section>{render(text)}</section>" for text in HOSTILE)
    )
    app.add_url_rule("/empty", "chat.chat", lambda: PAGE)
    app.add_url_rule("/pwn.js", "chat.chats", lambda: app.response_class(PWN, mimetype="text/javascript"))
    return app


@pytest.fixture(scope="module")
def browser():
    yield from launched()


@pytest.fixture
def visit(browser):
    """visit(render, path) -> (page, urls requested): the page open in Chromium."""
    servers, pages = [], []

    def open_page(render, path):
        server = make_server(make_app(render), Settings(port=0, http_threads=4))
        thread = threading.Thread(target=server.run)
        thread.start()
        servers.append((server, thread))
        page, urls = browser.new_page(), []
        pages.append(page)
        page.on("request", lambda request: urls.append(request.url))
        page.goto(f"http://127.0.0.1:{server.addresses[0][1]}{path}")
        return page, urls

    yield open_page
    for page in pages:
        page.close()
    for server, thread in servers:
        server.stop()
        thread.join(60)


def outcome(page, urls):
    """(scripts run, other requests, policy violations) after hovering over and clicking everything."""
    page.evaluate(PROVOKE)
    page.wait_for_timeout(500)  # wait_for_timeout processes events of requests, a sleep would not
    own = ("/page", "/empty", "/pwn.js", "/static/vendor/htmx.min.js", "/favicon.ico")
    foreign = [url for url in urls if not url.endswith(own)]
    return page.evaluate("pwned"), foreign, page.evaluate("violations")


def test_nothing_runs_and_no_request_leaves_a_page_that_arrives_whole(visit):
    page, urls = visit(render_markdown, "/page")
    assert page.locator("section").count() == len(HOSTILE)
    assert outcome(page, urls) == (0, [], [])


def test_nothing_runs_and_no_request_leaves_what_is_inserted_later(visit):
    page, urls = visit(render_markdown, "/empty")
    for text in HOSTILE:
        page.evaluate(INSERT, render_markdown(text))
    assert outcome(page, urls) == (0, [], [])


def test_the_same_page_without_our_pipeline_does_leak(visit):
    """Shows that the test can fail: without sanitising, the policy stops scripts, but htmx attributes and beacons
    work."""
    page, urls = visit(lambda text: text, "/empty")
    for text in HOSTILE:
        page.evaluate(INSERT, text)
    until_true(page, lambda: any(url.endswith("/pwn") for url in urls) and page.evaluate("violations.length"))

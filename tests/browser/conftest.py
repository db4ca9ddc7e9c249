"""One Chromium for all tests here. Every page is checked for errors, violations of its policy and requests to other
hosts.

A test acts on a page only when its scripts are ready: see :func:`acts_wait_for_scripts`. ROOST_TEST_SLOW=8 simulates a
slow machine: an eighth of the CPU speed, and each script is half a second late.
"""

import functools
import os
import shutil
import time
from urllib.parse import urljoin, urlsplit

import flask
import pytest

from tests.browser.acting import PATIENCE_S
from tests.web.chat import running_roost
from tests.web.chat.running_roost import RunningRoost, fake_strategy
from webapp.backends.fake import FakeBackend
from webapp.services.presets import presets
from webapp.tokenizer import load_tokenizer

CHROMIUM = next(
    filter(
        None,
        map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")),
    ),
    None,
)
"""First the one without windows: it takes a quarter less processor time."""
# roost.test is a name on the network: with plain http it is not a secure context, as on a phone.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--process-per-site",
    "--host-resolver-rules=MAP roost.test 127.0.0.1",
]
OWN_HOSTS = ("127.0.0.1", "roost.test")
# No animations: they are rendered 60 times a second, an eighth of a test's CPU time.
OPTIONS = {"viewport": {"width": 1440, "height": 900}, "service_workers": "block", "reduced_motion": "reduce"}
WATCH_POLICY = """document.addEventListener("securitypolicyviolation",
    event => console.error("policy: " + event.violatedDirective + " " + event.blockedURI));"""


def pytest_collection_modifyitems(items):
    missing = pytest.mark.skip(reason="needs Chromium (`chromium` on the PATH)")
    for item in items:
        if "tests/browser/" in item.path.as_posix():
            item.add_marker(pytest.mark.browser)
            if CHROMIUM is None:
                item.add_marker(missing)


def launched():
    """A Chromium, until the generator continues."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def browser():
    yield from launched()


SLOWER = float(os.environ.get("ROOST_TEST_SLOW", 1))
ACTS = ("click", "dblclick", "tap", "hover", "focus", "fill", "type", "press", "press_sequentially", "check", "uncheck")
ACTS += ("set_checked", "select_option", "set_input_files")
READS = ("evaluate", "inner_text", "text_content", "input_value", "get_attribute", "is_visible", "is_hidden", "title")
READS += ("is_checked", "count", "all_inner_texts")


@pytest.fixture(scope="package", autouse=True)
def acts_wait_for_scripts():
    """After a click on a link, the next page's elements exist before its scripts, and an action on them was sometimes
    lost. So every action and read waits for the element, then for the scripts of its page."""
    sync_api = pytest.importorskip("playwright.sync_api")

    def once_loaded(act, is_read):
        @functools.wraps(act)
        def acted(self, *args, **options):
            is_locator = isinstance(self, sync_api.Locator)
            if not is_read:
                self.wait_for(state="attached") if is_locator else self.wait_for_selector(args[0], state="attached")
            (self.page if is_locator else self).wait_for_load_state()
            return act(self, *args, **options)

        return acted

    with pytest.MonkeyPatch.context() as patch:
        for kind in (sync_api.Page, sync_api.Frame, sync_api.Locator):
            for name in filter(functools.partial(hasattr, kind), [*ACTS, *READS]):
                patch.setattr(kind, name, once_loaded(getattr(kind, name), name in READS))
        if SLOWER > 1:
            patch.setattr(running_roost, "create_app", late_scripts(running_roost.create_app))
        yield


def late_scripts(create_app):
    """Delays the scripts of every page, including cached ones."""

    def late(response):
        if flask.request.path.endswith(".js"):
            time.sleep(0.5)
            response.headers["Cache-Control"] = "no-store"
        return response

    def created(*args):
        app = create_app(*args)
        app.after_request(late)
        return app

    return created


@pytest.fixture(scope="package")
def roost(tmp_path_factory):
    """One server for all tests that do not need another answer; it gets many chats."""
    roost = RunningRoost(tmp_path_factory.mktemp("roost"), fake_strategy(), allow_hosts=("roost.test",))
    yield roost
    roost.stop()


class Pace:
    """The time per token of every fake model from now on, so that a test can make an answer last as long as needed,
    also on a slow machine: call :meth:`hold` when the expected words are there."""

    token_s = 0.0

    def hold(self):
        """From now on, running answers take minutes; they can still be stopped immediately."""
        self.token_s = 0.3


@pytest.fixture
def pace(monkeypatch):
    monkeypatch.setattr(presets, "CHAT_MAX_TOKENS", 100_000)  # an endless answer must not end at its length limit
    pace, step = Pace(), FakeBackend.step

    def paced(self, batch):
        time.sleep(pace.token_s)
        return step(self, batch)

    monkeypatch.setattr(FakeBackend, "step", paced)
    return pace


@pytest.fixture
def says(monkeypatch):
    """says(text): the answer of every fake model from now on, in the tokenizer's own tokens, which a grammar
    expects."""
    script = []
    monkeypatch.setattr(
        FakeBackend, "_script_token", lambda self, position: script[position] if position < len(script) else 0
    )

    def says(text):
        script[:] = load_tokenizer(65536).encode(text)

    return says


@pytest.fixture
def own_roost(tmp_path, says):
    """A separate server for one test, with a given answer."""
    roost = RunningRoost(tmp_path / "data", fake_strategy("x"))
    yield roost
    roost.stop()


@pytest.fixture(scope="package")
def anchor(browser):
    """A page in the context that tests share one after the other. It keeps the renderer process: a new context or a
    first page starts another one, which costs a second of CPU time."""
    page = browser.new_context(**OPTIONS).new_page()
    yield page
    page.context.close()


REPLACED = ("htmx:afterRequest", "htmx:sendAbort")
"""htmx reports an error if a newer request replaced one that was running. A failed request reports htmx:sendError."""


@pytest.fixture
def visit(browser, anchor):
    """visit(url, **context options) -> page, with separate cookies and storage, or those of another ``page``.

    It is the owner's browser unless ``is_owner`` is False.
    ``expected`` on the page is a list to which a test adds parts of console errors that it expects.
    """
    pages, seen = [], []

    def visit(url, beside=None, is_owner=True, viewport=None, **options):
        if beside:
            context = beside.context
        elif pages or options or not is_owner:
            context = browser.new_context(**{**OPTIONS, **options, "viewport": viewport or OPTIONS["viewport"]})
        else:
            context = anchor.context
            if anchor.url == "about:blank" != url:
                anchor.goto(urljoin(url, "/static/favicon.svg"))
        context.set_default_timeout(PATIENCE_S * 1000)
        if is_owner:
            context.add_cookies(owner_cookies(url))
        page = context.new_page()
        pages.append(page)
        page.set_viewport_size(viewport or OPTIONS["viewport"])
        page.expected = []
        if SLOWER > 1:
            context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
        page.add_init_script(WATCH_POLICY)
        page.on("console", lambda message: seen.append((page, message.text)) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen.append((page, str(error))))
        page.on("request", lambda request: seen.append((page, request.url)) if is_foreign(request.url) else None)
        page.goto(url)
        return page

    yield visit
    told = [text for page, text in seen if not any(part in text for part in (*page.expected, *REPLACED))]
    for context in {page.context for page in pages} - {anchor.context}:
        context.close()  # which aborts running requests
    leave_nothing(anchor)
    assert told == []


def leave_nothing(anchor):
    """Closes the other pages of its context and clears their data."""
    session = anchor.context.new_cdp_session(anchor)
    for page in set(anchor.context.pages) - {anchor}:
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(page.url))
        page.close()
        if origin.startswith("http"):
            session.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
    session.detach()
    anchor.context.clear_cookies()


def owner_cookies(url):
    """The session of the owner of the RunningRoost at ``url``; none for another kind of server."""
    parts = urlsplit(url)
    found = RunningRoost.at_port.get(parts.port)
    if found is None:
        return []
    name, value = found.owner
    return [{"name": name, "value": value, "url": f"{parts.scheme}://{parts.netloc}"}]


def is_foreign(url):
    return urlsplit(url).hostname not in OWN_HOSTS and urlsplit(url).scheme not in ("data", "blob")

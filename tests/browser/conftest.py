"""One Chromium for all tests here. Every page is watched: no error, no refused policy, no request to another host.

A test acts on a page only when its scripts listen: see :func:`acts_wait_for_scripts`. With ROOST_TEST_SLOW=8 every page
is that of a slow reader: a processor of an eighth of the speed, and each script half a second late.
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
# roost.test stands for a name on the network: plain http there is no secure context, as on a phone.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--process-per-site",
    "--host-resolver-rules=MAP roost.test 127.0.0.1",
]
OWN_HOSTS = ("127.0.0.1", "roost.test")
# Nothing moves: what is in motion is drawn anew 60 times a second, an eighth of the processor's time of a walk.
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
    """A Chromium, until the generator goes on."""
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
    """A click may open another page, and its elements are there before its scripts: what a test did to them then went
    nowhere, now and then. So whatever it does or reads waits for the element, then for the page that it stands on."""
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
    """Each page waits for its scripts, for those that the browser would have kept too."""

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
    """One server for all tests that do not need another answer; it comes to hold many chats."""
    roost = RunningRoost(tmp_path_factory.mktemp("roost"), fake_strategy(), allow_hosts=("roost.test",))
    yield roost
    roost.stop()


class Pace:
    """How long every token of every fake model takes from now on; a test makes an answer last as long as it needs, on a
    slow machine too: :meth:`hold` once the words it waits for are there."""

    token_s = 0.0

    def hold(self):
        """What is being written takes minutes from here on, and is stopped at once."""
        self.token_s = 0.3


@pytest.fixture
def pace(monkeypatch):
    monkeypatch.setattr(presets, "CHAT_MAX_TOKENS", 100_000)  # an endless answer does not end by its length
    pace, step = Pace(), FakeBackend.step

    def paced(self, batch):
        time.sleep(pace.token_s)
        return step(self, batch)

    monkeypatch.setattr(FakeBackend, "step", paced)
    return pace


@pytest.fixture
def says(monkeypatch):
    """says(text): what every fake model answers from now on, in the tokenizer's own tokens, which a grammar expects."""
    script = []
    monkeypatch.setattr(
        FakeBackend, "_script_token", lambda self, position: script[position] if position < len(script) else 0
    )

    def says(text):
        script[:] = load_tokenizer(65536).encode(text)

    return says


@pytest.fixture
def own_roost(tmp_path, says):
    """A server for one test, that says what it is told to."""
    roost = RunningRoost(tmp_path / "data", fake_strategy("x"))
    yield roost
    roost.stop()


@pytest.fixture(scope="package")
def anchor(browser):
    """A page of the context that tests share, one after the other. It keeps the process that draws their pages: a new
    context or a first page takes a new one, and with it a second of the processor."""
    page = browser.new_context(**OPTIONS).new_page()
    yield page
    page.context.close()


REPLACED = ("htmx:afterRequest", "htmx:sendAbort")
"""htmx tells as errors that a newer question took the place of one on its way. One that failed says htmx:sendError."""


@pytest.fixture
def visit(browser, anchor):
    """visit(url, **context options) -> page, with cookies and storage of its own or those of another ``page``.

    It is the owner's browser unless ``is_owner`` is False.
    ``expected`` on the page is a list to which a test adds parts of console errors that belong to it.
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
        context.close()  # which cuts what is being asked
    leave_nothing(anchor)
    assert told == []


def leave_nothing(anchor):
    """Closes the other pages of its context and clears what they kept."""
    session = anchor.context.new_cdp_session(anchor)
    for page in set(anchor.context.pages) - {anchor}:
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(page.url))
        page.close()
        if origin.startswith("http"):
            session.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": "all"})
    session.detach()
    anchor.context.clear_cookies()


def owner_cookies(url):
    """The session of the owner of the RunningRoost at ``url``; none where another kind of server is."""
    parts = urlsplit(url)
    found = RunningRoost.at_port.get(parts.port)
    if found is None:
        return []
    name, value = found.owner
    return [{"name": name, "value": value, "url": f"{parts.scheme}://{parts.netloc}"}]


def is_foreign(url):
    return urlsplit(url).hostname not in OWN_HOSTS and urlsplit(url).scheme not in ("data", "blob")

"""One Chromium for all tests here. Every page is watched: no error, no refused policy, no request to another host."""

import shutil
import time
from urllib.parse import urlsplit

import pytest

from tests.browser.acting import PATIENCE_S
from tests.web.chat.running_roost import RunningRoost, fake_strategy
from webapp.backends.fake import FakeBackend
from webapp.tokenizer import load_tokenizer

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
# roost.test stands for a name on the network: plain http there is no secure context, as on a phone.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--host-resolver-rules=MAP roost.test 127.0.0.1",
]
OWN_HOSTS = ("127.0.0.1", "roost.test")
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


@pytest.fixture(scope="package")
def roost(tmp_path_factory):
    """One server for all tests that do not need another answer; it comes to hold many chats."""
    roost = RunningRoost(tmp_path_factory.mktemp("roost"), fake_strategy(delay_ms=2), allow_hosts=("roost.test",))
    yield roost
    roost.stop()


class Pace:
    """How long every token of every fake model takes from now on; a test makes an answer last as long as it needs."""

    token_s = 0.0


@pytest.fixture
def pace(monkeypatch):
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


@pytest.fixture
def visit(browser):
    """visit(url, **context options) -> page, in a context (cookies, storage) of its own or that of another ``page``.

    It is the owner's browser unless ``is_owner`` is False.
    ``expected`` on the page is a list to which a test adds parts of console errors that belong to it.
    """
    contexts, seen = [], []

    def visit(url, beside=None, is_owner=True, **options):
        context = (
            beside.context if beside else browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        )
        context.set_default_timeout(PATIENCE_S * 1000)
        if is_owner:
            context.add_cookies(owner_cookies(url))
        contexts.append(context)
        page = context.new_page()
        page.expected = []
        page.add_init_script(WATCH_POLICY)
        page.on("console", lambda message: seen.append((page, message.text)) if message.type == "error" else None)
        page.on("pageerror", lambda error: seen.append((page, str(error))))
        page.on("request", lambda request: seen.append((page, request.url)) if is_foreign(request.url) else None)
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [text for page, text in seen if not any(part in text for part in page.expected)] == []


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

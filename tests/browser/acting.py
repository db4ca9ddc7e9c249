"""Actions of a user on the chat page, one line each."""

import functools
import re

from tests import wording
from tests.waiting import PATIENCE_S, WaitRanOut, wait_until

ANSWER = ".answer:last-child"
SENT = "#messages .user"
CARD = "#messages .call"


def wait_ready(page):
    """The socket is open, so commands are sent over it."""
    page.wait_for_selector("body.is-live")


def send(page, text):
    """On a touch screen, Enter starts a new line."""
    page.fill("#prompt", text)
    page.press("#prompt", "Control+Enter" if page.evaluate("matchMedia('(pointer: coarse)').matches") else "Enter")


def wait_streaming(page, some="Birds perch"):
    page.wait_for_selector(f"{ANSWER} > .prose:has-text('{some}')")


def until(page, expression):
    """Playwright's own wait_for_function needs eval, which the page's policy refuses."""
    until_true(page, lambda: holds(page, expression), expression)


def holds(page, expression):
    """Also False while the page is being replaced by the next one."""
    try:
        return page.evaluate(expression)
    except Exception as exc:
        if "context was destroyed" not in str(exc):
            raise
        return False


def until_true(page, claim, what="it did not come to that"):
    """For values in the test itself; the page continues meanwhile."""
    wait_until(claim, what, pause=lambda: page.wait_for_timeout(30))


def at_end(page):
    """The newest text is visible."""
    until(page, "scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 5")


class Expected:
    """Playwright's assertions about ``actual``: each retries until it is true, otherwise raises WaitRanOut."""

    def __init__(self, actual):
        from playwright import sync_api

        self._claims = sync_api.expect(actual)

    def __getattr__(self, name):
        claim = getattr(self._claims, name)

        @functools.wraps(claim)
        def asked(*args, **options):
            try:
                claim(*args, timeout=PATIENCE_S * 1000, **options)
            except AssertionError as exc:
                raise WaitRanOut(str(exc)) from None

        return asked


def expect(actual, selector=""):
    """expect(page, ".card").to_have_count(0), expect(locator).to_have_value("1"), expect(page).to_have_title("Roost"):
    about a page whose scripts are ready. If the assertion was true before the action, first wait for a sign of the
    action."""
    located = actual.locator(selector) if selector else actual
    getattr(located, "page", located).wait_for_load_state()
    return Expected(located)


def until_there(page, found):
    """Waits until the list is not empty; routes add to it while the page is awaited."""
    until_true(page, lambda: found, "nothing came")


def wait_done(page):
    """The answer is complete and has its footer."""
    page.wait_for_selector(f"{ANSWER}:not(.is-streaming) .stats > :last-child")
    page.wait_for_selector("#composer:not([data-answering])")


def wait_answer(page, text):
    """The answer that ends a round of calls is complete; no button is left and no card will be rendered again."""
    wait_streaming(page, text)
    wait_done(page)
    page.wait_for_selector(".call-left", state="detached")


def ask(page, text="Why can birds sit on wires?"):
    """Ignores earlier answers of the chat."""
    wait_ready(page)
    before = page.locator(SENT).count()
    send(page, text)
    page.locator(SENT).nth(before).wait_for()
    wait_done(page)


def open_model_menu(page):
    """The menu is loaded each time: a click on its old content would have no effect."""
    page.evaluate("document.getElementById('model-menu-body').dataset.old = '1'")
    page.click(".strip-button")
    until(page, "!document.getElementById('model-menu-body').dataset.old")


def answer_text(page):
    return page.inner_text(f"{ANSWER} > .prose")


def act(page, selector, button):
    """Presses a button of a message, which appears on hover: ``[data-edit]``, or one whose value begins with it."""
    page.hover(selector)
    page.click(f"{selector} .actions {button}")


def told(page, selector, key, locale="en", **params):
    """Waits until the page shows that text of the catalogue; values that are not given match anything."""
    words = wording.pattern(key, locale, **params)
    until_true(page, lambda: any(re.search(words, found) for found in page.locator(selector).all_inner_texts()), key)


def undo(page):
    page.click(".toast [name=do]")

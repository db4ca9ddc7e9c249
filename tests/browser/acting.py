"""What a person does on the chat page, in a line each."""

import time

ANSWER = ".answer:last-child"
SENT = "#messages .user"
PATIENCE_S = 25  # some machines are three times slower than they were a minute ago


def wait_ready(page):
    """The socket is open: commands travel over it from now on."""
    page.wait_for_selector("body.is-live")


def send(page, text):
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def wait_streaming(page, some="Birds perch"):
    page.wait_for_selector(f"{ANSWER} > .prose:has-text('{some}')")


def until(page, expression):
    """Playwright's own wait_for_function needs eval, which the page's policy refuses."""
    deadline = time.monotonic() + PATIENCE_S
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(30)


def until_there(page, found):
    """Until the list holds something; what routes put there comes while the page is waited for."""
    deadline = time.monotonic() + PATIENCE_S
    while not found:
        assert time.monotonic() < deadline, "nothing came"
        page.wait_for_timeout(30)


def wait_done(page):
    """The answer is complete and its foot is there."""
    page.wait_for_selector(f"{ANSWER}:not(.is-streaming) .stats > :last-child")
    page.wait_for_selector("#composer:not([data-answering])")


def ask(page, text="Why can birds sit on wires?"):
    wait_ready(page)
    send(page, text)
    wait_done(page)


def answer_text(page):
    return page.inner_text(f"{ANSWER} > .prose")


def act(page, selector, name):
    """Presses the button ``name`` of a message, which shows on hover."""
    page.hover(selector)
    page.click(f"{selector} [aria-label='{name}']")

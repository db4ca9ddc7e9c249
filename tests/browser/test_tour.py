"""The tour for a new browser."""

from tests.browser.acting import expect, until, wait_ready
from tests.wording import text


def test_a_new_browser_is_shown_around_once_and_again_from_the_help(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.click("#tour-offer [data-tour-start]")
    page.wait_for_selector("#tour[open] h2:focus")
    expect(page, ".strip-button.tour-spot").to_have_count(1)
    for number in range(2, 6):
        page.click("[data-tour-step='1']")
        place = text("tour.place", number=number, count=5)
        page.wait_for_selector(f"#tour section:visible:has-text('{place}')")
        page.wait_for_selector("#tour h2:focus")
    page.click("[data-tour-step='-1']")
    page.wait_for_selector("[data-panel-toggle].tour-spot")
    page.keyboard.press("Escape")
    page.wait_for_selector("#tour", state="hidden")
    until(page, "document.activeElement.id === 'prompt' && !document.querySelector('.tour-spot')")
    page.reload()
    wait_ready(page)
    expect(page, "#tour-offer").to_have_count(0)
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("?")
    page.click("#keys [data-tour-start]")
    page.wait_for_selector("#tour[open] h2:focus")
    expect(page, "#keys").to_be_hidden()
    page.click("[data-tour-end]")
    page.wait_for_selector("#tour", state="hidden")


def test_the_tour_is_put_away_for_good(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.click("[data-tour-skip]")
    page.wait_for_selector("#tour-offer", state="detached")
    page.reload()
    wait_ready(page)
    expect(page, "#tour-offer, #tour").to_have_count(0)

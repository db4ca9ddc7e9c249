"""Checks for every page: it fits a phone in both languages, and its texts are translated."""

import re

import pytest

from tests.browser.acting import expect, until, until_there, until_true, wait_ready
from tests.wording import text

MAX_BYTES = 150_000
"""With everything it loads, as transferred."""
PHONES = ((390, 844), (360, 740), (320, 568))
SCROLLS = "[popover], .table-scroll, pre, .unseen, .skip, .chats, .panel, .tabs, .docs-tabs, .docs-contents"
"""Elements that scroll inside."""
SIDEWAYS = """() => {
  const wide = [...document.querySelectorAll("body *")]
    .filter(node => node.checkVisibility() && !node.closest("SCROLLS"))
    .filter(node => node.getBoundingClientRect().right > innerWidth + 1);
  const scrolled = [...document.querySelectorAll("html, .page, .scroller, .main")]
    .filter(node => node.scrollWidth > node.clientWidth);
  return [...wide, ...scrolled].map(node => `${node.tagName}.${node.className}`);
}""".replace("SCROLLS", SCROLLS)
RAIL_IS_CUT = """() => [...document.querySelectorAll(".rail-item")]
  .filter(node => node.scrollWidth > node.clientWidth || node.getBoundingClientRect().right > innerWidth)
  .map(node => node.textContent)"""


@pytest.fixture(scope="module")
def pages(roost):
    roost.post("/notebook")
    chat = roost.answered("A word " + "Donaudampfschifffahrt" * 8)
    preset = re.search(r'href="(/presets/[0-9a-f]{32})"', roost.get("/presets"))[1]
    model = "/models/roost-starter-v7.safetensors"
    fixed = ["/", "/presets", "/presets/new", "/presets/compare", "/models", "/states", "/measure", "/convert", "/docs"]
    fixed += ["/notebook", "/compose", "/prompts", "/tools", "/tools/servers", "/tools/servers/new", "/tools/bench"]
    fixed += [
        "/notebook/batch",
        "/personas",
        "/settings",
        "/people",
        "/jobs",
        "/chats/all",
        f"/shared?chat={chat}",
        f"/chat/switch?chat={chat}",
    ]
    return [*fixed, f"/chat/{chat}", preset, model, "/tools/new?from=example", "/chats?q=a", "/nothing-here"]


def until_none(page, search, path):
    """Waits until the search finds nothing; content that the page loads later may still change its layout."""
    found = {}

    def is_none():
        found[path] = page.evaluate(search)
        return not found[path]

    until_true(page, is_none, found)


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_no_page_is_wider_than_a_phone(roost, visit, pages, locale):
    page = visit(f"{roost.url}/?lang={locale}", viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.expected.append("404 (NOT FOUND)")
    for path in pages:
        page.goto(roost.url + path)
        for width, height in PHONES:
            page.set_viewport_size({"width": width, "height": height})
            until(page, f"innerWidth === {width}")
            until_none(page, SIDEWAYS, path)
            until_none(page, RAIL_IS_CUT, path)


def test_no_page_weighs_more_than_it_may(roost, pages):
    weights = {path: roost.weight(path) for path in pages if path != "/nothing-here"}
    assert {path: weight for path, weight in weights.items() if weight > MAX_BYTES} == {}


@pytest.mark.parametrize("width, height", [(683, 360), (911, 400), (1093, 500)])  # a laptop at a zoom of 200 to 125 %
def test_a_low_window_leads_to_every_page(roost, visit, width, height):
    page = visit(f"{roost.url}/settings", viewport={"width": width, "height": height})
    for link in page.locator(".rail-list a:visible").all():
        link.scroll_into_view_if_needed()
        expect(link).to_be_in_viewport(ratio=0.9)
    page.click(".rail-foot button")
    page.click("#appearance-menu [data-choose='theme=']")
    page.click("#appearance-menu [href='/people']")
    page.wait_for_url("**/people")


def test_an_empty_chat_is_read_from_its_top(roost, visit):
    page = visit(roost.url, viewport={"width": 360, "height": 560})
    wait_ready(page)
    until(page, "scroller.scrollHeight > scroller.clientHeight")  # otherwise this tests nothing
    until(page, "scroller.scrollTop === 0")
    expect(page, "#jump").to_be_hidden()


def test_a_switch_says_which_of_the_two_it_is(roost, visit, pages):
    page = visit(roost.url + next(path for path in pages if re.match("/presets/[0-9a-f]{32}", path)))
    box = "[type=checkbox][name=custom_cuda]"
    words = page.locator(f".switch:has({box})")
    expect(words).to_have_text(text("controls.off"), use_inner_text=True)
    expect(page, box).not_to_be_checked()
    words.click()
    expect(words).to_have_text(text("controls.on"), use_inner_text=True)
    expect(page, box).to_be_checked()


def test_a_file_input_speaks_the_pages_language_and_names_the_file(roost, visit):
    page = visit(f"{roost.url}/tools?lang=zh")
    expect(page, ".drop").to_contain_text(text("controls.choose_file", "zh"))
    page.set_input_files(".drop input", {"name": "mine.json", "mimeType": "application/json", "buffer": b"[]"})
    expect(page, ".drop").to_contain_text("mine.json")


def test_what_is_typed_while_the_form_is_rendered_again_is_kept(roost, visit):
    page = visit(f"{roost.url}/tools/new?from=example")
    page.wait_for_selector("#tool-preview .tool-text")
    held = []
    page.route("**/tools/form", lambda route: held.append(route))
    page.select_option("[name='0:kind']", "array")
    until_there(page, held)
    page.fill("[name='0:description']", "typed meanwhile")
    held[0].continue_()
    page.unroute("**/tools/form")
    page.wait_for_selector("[name='0:item_kind']")
    expect(page, "[name='0:description']").to_have_value("typed meanwhile")
    page.click("[value='down:0']")
    page.wait_for_selector("[name='1:item_kind']")
    expect(page, "[name='1:description']").to_have_value("typed meanwhile")

"""The page around the conversation: list, panel, appearance, languages, sizes."""

from urllib.parse import urlsplit

from tests.browser.acting import ask, expect, open_model_menu, told, undo, until, until_true, wait_ready
from tests.wording import text
from webapp.chat.messages import Message, Role
from webapp.storage.records import OWNER_ID
from webapp.web.chat.live import list_topic

LAYOUT_SHIFT = """new Promise(done => {
  let sum = 0;
  new PerformanceObserver(list => list.getEntries().forEach(entry => { sum += entry.value; }))
    .observe({type: "layout-shift", buffered: true});
  setTimeout(() => done(sum), 300);
})"""
NO_SIDEWAYS = "document.documentElement.scrollWidth <= innerWidth && scroller.scrollWidth <= scroller.clientWidth"


def test_a_chat_is_renamed_in_place(roost, visit):
    page = visit(roost.url)
    ask(page)
    page.hover(".chat-item.is-current")
    page.click(".chat-item.is-current .dots")
    page.click("#chat-menu [data-menu-do=rename]")
    page.wait_for_selector(".chat-rename .field:focus")
    page.keyboard.type("Birds on wires")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat-title h1:has-text('Birds on wires')")
    page.wait_for_selector(".is-current .chat-link:text-is('Birds on wires')")


def test_a_deleted_chat_is_restored_by_undo(roost, visit):
    page = visit(roost.url)
    ask(page)
    address = page.url
    page.hover(".chat-item.is-current")
    page.click(".chat-item.is-current .dots")
    page.click("#chat-menu [data-menu-do=delete_chat]")
    page.wait_for_url(roost.url + "/?*")
    expect(page, f"[href='{urlsplit(address).path}']").to_have_count(0)
    wait_ready(page)
    undo(page)
    page.wait_for_url(address)
    expect(page, ".message").to_have_count(2)


def test_a_chat_that_was_answered_meanwhile_is_marked_until_it_is_opened(own_roost, says, pace, visit):
    """A stopped answer is not marked, and nothing is stored about a deleted chat."""
    page = visit(f"{own_roost.url}/chat/{own_roost.answered('Grebe')}")
    says("A heron. " * 100)  # no answer ends by itself while the pace is held
    wait_ready(page)
    other, stopped, deleted = (own_roost.store.create(title=name).id for name in ("Heron", "Egret", "Bittern"))
    row, stopped_row, deleted_row = (f".chat-item:has([href='/chat/{one}'])" for one in (other, stopped, deleted))
    news = own_roost.app.extensions["chat_news"]
    pace.hold()
    for chat_id in (other, stopped, deleted):
        own_roost.turns.send(chat_id, "Who?")
    news.publish(list_topic(OWNER_ID))
    for one in (row, stopped_row, deleted_row):
        page.wait_for_selector(f"{one} .chat-busy", state="attached")
    own_roost.turns.stop(stopped)
    page.wait_for_selector(f"{stopped_row}[data-incomplete]:not(.is-unread):not(:has(.chat-busy))")
    pace.token_s = 0
    page.wait_for_selector(f"{row}.is-unread")
    page.wait_for_selector(f"{deleted_row}.is-unread")
    own_roost.turns.delete_all([deleted])
    news.publish(list_topic(OWNER_ID))
    until(page, f"!sessionStorage.getItem('roost.unread').includes('{deleted}')")
    page.wait_for_selector(f"{stopped_row}:not(.is-unread)")
    page.click(f"{row} .chat-link")
    page.wait_for_url(f"**/chat/{other}")
    wait_ready(page)
    page.wait_for_selector(f"{row}.is-current:not(.is-unread)")


def choose(page, item):
    page.hover(".chat-item.is-current")
    page.click(".chat-item.is-current .dots")
    page.click(f"#chat-menu [data-menu-do={item}]")


def test_a_chat_is_pinned_moved_and_archived_from_its_menu(roost, visit):
    chat_id = roost.answered("Oystercatcher")
    page = visit(f"{roost.url}/chat/{chat_id}")
    wait_ready(page)
    choose(page, "pin_chat")
    page.wait_for_selector(".is-current[data-pinned]")
    choose(page, "unpin_chat")
    page.wait_for_selector(".is-current:not([data-pinned])")
    choose(page, "folder")
    page.wait_for_selector(".chat-rename .field:focus")
    page.keyboard.type("Waders")
    page.keyboard.press("Enter")
    page.wait_for_selector(".is-current[data-folder=Waders]")
    choose(page, "folder")
    expect(page, ".chat-rename .field").to_have_value("Waders")
    page.keyboard.press("Escape")
    choose(page, "duplicate_chat")
    page.wait_for_url(lambda url: chat_id not in url)
    expect(page, ".message").to_have_count(2)
    page.goto(f"{roost.url}/chat/{chat_id}")
    wait_ready(page)
    choose(page, "archive_chat")
    page.wait_for_selector(".chat-item.is-current", state="detached")
    undo(page)
    page.wait_for_selector(".is-current[data-folder=Waders]")


def test_chats_are_ticked_and_deleted_together_and_restored(roost, visit):
    for number in range(3):
        roost.store.create(title=f"Knot {number}")
    page = visit(f"{roost.url}/chats/all?q=knot")
    page.check("[data-tick-all]")
    expect(page, "[name=chat]:checked").to_have_count(3)
    page.click("[value=delete]")
    page.wait_for_selector(".empty")
    undo(page)
    page.wait_for_url("**said=restore*")
    page.goto(f"{roost.url}/chats/all?q=knot")
    expect(page, "[name=chat]").to_have_count(3)


def test_exports_download(roost, visit):
    page = visit(roost.url)
    ask(page, "Birds")
    page.hover(".chat-item.is-current")
    page.click(".chat-item.is-current .dots")
    page.click("[aria-controls=menu-save]")
    with page.expect_download() as download:
        page.click("[data-menu-export=md]")
    assert download.value.suggested_filename == "Birds.md"


def test_sliders_are_kept_for_the_chat_and_one_click_puts_them_back(roost, visit):
    page = visit(roost.url)
    ask(page)
    page.fill("#knob-temperature", "0.7")
    told(page, "#saved", "chat.options.saved")
    page.reload()
    expect(page, "#knob-temperature").to_have_value("0.7")
    expect(page, ".knob >> nth=0 >> input[type=range]").to_have_value("0.7")
    wait_ready(page)
    page.click(".knob >> nth=0 >> [data-reset]")
    told(page, "#saved", "chat.options.saved")
    page.reload()
    expect(page, "#knob-temperature").to_have_value("1")
    expect(page, ".is-changed").to_have_count(0)
    expect(page, ".knob-wrong >> nth=0").to_be_hidden()
    page.fill("#knob-temperature", "9")
    expect(page, ".knob-wrong >> nth=0").to_be_visible()
    expect(page, ".knob-wrong >> nth=0").to_have_text(text("chat.options.wrong", least="0", most="5"))


def test_what_the_panel_says_goes_with_the_first_message(roost, visit):
    page = visit(roost.url)
    page.fill("#system-prompt", "Answer kindly.")
    page.select_option("[name=think_mode]", "fast")
    ask(page)
    page.reload()
    expect(page, "#system-prompt").to_have_value("Answer kindly.")
    expect(page, "[name=think_mode]").to_have_value("fast")


def test_the_panel_stays_closed_when_closed(roost, visit):
    page = visit(roost.url)
    page.click(".panel [data-panel-toggle]")
    expect(page, "#panel").to_be_hidden()
    page.reload()
    wait_ready(page)
    expect(page, "#panel").to_be_hidden()


def test_the_list_stays_closed_when_closed_and_a_search_opens_it(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.click("[data-drawer-toggle]")
    expect(page, "#chats").to_be_hidden()
    page.reload()
    wait_ready(page)
    expect(page, "#chats").to_be_hidden()
    expect(page, "[data-drawer-toggle]").to_have_attribute("aria-expanded", "false")
    page.keyboard.press("Control+k")
    page.click("#palette [data-press='#search']")
    expect(page, "#search").to_be_focused()
    expect(page, "[data-drawer-toggle]").to_have_attribute("aria-expanded", "true")


def test_a_menu_takes_the_focus_is_walked_with_arrows_and_gives_it_back(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.focus(".rail-foot > button")
    page.keyboard.press("Enter")
    expect(page, "#appearance-menu").to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page, "#appearance-menu .menu-item >> nth=0").to_be_focused()
    page.keyboard.press("Escape")
    expect(page, ".rail-foot > button").to_be_focused()


def test_the_theme_is_kept(roost, visit):
    page = visit(roost.url, color_scheme="light")
    expect(page, "body").to_have_css("background-color", "rgb(251, 250, 247)")
    page.click("[popovertarget=appearance-menu]")
    page.click("[data-choose='theme=dark']")
    page.wait_for_selector("html[data-theme=dark]")
    page.reload()
    expect(page, "html").to_have_attribute("data-theme", "dark")
    expect(page, "body").not_to_have_css("background-color", "rgb(251, 250, 247)")


def test_the_language_is_switched_and_kept(roost, visit):
    page = visit(roost.url)
    ask(page)
    page.click("[popovertarget=appearance-menu]")
    page.click("text=中文")
    page.wait_for_selector("html[lang=zh-Hans]")
    expect(page, ".stats").to_contain_text(text("chat.stats.read_again.other", "zh", count=0))
    page.reload()
    expect(page, "#prompt").to_have_attribute("placeholder", text("chat.composer.placeholder", "zh"))


def test_nothing_sticks_out(roost, visit):
    chat_id = roost.answered("A long word: " + "Donaudampfschifffahrt" * 20)
    page = visit(f"{roost.url}/chat/{chat_id}")
    for width, height in ((1440, 900), (1024, 768), (390, 844), (320, 640)):
        page.set_viewport_size({"width": width, "height": height})
        until(page, NO_SIDEWAYS)
        until(page, f"document.querySelector('.column').getBoundingClientRect().width <= {72 * 10 + 48}")


def test_a_paragraph_is_read_in_its_own_direction(roost, visit):
    chat = roost.store.create(title="Peace")
    said = "\u0633\u0644\u0627\u0645 and more"
    asked = roost.store.add_message(chat.id, None, Message(Role.USER, said))
    roost.store.add_message(chat.id, asked.id, Message(Role.ASSISTANT, f"{said}\n\nmore {said}"))
    page = visit(f"{roost.url}/chat/{chat.id}")
    begins_at = """selector => {
        const node = document.querySelector(selector), range = document.createRange();
        const box = node.getBoundingClientRect();
        range.setStart(node.firstChild, 0);
        range.setEnd(node.firstChild, 1);
        return range.getBoundingClientRect().x > box.x + box.width / 2 ? "right" : "left";
    }"""
    for selector, side in (
        (".bubble", "right"),
        (".final > p", "right"),
        (".final p:last-child", "left"),
    ):
        until(page, f"({begins_at})('{selector}') === '{side}'")


def test_a_phone_has_drawers_and_a_bottom_bar(roost, visit):
    page = visit(roost.url, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    ask(page)
    for drawer in ("#chats", "#panel"):
        expect(page, drawer).to_be_hidden()
    until(page, "document.querySelector('.rail').getBoundingClientRect().y > 700")
    until(page, "document.querySelector('.rail').getBoundingClientRect().width === 390")
    expect(page, ".user [data-edit]").to_be_visible()
    page.tap("[data-drawer-toggle=chats]")
    page.wait_for_selector(".chat-link")
    page.mouse.click(380, 130)
    page.wait_for_selector("#chats", state="hidden")
    page.tap(".chat-head [data-panel-toggle]")
    page.locator("#template").scroll_into_view_if_needed()
    expect(page, "#template").to_be_in_viewport()


def test_the_model_menu_loads_and_unloads(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    open_model_menu(page)
    page.click("#model-menu >> text=roost-starter-v7")
    page.wait_for_selector(".strip .light-idle")
    page.keyboard.press("Escape")
    page.wait_for_selector("#model-menu", state="hidden")
    open_model_menu(page)
    page.click("#model-menu [action='/status/unload'] button")
    page.wait_for_selector(".strip .light-off")


def test_the_page_works_without_scripts(roost, visit):
    page = visit(roost.url, java_script_enabled=False)
    page.fill("#prompt", "Why?")
    page.click("#send")
    page.wait_for_url("**/chat/*")
    chat_id = page.url.rpartition("/")[2]
    until_true(page, lambda: chat_id not in roost.turns.writing())
    page.reload()
    expect(page, ".answer").to_contain_text("Both feet")


def test_list_and_options_can_be_reached_without_scripts(roost, visit):
    page = visit(roost.url, java_script_enabled=False)
    page.context.add_cookies(
        [{"name": f"roost_{part}", "value": "closed", "url": roost.url} for part in ("list", "panel")]
    )
    page.reload()
    expect(page, "#chats").to_be_visible()
    expect(page, "#panel").to_be_visible()
    page.set_viewport_size({"width": 1000, "height": 800})
    page.click(".to-panel")
    expect(page, "#panel").to_be_visible()
    page.set_viewport_size({"width": 390, "height": 800})
    page.click(".to-list")
    expect(page, "#chats .chats-new").to_be_visible()
    expect(page, "#panel").to_be_hidden()


def test_nothing_moves_while_the_page_comes_up(roost, visit):
    chat_id = roost.answered()
    page = visit(f"{roost.url}/chat/{chat_id}")
    wait_ready(page)
    assert page.evaluate(LAYOUT_SHIFT) < 0.02  # at once: the browser has added up since the page began

"""Saving chats to files and opening them, as a user does."""

import json

from tests.browser.acting import ask, expect, wait_ready
from tests.services.chat.test_imports import CHATGPT
from tests.wording import text

DROP = """([selector, name, bytes]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], name));
    for (const type of ["dragenter", "drop"]) document.querySelector(selector).dispatchEvent(
        new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def saved(page):
    """The file that the chat's menu saves."""
    page.click("#chat-title .head-menu, .chat-item.is-current .dots")
    page.click("[aria-controls=menu-save]")
    with page.expect_download() as download:
        page.click("[data-menu-export=rwkvchat]")
    assert download.value.suggested_filename.endswith(".rwkvchat")
    return download.value.path().read_bytes()


def test_a_saved_chat_is_dropped_on_the_page_and_continues_without_a_new_prefill(own_roost, says, visit):
    says(" Herons stand still.")
    page = visit(own_roost.url)
    ask(page, "What do herons do all day long?")
    content, before = saved(page), page.url
    page.evaluate(DROP, ["#reading", "herons.rwkvchat", list(content)])
    page.wait_for_url(lambda url: url.split("?")[0] != before.split("?")[0])
    page.wait_for_selector("#toast-imported")
    wait_ready(page)
    expect(page, ".answer > .prose").to_have_text("Herons stand still.")
    ask(page, "And at night?")
    expect(page, ".answer:last-child .stats").to_contain_text(text("chat.stats.read_again", count=0))


def test_an_export_of_chatgpt_is_chosen_in_the_list_and_says_what_it_left_out(own_roost, visit):
    page = visit(own_roost.url)
    page.expected += ["status of 422"]
    wait_ready(page)
    broken = {"name": "conversations.json", "mimeType": "application/json", "buffer": b'[{"mapping": '}
    page.set_input_files("#import input", broken)
    page.wait_for_selector("[data-code=chat_import_invalid]")
    content = json.dumps([CHATGPT, {**CHATGPT, "title": "Second"}]).encode()
    page.set_input_files("#import input", {**broken, "buffer": content})
    page.wait_for_selector("#toast-imported .toast-hint")
    expect(page, ".chat-item").to_have_count(2)
    expect(page, ".user").to_have_count(1)
    expect(page, "[data-versions]").to_have_count(1)

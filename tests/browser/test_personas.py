"""A persona from its first form to the last toast: created, used in a chat, imported as a card, deleted and
restored."""

import json

from tests.browser.acting import ANSWER, SENT, expect, send, undo, wait_done, wait_ready
from tests.web.test_personas import CARD, png

NAMES = ".rows .row-title"


def test_a_persona_is_created_used_and_deleted_and_a_card_is_imported(own_roost, visit, says):
    says(" Tweet.")
    page = visit(f"{own_roost.url}/personas")
    page.fill("#field-name", "Robin")
    page.fill("#field-emoji", "🐦")
    page.fill("#field-system_prompt", "You are a robin.")
    page.fill("#field-greeting", "Good morning!")
    page.click("#form .button-main")
    expect(page, NAMES).to_have_text(["Robin"])

    page.goto(own_roost.url)
    wait_ready(page)
    page.click(".faces .face-link:has-text('Robin')")
    page.wait_for_selector(".faces [aria-current=true]:has-text('Robin')")
    expect(page, ".welcome").to_contain_text("Good morning!")
    wait_ready(page)
    send(page, "Who are you?")
    page.locator(SENT).wait_for()
    wait_done(page)
    expect(page, "#messages .answer").to_have_count(2)
    expect(page, "#messages .answer >> nth=0").to_contain_text("Good morning!")
    expect(page, f"{ANSWER} > .prose").to_have_text("Tweet.")
    expect(page, ".head-persona").to_have_attribute("title", "Robin")
    (summary,) = own_roost.store.list()
    chat = own_roost.store.get(summary.id)
    assert chat.system_prompt == "You are a robin."
    assert [row.message.content for row in own_roost.store.branch(chat.id)] == [
        "Good morning!",
        "Who are you?",
        "Tweet.",
    ]

    page.goto(f"{own_roost.url}/personas")
    card = {"name": "wren.png", "mimeType": "image/png", "buffer": png(chara=json.dumps(CARD).encode())}
    page.set_input_files("#import input[type=file]", card)
    page.click("#import .form-buttons button")
    expect(page, NAMES).to_have_text(["Robin", "Wren"])
    page.click(f"{NAMES} a:has-text('Wren')")
    expect(page, "#field-greeting").to_have_value("Hello, User!")
    page.goto(f"{own_roost.url}/personas")
    page.click(".rows .row:has-text('Robin') [action$='/delete'] button")
    expect(page, NAMES).to_have_text(["Wren"])
    undo(page)
    expect(page, NAMES).to_have_text(["Robin", "Wren"])

    page.click(".rows .row:has-text('Robin') [action$='/delete'] button")
    expect(page, NAMES).to_have_text(["Wren"])
    page.goto(f"{own_roost.url}/chat/{chat.id}")
    expect(page, "#messages .answer").to_have_count(2)
    expect(page, ".head-persona").to_have_count(0)

"""The notebook in a browser: one story from the first word to a fork, with a reload and an unreachable server."""

from tests.browser.acting import expect, told, until, until_true
from tests.web.chat.running_roost import fake_strategy

ANSWER = "the birds came back."


def test_a_text_is_written_looked_into_forked_and_never_lost(start, visit, pace):
    roost = start(fake_strategy(ANSWER))
    page = visit(f"{roost.url}/notebook")
    page.click(".empty button")
    page.wait_for_selector("#notebook[data-ready]")
    page.fill("#notebook-text", "In spring ")
    page.fill("[name=name]", "Spring")
    store = roost.app.extensions["notebooks"].store
    notebook = page.url.rpartition("/")[2]
    until_true(page, lambda: store.get(notebook).name == "Spring")
    told(page, "#said", "notebook.saved")
    page.reload()
    page.wait_for_selector("#notebook[data-ready]")
    expect(page, "#notebook-text").to_have_value("In spring ")
    expect(page, "[name=name]").to_have_value("Spring")
    page.press("#notebook-text", "Control+Enter")
    page.wait_for_selector("#undo:not([disabled])")
    expect(page, "#notebook-text").to_have_value(f"In spring {ANSWER}")
    told(page, "#said", "notebook.read.other")
    # its tokens, their alternatives, and continuing from one of them
    page.click(".choices label:has([value=tokens])")
    page.wait_for_selector(".token[name=at]")
    expect(page, "#tokens .typed").to_have_text("In spring")
    expect(page, "#notebook-text").to_be_hidden()
    page.hover(".token[name=at] >> nth=4")
    page.click(".alternative .token:not([disabled]) >> nth=0")
    until(page, "!document.querySelector('#notebook-text').value.startsWith('In spring the birds')")
    page.wait_for_selector("#continue:visible")
    page.wait_for_selector(".token-4")
    page.click("#undo")
    until(page, f"document.querySelector('#notebook-text').value === 'In spring {ANSWER}'")
    page.wait_for_selector("#tokens:not(:has(.token-4[name=at]))")
    # stopped in the middle: the text so far is kept
    page.click(".choices label:has([value=text])")
    pace.token_s = 1.0
    page.fill("#notebook-text", "In autumn ")
    page.click("#continue")
    until(page, "document.querySelector('#notebook-text').value.startsWith('In autumn the')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#continue:visible")
    pace.token_s = 0.0
    kept = page.input_value("#notebook-text")  # at once: the writing is over
    assert kept.startswith("In autumn the") and len(kept) < len(f"In autumn {ANSWER}")
    until_true(page, lambda: store.get(notebook).draft.text == kept)
    # the server is unreachable: input is kept in this browser
    page.expected.append("ERR_FAILED")
    page.route("**/save", lambda route: route.abort())
    page.fill("#notebook-text", "typed meanwhile")
    told(page, "#said", "notebook.unsaved")
    page.unroute("**/save")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    until_true(page, lambda: store.get(notebook).draft.text == "typed meanwhile")

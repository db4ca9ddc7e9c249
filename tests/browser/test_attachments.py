"""Text files in a chat, as a user attaches them."""

import re

from tests.browser.acting import ask, expect, told, until_there, until_true, wait_done, wait_ready

DROP = """([selector, name, text]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([text], name));
    const fire = (type) => document.querySelector(selector).dispatchEvent(
        new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    fire("dragenter");
    const isOver = document.getElementById("reading").classList.contains("is-over");
    fire("drop");
    return isOver && !document.getElementById("reading").classList.contains("is-over");
}"""
PASTE = """() => {
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File(["pasted"], "pasted.txt"));
    const paste = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
    document.getElementById("prompt").dispatchEvent(paste);
}"""


def choose(page, name, data):
    page.set_input_files("#attach", {"name": name, "mimeType": "application/octet-stream", "buffer": data})


def test_files_wait_above_the_message_through_a_reload_and_go_with_it(roost, visit):
    page = visit(roost.url)
    page.expected += ["status of 422"]
    wait_ready(page)
    page.fill("#prompt", "half a question")
    choose(page, "notes.md", "# 苍鹭\n<b>heron</b>".encode("gb18030"))
    page.wait_for_selector("#attached .file")
    assert page.evaluate(DROP, ["#chats", "dropped.txt", "heron " * 9000])  # at once: it fires the events itself
    page.evaluate(PASTE)
    page.wait_for_selector("#attached .file >> nth=2")
    choose(page, "picture.png", b"\x89PNG" + bytes(99))
    page.wait_for_selector(".toast-error:has-text('picture.png')")
    page.wait_for_url(f"{roost.url}/chat/*")
    expect(page, "#prompt").to_have_value("half a question")

    page.fill("#prompt", " ")
    page.press("#prompt", "Enter")
    told(page, "#attaching", "chat.files.words")
    page.fill("#prompt", "half a question")
    expect(page, "#attaching").to_be_hidden()
    expect(page, ".user").to_have_count(0)

    page.reload()
    wait_ready(page)
    expect(page, "#prompt").to_have_value("half a question")
    expect(page, "#attached .file-name").to_have_text(["notes.md", "dropped.txt", "pasted.txt"])
    expect(page, "#attached .file-reading.is-whole").to_have_count(2)
    page.click("#attached .file >> nth=1 >> .file-reading")
    expect(page, "#attached .is-whole").to_have_count(3)
    page.click("#attached .file >> nth=2 >> [value^=remove_attachment]")
    expect(page, "#attached .file").to_have_count(2)

    ask(page, "What is it?")
    expect(page, ".user .file-name").to_have_text(["notes.md", "dropped.txt"])
    expect(page, "#attached .file").to_have_count(0)
    page.click(".user .file-name >> nth=0")
    until_true(page, lambda: page.inner_text(".file-text").strip() == "# 苍鹭\n<b>heron</b>")
    page.click(".back")
    page.wait_for_selector(".user .file-name >> nth=1")


def test_a_message_waits_for_the_file_that_is_still_on_its_way(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.fill("#prompt", "Read it")
    held = []
    page.route("**/chat/attach", lambda route: held.append(route))
    choose(page, "late.txt", b"late")
    until_there(page, held)
    page.press("#prompt", "Enter")
    page.press("#prompt", "Enter")
    held[0].continue_()
    wait_done(page)
    expect(page, ".user .file-name").to_have_text("late.txt")
    expect(page, ".user").to_have_count(1)


PASTE_TEXT = """(text) => {
    const clipboardData = new DataTransfer();
    clipboardData.setData("text/plain", text);
    const paste = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
    document.getElementById("prompt").dispatchEvent(paste);
}"""
LONG = "A heron stands still.\n" * 200


def test_a_long_text_that_is_pasted_may_become_a_file(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.evaluate(PASTE_TEXT, LONG)
    page.fill("#prompt", f"What does it say? {LONG}")  # as the browser does with what is pasted
    page.click("#attaching button")
    page.wait_for_selector("#attached .file-name:text-is('pasted.txt')")
    page.wait_for_selector("#attaching", state="hidden")
    expect(page, "#prompt").to_have_value(re.compile(r"^\s*What does it say\?\s*$"))


def test_a_pasted_text_too_long_for_the_message_becomes_a_file_whole(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.fill("#prompt", "What does it say?")
    most = page.locator("#prompt").evaluate("field => field.maxLength")
    page.evaluate(PASTE_TEXT, "x" * most)
    expect(page, "#attached .file-name").to_have_text("pasted.txt")
    expect(page, "#attaching").to_be_hidden()
    expect(page, "#prompt").to_have_value("What does it say?")

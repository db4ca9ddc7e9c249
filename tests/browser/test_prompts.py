"""A saved prompt in the composer: found by its name, its variables requested, sent."""

from tests.browser.acting import SENT, expect, wait_done, wait_ready


def test_a_slash_finds_a_prompt_asks_for_its_variables_and_it_is_sent(start, visit):
    roost = start("fake script=hello")
    roost.post("/prompts", name="translate", title="Into another language", content="In {{tone:kind|strict}}: {{text}}")
    roost.post("/prompts", name="plain", content="Nothing is asked.")
    page = visit(roost.url, viewport={"width": 390, "height": 844})
    wait_ready(page)
    page.type("#prompt", "/tra")
    page.wait_for_selector("#prompt-list [aria-selected=true] code:text-is('/translate')")
    page.press("#prompt", "Backspace")
    page.press("#prompt", "Backspace")
    page.press("#prompt", "Backspace")
    page.wait_for_selector("#prompt-list [role=option] >> nth=1")
    page.press("#prompt", "ArrowDown")
    page.press("#prompt", "Enter")
    page.wait_for_selector(".prompt-form[open]")
    page.select_option(".prompt-form select", "strict")
    page.fill(".prompt-form textarea", "good day")
    page.press(".prompt-form textarea", "Enter")
    expect(page, "#prompt").to_have_value("In strict: good day")
    page.press("#prompt", "Enter")
    wait_done(page)
    expect(page, f"{SENT} .bubble").to_have_text("In strict: good day")
    expect(page, "#prompt").to_have_value("")
    page.type("#prompt", "/pl")
    page.click("#prompt-list [role=option]:has-text('/plain')")
    expect(page, "#prompt").to_have_value("Nothing is asked.")

"""A conversation in a real browser, from the first message on."""

from msgspec.structs import replace

from tests.browser.acting import (
    ANSWER,
    act,
    answer_text,
    ask,
    expect,
    send,
    told,
    undo,
    until,
    until_true,
    wait_done,
    wait_ready,
    wait_streaming,
)
from tests.web.chat.running_roost import fake_strategy
from tests.wording import text

LONG_ANSWER = "Birds perch on wires. " + "Both feet touch the same wire. " * 15 + "That is all."


def test_while_an_answer_streams_the_composer_offers_to_stop_it(start, visit):
    page = visit(start(fake_strategy(delay_ms=40, repeat=0)).url)
    wait_ready(page)
    send(page, "Why can birds sit on wires?")
    wait_streaming(page)
    expect(page, ".stop").to_be_visible()
    expect(page, "#send").to_be_hidden()
    expect(page, "#announcer").to_have_text(text("status.answering"))
    page.click(".stop")
    wait_done(page)
    expect(page, "#send").to_be_visible()
    expect(page, ".stop").to_be_hidden()


def test_a_first_answer_makes_the_page_the_chats(roost, visit):
    page = visit(roost.url)
    ask(page)
    page.wait_for_url("**/chat/*")
    expect(page, "#prompt").to_have_value("")
    expect(page, f"{ANSWER} pre .k >> nth=0").to_have_text("def")
    told(page, f"{ANSWER} .stats", "chat.stats.read_again.other")
    page.wait_for_selector(".chat-item.is-current")
    page.go_back()
    page.wait_for_selector(".prompt")


def test_a_suggested_prompt_is_one_click(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.click(".prompt >> nth=0")
    wait_done(page)
    expect(page, ".bubble").to_contain_text(text("chat.welcome.first.text"))


def test_stop_keeps_the_text_and_continue_works(start, visit, pace):
    page = visit(start(fake_strategy(LONG_ANSWER)).url)
    wait_ready(page)
    pace.token_s = 0.05
    send(page, "Why?")
    wait_streaming(page)
    pace.hold()
    page.keyboard.press("Escape")
    wait_done(page)
    pace.token_s = 0
    expect(page, ".stats").to_contain_text(text("chat.message.stopped"))
    expect(page, f"{ANSWER} > .prose").not_to_contain_text("That is all")
    page.click("[value^=continue]")
    wait_streaming(page, "That is all")
    wait_done(page)
    expect(page, f"{ANSWER} > .prose").to_have_text(LONG_ANSWER)
    expect(page, ".answer").to_have_count(1)


def test_versions_are_made_by_regenerate_and_walked_with_the_arrow_keys(roost, visit):
    page = visit(roost.url)
    ask(page)
    act(page, ANSWER, "[value^=regenerate]")
    page.wait_for_selector(".versions-count:has-text('2/2')")
    page.focus(f"{ANSWER} [data-versions] button")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".versions-count:has-text('1/2')")
    page.focus(f"{ANSWER} [data-versions] button:last-child")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".versions-count:has-text('2/2')")


def test_an_edit_makes_a_branch_and_the_old_one_stays(roost, visit):
    page = visit(roost.url)
    ask(page, "The first question")
    act(page, ".user", "[data-edit]")
    page.fill(".edit textarea", "Another question")
    page.keyboard.press("Escape")
    expect(page, ".edit").to_have_count(0)
    expect(page, ".bubble").to_have_text("The first question")
    act(page, ".user", "[data-edit]")
    expect(page, ".edit textarea").to_have_value("Another question")
    page.keyboard.press("Enter")
    page.wait_for_selector(".bubble:has-text('Another question')")
    wait_done(page)
    page.click(".user [data-versions] button >> nth=0")
    page.wait_for_selector(".bubble:has-text('The first question')")
    expect(page, ".answer").to_have_count(1)


def test_an_answer_is_rewritten_as_a_version_and_continued(roost, visit):
    page = visit(roost.url)
    ask(page)
    act(page, ANSWER, "[data-edit]")
    page.wait_for_selector(f"{ANSWER} .edit textarea")
    page.fill(f"{ANSWER} .edit textarea", "In my own **words**")
    page.click(f"{ANSWER} .edit [name=do]")
    page.wait_for_selector(f"{ANSWER} > .prose strong:text-is('words')")
    page.wait_for_selector(f"{ANSWER} .versions-count:has-text('2/2')")
    page.click(f"{ANSWER} [value^=continue]")
    page.wait_for_selector(f"{ANSWER} .stats:has-text('tokens')")
    page.wait_for_selector(f"{ANSWER} > .prose strong:text-is('words')")


def test_arrow_up_in_an_empty_composer_edits_the_last_question(roost, visit):
    page = visit(f"{roost.url}/chat/{roost.answered('The first question')}")
    wait_ready(page)
    page.press("#prompt", "ArrowUp")
    page.wait_for_selector(".user .edit textarea:focus")
    page.keyboard.press("Escape")
    page.wait_for_selector(".user .edit", state="detached")


def test_a_deleted_message_is_restored_by_undo(roost, visit):
    page = visit(roost.url)
    ask(page)
    act(page, ".user", "[value^=delete_message]")
    page.wait_for_selector(".message", state="detached")
    page.wait_for_selector(".welcome")
    undo(page)
    page.wait_for_selector(ANSWER)
    page.wait_for_selector(".toast", state="detached")
    expect(page, ".message").to_have_count(2)


def test_a_reload_and_a_second_page_see_the_same_stream(start, visit):
    page = visit(start(fake_strategy(delay_ms=40, repeat=0)).url)
    wait_ready(page)
    send(page, "Why?")
    wait_streaming(page)
    second = visit(page.url, beside=page)
    page.reload()
    for one in (page, second):
        wait_streaming(one, "Both feet")
        one.wait_for_selector(".stop")
    second.click(".stop")
    wait_done(page)
    wait_done(second)
    until_true(page, lambda: "Both feet" in answer_text(page) == answer_text(second))


def test_thinking_folds(start, visit):
    page = visit(start(fake_strategy("<think>hm, wires</think>\nBecause of the voltage.")).url)
    ask(page)
    expect(page, ".thinking summary").to_be_visible()
    expect(page, ".thinking .prose").to_be_hidden()
    page.click(".thinking summary")
    expect(page, ".thinking .prose").to_be_visible()
    expect(page, ".thinking .prose").to_have_text("hm, wires")
    expect(page, f"{ANSWER} > .prose").to_have_text("Because of the voltage.")


def test_a_failed_answer_has_a_button_that_tries_again(start, visit):
    page = visit(start("fake fail_at=40").url)
    wait_ready(page)
    send(page, "Why?")
    told(page, ".failure", "chat.message.safe")
    page.click(".failure [name=do]")
    page.wait_for_selector(".versions-count:has-text('2/2')")


def test_an_answer_is_announced_once_at_its_end(roost, visit):
    page = visit(roost.url)
    page.evaluate("""() => { window.said = []; new MutationObserver(() => said.push(announcer.textContent))
        .observe(announcer, {childList: true}); }""")
    ask(page)
    begins = text("status.answering")
    until(page, f"said.length && said.at(-1) !== '{begins}'")
    said = [words for words in page.evaluate("said") if words != begins]  # at once: the answer is complete
    assert len(said) == 1 and said[0].startswith(text("chat.message.announce", text="Birds perch"))


def test_a_restart_of_the_server_loses_nothing(start, visit):
    roost = start(fake_strategy())
    page = visit(roost.url)
    page.expected += ["WebSocket", "ERR_CONNECTION", "Failed to load", "[object Event]", "htmx:"]
    ask(page)
    page.fill("#prompt", "half a though")
    roost.settings = replace(roost.settings, port=roost.port)
    roost.stop()
    page.wait_for_selector("#lost:visible")
    roost.start()
    page.wait_for_selector("#lost", state="hidden")
    expect(page, "#prompt").to_have_value("half a though")
    expect(page, ".message").to_have_count(2)
    ask(page, "half a thought")


def test_a_replay_says_under_the_answer_whether_it_is_the_same(own_roost, says, visit):
    says(" Herons stand still.")
    page = visit(own_roost.url)
    ask(page, "What do herons do?")
    act(page, ANSWER, "[value^='replay:']")
    told(page, f"{ANSWER} .stats", "chat.stats.replay_equal")

"""Alternatives to an answer: from one of its tokens, several from one prefill, with two presets."""

from tests.browser.acting import ANSWER, ask, expect, send, until, until_true, wait_done, wait_ready


def test_a_token_shows_its_alternatives_and_a_version_continues_from_one(own_roost, visit, says):
    says(" Birds perch on wires.")
    page = visit(own_roost.url)
    ask(page)
    page.click(f"{ANSWER} .actions [href^='/chat/tokens/']")
    page.wait_for_selector(".token-list .token-0")
    expect(page, f"{ANSWER} > .prose").to_be_hidden()
    tokens = page.locator(".token-list .token")
    until_true(page, lambda: "".join(tokens.all_inner_texts()[:-1]) == " Birds perch on wires.")
    page.click(".token-list .token >> nth=1")
    page.wait_for_selector(".alternatives .is-own")
    expect(page, ".alternatives .is-own .token").to_have_text(tokens.nth(1).inner_text())
    other = page.locator(".alternative:not(.is-own) .token:not(:disabled)").first
    word = other.inner_text()  # at once: the list came whole
    other.click()
    page.wait_for_selector(f"{ANSWER} .versions-count:has-text('2/2')")
    wait_done(page)
    stored = own_roost.store.branch(own_roost.store.list()[0].id)[-1].message
    assert stored.content.startswith(("Birds" + word).strip()) or word.strip() == ""
    expect(page, f"{ANSWER} > .prose").to_be_visible()


def test_the_tokens_can_be_hidden_and_have_their_own_page_without_scripts(own_roost, visit, says):
    says(" Birds perch.\n\n- on wires")
    page = visit(own_roost.url)
    ask(page)
    address = page.get_attribute(f"{ANSWER} .actions [href^='/chat/tokens/']", "href")
    page.click(f"{ANSWER} .actions [href^='/chat/tokens/']")
    page.click(f"{ANSWER} .tokens-head a")
    page.wait_for_selector(f"{ANSWER} > .prose")
    plain = visit(own_roost.url + address, java_script_enabled=False)
    plain.click(".token-list .token >> nth=1")
    plain.wait_for_selector(".alternatives .is-own")
    plain.click(".alternative:not(.is-own) .token:not(:disabled) >> nth=0")
    plain.wait_for_selector(".messages")
    page.wait_for_selector(f"{ANSWER} .versions-count:has-text('2/2')")


def together(page, count=3, text="Why can birds sit on wires?"):
    """A question with several answers in their grid."""
    wait_ready(page)
    page.select_option("#composer [name=answers]", str(count))
    send(page, text)
    page.wait_for_selector(f".cards .card:nth-child({count})")


def test_several_answers_stream_in_a_grid_and_survive_a_reload_and_a_cut_socket(own_roost, visit, says, pace):
    says(" Birds perch on wires. " * 60)
    page = visit(own_roost.url, viewport={"width": 390, "height": 844})
    page.expected += ["WebSocket", "ERR_"]
    pace.token_s = 0.1
    together(page)
    for number in (1, 2, 3):
        page.wait_for_selector(f".card:nth-child({number}) > .prose:has-text('Birds perch')")
    pace.hold()
    until(page, "document.documentElement.scrollWidth === 390")
    sockets = []
    page.route_web_socket("**/ws/chat", lambda socket: sockets.append((socket, socket.connect_to_server())))
    page.reload()
    page.wait_for_selector(".card:nth-child(3).is-streaming > .prose:has-text('Birds perch')")
    wait_ready(page)
    sockets[-1][0].close(code=1012)
    until_true(page, lambda: len(sockets) == 2)
    wait_ready(page)
    page.click(".card:nth-child(2) [value^=stop_answer]")
    page.wait_for_selector(".card:nth-child(2):not(.is-streaming) .stats-note")
    expect(page, ".card.is-streaming").to_have_count(2)
    page.click(".stop")
    page.wait_for_selector("#composer:not([data-answering])")
    page.wait_for_selector(".card .stats-note >> nth=2")


def test_ticked_answers_become_versions_and_undo_restores_the_others(own_roost, visit, says):
    says(" Birds perch on wires.")
    page = visit(own_roost.url)
    together(page, 4)
    page.wait_for_selector(".card:nth-child(4) .stats > :last-child")
    page.wait_for_selector("#composer:not([data-answering])")
    page.check(".card:nth-child(2) .card-tick input")
    page.check(".card:nth-child(3) .card-tick input")
    page.click("[value^=keep_ticked]")
    page.wait_for_selector(f"{ANSWER} .versions-count:has-text('1/2')")
    page.click(".toast [value^=restore_beside]")
    page.wait_for_selector(".cards .card:nth-child(4)")
    page.click(".card:nth-child(4) [value^='vote:']")
    page.wait_for_selector(".card:nth-child(4) [aria-pressed=true]")
    page.click(".card:nth-child(4) [value^='keep:']")
    page.wait_for_selector(".card", state="detached")
    page.wait_for_selector(f"{ANSWER} > .prose:has-text('Birds perch')")
    expect(page, ".versions").to_have_count(0)


def test_two_presets_answer_one_question_side_by_side(own_roost, visit, says):
    says(" Birds perch on wires.")
    own_roost.app.extensions["presets"].create("Brief", {"max_tokens": 3})
    page = visit(own_roost.url)
    ask(page)
    page.click(f"{ANSWER} .actions [href^='/chat/several/']")
    page.select_option(".several [name=second]", label="Brief")
    page.click(".several [value^='compare:']")
    page.wait_for_selector(".card:nth-child(2) .stats-note")
    expect(page, ".card:nth-child(2) .card-head").to_have_text("Brief")
    expect(page, ".card:nth-child(1) > .prose").to_have_text("Birds perch on wires.")
    expect(page, ".card:nth-child(2) > .prose").not_to_contain_text("wires.")
    page.click(".card:nth-child(2) [value^='keep:']")
    page.wait_for_selector(f"{ANSWER} .versions-count:has-text('2/2')")

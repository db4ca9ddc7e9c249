"""Other answers than the one given: from a token of it on, several from one reading, of two presets."""

from tests.browser.acting import ANSWER, ask, until_true, wait_done


def test_a_token_shows_what_else_could_have_stood_there_and_a_version_goes_on_from_it(own_roost, visit, says):
    says(" Birds perch on wires.")
    page = visit(own_roost.url)
    ask(page)
    page.click(f"{ANSWER} .actions [href^='/chat/tokens/']")
    page.wait_for_selector(".token-list .token-0")
    assert not page.is_visible(f"{ANSWER} > .prose")
    pieces = page.locator(".token-list .token").all_inner_texts()
    assert "".join(pieces[:-1]) == " Birds perch on wires."
    page.click(".token-list .token >> nth=1")
    page.wait_for_selector(".alternatives .is-own")
    assert page.inner_text(".alternatives .is-own .token") == pieces[1]
    other = page.locator(".alternative:not(.is-own) .token:not(:disabled)").first
    word = other.inner_text()
    other.click()
    page.wait_for_selector(f"{ANSWER} .versions-count:has-text('2/2')")
    wait_done(page)
    stored = own_roost.store.branch(own_roost.store.list()[0].id)[-1].message
    assert stored.content.startswith(("Birds" + word).strip()) or word.strip() == ""
    assert page.is_visible(f"{ANSWER} > .prose")


def test_the_tokens_are_put_away_again_and_stand_in_a_page_of_their_own_without_scripts(own_roost, visit, says):
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
    until_true(page, lambda: page.locator(f"{ANSWER} .versions-count:has-text('2/2')").count())

"""Things that must not be lost or get in the way: typed text, pressed buttons, a longer list, the focus."""

from tests.browser.acting import ANSWER, act, ask, expect, told, until, until_true, wait_done, wait_ready
from tests.web.chat.running_roost import fake_strategy


def test_the_skip_link_keeps_what_is_typed(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    page.fill("#system-prompt", "Be kind.")
    page.focus(".skip")
    page.keyboard.press("Enter")
    until(page, "document.activeElement.id === 'main'")
    expect(page, "#system-prompt").to_have_value("Be kind.")


def test_what_is_done_before_the_scripts_listen_counts(roost, visit):
    page = visit(roost.url)
    held, is_held = [], True
    page.route("**/*.js", lambda route: held.append(route) if is_held else route.continue_())

    def early(path, *done):
        """On elements themselves: all else here waits for the scripts."""
        nonlocal is_held
        is_held = True
        page.goto(roost.url + path, wait_until="commit")
        for selector, name, *values in done:
            getattr(page.wait_for_selector(selector), name)(*values)
        is_held = False
        while held:
            held.pop().continue_()

    early("/tools/servers/new", ("#field-command", "fill", "python -m server"))
    page.wait_for_selector("#server-words code:text-is('server')")
    mine = roost.app.extensions["presets"].create("Mine")
    early(f"/presets/{mine.id}", ("#field-temperature", "fill", "0.4"))
    page.wait_for_selector("#preset[data-dirty]")
    told(page, "#save-text", "preset_page.bar.inactive")
    # otherwise leaving the page would ask
    page.evaluate("document.getElementById('preset').removeAttribute('data-dirty')")
    chat_id = roost.answered("Early")
    early(
        f"/chat/{chat_id}",
        ("#knob-temperature", "fill", "0.7"),
        ("#prompt", "fill", "half a thought"),
        (".strip-button", "click"),
    )
    until_true(page, lambda: roost.store.get(chat_id).sampling == {"temperature": 0.7})
    page.wait_for_selector("#model-menu .menu-item")
    expect(page, ".knob:has(#knob-temperature) input[type=range]").to_have_value("0.7")
    page.reload()
    expect(page, "#prompt").to_have_value("half a thought")
    early("/models/roost-starter-v7.safetensors", (".tensor-group summary >> nth=-1", "click"))
    page.wait_for_selector(".tensor-group[open] .table-scroll td")


def test_the_tab_bears_the_chats_name(roost, visit):
    page = visit(roost.url)
    ask(page, "Birds & wires")
    expect(page).to_have_title("Birds & wires · Roost")


def test_enter_without_a_connection_keeps_the_page_and_the_text(start, visit):
    roost = start(fake_strategy())
    page = visit(roost.url)
    page.expected += ["WebSocket", "ERR_CONNECTION", "Failed to load", "[object Event]", "htmx:"]
    wait_ready(page)
    roost.stop()
    page.wait_for_selector("#lost:visible")
    page.evaluate("addEventListener('submit', (event) => (window.isRefused = event.defaultPrevented))")
    page.fill("#prompt", "not lost")
    page.press("#prompt", "Enter")
    until(page, "window.isRefused")
    expect(page, "#prompt").to_have_value("not lost")
    expect(page, "#lost button").to_be_visible()


def test_a_setting_changed_at_the_last_moment_counts_for_the_message(roost, visit):
    page = visit(roost.url)
    ask(page)
    page.evaluate(
        """() => {
        const knob = document.getElementById("knob-temperature");
        knob.value = "0.7";
        knob.dispatchEvent(new Event("input", {bubbles: true}));
        prompt.value = "and now?";
        composer.requestSubmit();
    }""".replace("prompt.", "document.getElementById('prompt').")
    )
    page.wait_for_selector(".user >> nth=1")
    chat = roost.store.get(page.url.rpartition("/")[2])  # at once: it goes before the message
    assert chat.sampling == {"temperature": 0.7}


def test_a_draft_that_was_sent_does_not_reappear(roost, visit):
    chat_id = roost.answered("Sent already")
    page = visit(roost.url)
    page.evaluate(f"localStorage.setItem('roost.draft.{chat_id}', 'Sent already')")
    page.goto(f"{roost.url}/chat/{chat_id}")
    wait_ready(page)
    expect(page, "#prompt").to_have_value("")


def test_a_list_made_longer_stays_longer(start, visit):
    roost = start(fake_strategy())
    for number in range(45):
        roost.store.create(title=f"Chat {number}")
    page = visit(roost.url)
    wait_ready(page)
    page.click("#more-chats")
    expect(page, ".chat-item").to_have_count(40)
    until(page, "document.activeElement.id === 'more-chats'")
    roost.answered("news")
    roost.app.extensions["chat_news"].publish("list")
    page.wait_for_selector(".chat-link:has-text('news')")
    expect(page, ".chat-item").to_have_count(40)


def test_a_link_of_the_list_keeps_the_focus_through_news(roost, visit):
    page = visit(f"{roost.url}/chat/{roost.answered('First')}")
    wait_ready(page)
    page.focus(".chat-item.is-current .chat-link")
    roost.answered("Second")
    roost.app.extensions["chat_news"].publish("list")
    page.wait_for_selector(".chat-link:has-text('Second')")
    until(page, "document.activeElement.className === 'chat-link'")
    page.focus(".chat-item.is-current .dots")
    roost.answered("Third")
    roost.app.extensions["chat_news"].publish("list")
    page.wait_for_selector(".chat-link:has-text('Third')")
    until(page, "document.activeElement.matches('.is-current .dots')")


def test_the_strips_button_is_not_replaced_while_only_its_word_changes(roost, visit):
    page = visit(roost.url)
    wait_ready(page)
    roost.answered("Load the model")
    page.wait_for_selector("#strip .word-idle")
    page.focus(".strip-button")
    roost.app.extensions["model_manager"].unload()
    page.wait_for_selector("#strip .word-off")
    until(page, "document.activeElement.className === 'strip-button'")


def test_toasts_are_above_a_composer_that_has_grown(roost, visit):
    page = visit(roost.url)
    ask(page)
    page.fill("#prompt", "line\n" * 30)
    page.hover(".user")
    page.click(".user [value^=delete_message]")
    toast = page.wait_for_selector(".toast")

    def is_above():
        box = toast.bounding_box()
        return box["y"] + box["height"] <= page.locator("#composer").bounding_box()["y"]

    until_true(page, is_above)


def test_the_keyboard_walks_versions_without_losing_its_place(roost, visit):
    page = visit(roost.url)
    ask(page)
    for count in (2, 3):
        act(page, ANSWER, "[value^=regenerate]")
        page.wait_for_selector(f".versions-count:has-text('{count}/{count}')")
        wait_done(page)
    page.focus(f"{ANSWER} [data-versions] button")
    for version in ("2/3", "1/3"):
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector(f".versions-count:has-text('{version}')")


def test_the_focus_follows_a_drawer_and_returns(roost, visit):
    page = visit(roost.url, viewport={"width": 1024, "height": 768})
    ask(page)
    page.focus(".chat-head [data-panel-toggle]")
    page.keyboard.press("Enter")
    until(page, "Boolean(document.activeElement.closest('#panel'))")
    page.keyboard.press("Enter")
    until(page, "document.activeElement.matches('.chat-head [data-panel-toggle]')")

"""Function calling as a user sees it: a tool created in its form, requested in a chat, approved, answered."""

import re

import pytest
from msgspec.structs import replace

from tests.browser.acting import CARD, expect, send, until, until_there, wait_answer, wait_ready
from webapp.i18n.translation import translate
from webapp.services.chat.tool_loop import REFUSED
from webapp.storage.tools import ToolStore
from webapp.tools.definition import Approval, Behaviour, HttpCall, from_openai

WEATHER = from_openai(
    {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["location"],
        },
    }
)
CALL = '```json\n{"name":"get_current_weather","arguments":{"location":"Paris"}}\n```'
REPLY = "It is 22 degrees in Paris."
CUT = """[...document.querySelectorAll('.tool-form input:not([type=hidden]), .tool-form button, .tool-form select')]
    .filter(node => node.checkVisibility() && node.getBoundingClientRect().right > innerWidth).length"""


@pytest.fixture
def roost(own_roost):
    """Without a tool."""
    return own_roost


def offer(roost, **changes):
    return ToolStore(roost.app.extensions["database"]).create(replace(WEATHER, **changes))


def ask_for_weather(page, says, text="What's the weather like in Paris?"):
    """Ends on the page with the card of the call, which appeared without a reload."""
    wait_ready(page)
    page.click("#tool-switch label")
    says(CALL)
    send(page, text)
    page.wait_for_selector(CARD)


def last_result(roost):
    """The model's input for the newest call."""
    store = roost.store
    chat = store.list()[0]
    rows = store.branch(chat.id)
    return [row.message for row in rows if row.message.role.value == "tool"][-1]


def test_a_tool_made_in_the_form_is_called_and_answers(roost, visit, says):
    page = visit(f"{roost.url}/tools")
    page.click(".empty .button-main")
    page.wait_for_selector("#tool-preview .tool-text:has-text('get_current_weather')")
    page.click(".save-bar .button-main")
    page.wait_for_selector(".toast")
    page.goto(roost.url)
    ask_for_weather(page, says)
    expect(page, f"{CARD} [name=arguments]").to_have_value(re.compile('"Paris"'))
    (chat,) = roost.store.list()
    assert translate("chat.call.run", "zh") in roost.get(f"/chat/{chat.id}", Accept_Language="zh")
    says(REPLY)
    run = page.locator(f"{CARD} button[value^=approve_call]")
    expect(run).to_have_text(translate("chat.call.run", "en"))
    run.click()
    wait_answer(page, REPLY)
    assert '"22"' in last_result(roost).content
    page.click(f"{CARD} summary")
    expect(page, f"{CARD} .call-text >> nth=1").to_contain_text('"22"')


def test_arguments_are_changed_in_the_card_before_they_run(roost, visit, says):
    offer(roost, behaviour=Behaviour.FIXED, fixed_value='{"temperature": "10"}')
    page = visit(roost.url)
    ask_for_weather(page, says)
    page.fill(f"{CARD} [name=arguments]", '{"location": 5}')
    page.click(f"{CARD} .button-main")
    page.wait_for_selector(".toast:has-text('location')")
    expect(page, f"{CARD}.call-waiting").to_be_visible()  # an invalid call still waits
    says(REPLY)
    page.fill(f"{CARD} [name=arguments]", '{"location": "Tokyo"}')
    resize = "document.querySelector('.call [name=arguments]').style.height = '90px'"
    page.evaluate(resize)  # as its corner does; replacing it afterwards must not violate the policy on styles
    page.click(f"{CARD} .button-main")
    wait_answer(page, REPLY)
    calls = [row.message.tool_calls for row in roost.store.branch(roost.store.list()[0].id) if row.message.tool_calls]
    assert '"Tokyo"' in calls[0][0].arguments


def test_a_call_that_is_refused_is_reported_to_the_model(roost, visit, says):
    offer(roost, behaviour=Behaviour.FIXED, fixed_value="22")
    page = visit(roost.url)
    ask_for_weather(page, says)
    says("Then I cannot say.")
    page.click(f"{CARD} button[value^=refuse_call]")
    wait_answer(page, "Then I cannot say.")
    assert str(REFUSED) in last_result(roost).content


def test_a_tool_may_ask_the_person(roost, visit, says):
    offer(roost, behaviour=Behaviour.ASK)
    page = visit(roost.url)
    ask_for_weather(page, says)
    page.fill(f"{CARD} [name=result]", '{"temperature": "22"}')
    says(REPLY)
    page.click(f"{CARD} button[value^=give_result]")
    wait_answer(page, REPLY)
    assert last_result(roost).content == '{"temperature": "22"}'


def test_a_tool_that_fails_says_so_and_the_chat_continues(roost, visit, says):
    http = HttpCall("https://weather.invalid/{location}")
    offer(roost, behaviour=Behaviour.HTTP, http=http, approval=Approval.ALWAYS)
    page = visit(roost.url)
    ask_for_weather(page, says)
    says("The tool did not work.")
    page.click(f"{CARD} .button-main")
    wait_answer(page, "The tool did not work.")
    page.wait_for_selector(f"{CARD}.call-error")
    assert '"error"' in last_result(roost).content


def test_a_wrong_type_is_shown_at_its_field(roost, visit):
    page = visit(f"{roost.url}/tools/new?from=example")
    until(page, "document.querySelectorAll('.parameter').length === 2")
    page.evaluate("document.getElementById('tool-form').dataset.old = '1'")
    page.select_option("[name='0:kind']", "integer")
    until(page, "!document.getElementById('tool-form').dataset.old")  # the form is rendered again for the type
    page.fill("[name='0:default']", "many")
    page.wait_for_selector("[data-error='0:default'].has-error .error-text:not(:empty)")
    expect(page, "#tool-preview .tool-problem >> nth=0").to_be_visible()
    page.fill("[name='0:default']", "3")
    page.wait_for_selector("#tool-preview pre:has-text('get_current_weather')")
    expect(page, ".has-error").to_have_count(0)


def test_the_json_and_the_form_follow_each_other(roost, visit):
    page = visit(f"{roost.url}/tools/new?from=example")
    page.fill("#field-name", "weather_now")
    until(page, "document.getElementById('tool-json').value.includes('weather_now')")
    text = page.input_value("#tool-json").replace("weather_now", "forecast").replace('"location"', '"city"')
    page.fill("#tool-json", text)
    page.press("#tool-json", "Tab")
    until(page, "document.getElementById('field-name').value === 'forecast'")
    expect(page, "[name='0:name']").to_have_value("city")


def test_a_late_preview_does_not_replace_typed_json(roost, visit):
    page = visit(f"{roost.url}/tools/new?from=example")
    until(page, "document.querySelectorAll('.parameter').length === 2")
    held = []
    page.route("**/tools/preview", lambda route: route.continue_() if held else held.append(route))
    page.fill("#field-name", "weather_now")
    page.press("#field-name", "Tab")
    until_there(page, held)
    page.fill("#tool-json", page.input_value("#tool-json").replace('"location"', '"city"'))
    page.press("#tool-json", "Tab")  # requests the form, after the preview
    held[0].continue_()
    until(page, "document.querySelector(\"[name='0:name']\").value === 'city'")


def test_the_form_fits_its_screen(roost, visit):
    page = visit(f"{roost.url}/tools/new?from=example")
    until(page, "document.querySelectorAll('.parameter').length === 2")
    for width in (1440, 1024, 390):
        page.set_viewport_size({"width": width, "height": 844})
        until(page, f"document.documentElement.scrollWidth <= {width}")
        until(page, f"{CUT} === 0")

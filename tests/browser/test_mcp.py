"""An MCP server as a user sees it: added in its form, its tool called in a chat, stopped during a call."""

import shlex
import time

import pytest
from msgspec.structs import replace

from tests.browser.acting import CARD, expect, send, until, until_true, wait_answer, wait_ready
from tests.tools.mcp.conftest import raw
from webapp.i18n.translation import translate
from webapp.tools.runner import ToolResult

CALL = '```json\n{{"name":"{name}","arguments":{{}}}}\n```'


@pytest.fixture
def roost(own_roost):
    return own_roost


@pytest.fixture(autouse=True)
def needs_the_sdk():
    pytest.importorskip("mcp", reason="needs the MCP SDK (pip install -e '.[mcp]')")


def add(page, url, way):
    """Ends on the page of a connected server."""
    page.goto(f"{url}/tools/servers")
    page.click(".empty .button-main")
    page.fill("#field-name", "Tiny")
    config = raw(way)
    page.fill("#field-command", shlex.join((config.command, *config.args)))
    page.wait_for_selector(f"#server-words code:text-is('{way}')")
    page.click(".server-try")
    page.wait_for_selector("#server-trial .note-good")
    page.click("#server-form .button-main")
    page.wait_for_selector("#server-live .note-good")


def ask(page, says, url):
    page.goto(url)
    wait_ready(page)
    page.click("#tool-switch label")
    says(CALL.format(name="echo"))
    send(page, "Call it.")
    page.wait_for_selector(f"{CARD} button[value^=approve_call]")


def test_a_server_is_added_and_its_tool_is_called(roost, visit, says):
    page = visit(f"{roost.url}/tools")
    add(page, roost.url, "modern")
    expect(page, "#server-live .note").to_contain_text(translate("mcp.phase.connected", "en"))
    expect(page, ".rail-item[aria-current]").to_have_text(translate("nav.tools", "en"))
    (server,) = roost.app.extensions["mcp_servers"].store.list()
    chinese = roost.get(f"/tools/servers/{server.id}", Accept_Language="zh")
    assert translate("mcp.phase.connected", "zh") in chinese and translate("nav.tools", "zh") in chinese
    ask(page, says, roost.url)
    says("It said modern.")
    page.click(f"{CARD} button[value^=approve_call]")
    wait_answer(page, "It said modern.")
    page.click(f"{CARD} summary")
    expect(page, f"{CARD} .call-text >> nth=1").to_have_text("modern")


def test_a_call_is_stopped_while_it_runs(roost, visit, says):
    def slow(definition, arguments, is_stopped):
        while not is_stopped():
            time.sleep(0.01)
        return ToolResult("late")

    servers = roost.app.extensions["mcp_servers"]
    server = servers.add(raw("modern"))
    page = visit(roost.url)
    until_true(page, lambda: servers.state(server).phase == "connected")
    roost.turns.tools._remote = slow
    ask(page, says, roost.url)
    says("Then not.")
    page.click(f"{CARD} button[value^=approve_call]")
    page.wait_for_selector(f"{CARD}.call-running:has-text('{translate('chat.call.running', 'en')}')")
    page.click(f"{CARD} button[value^=refuse_call]")
    wait_answer(page, "Then not.")
    page.wait_for_selector(f"{CARD}:has-text('{translate('chat.call.stopped', 'en')}')")


def test_the_pages_fit_their_screen(roost, visit):
    servers = roost.app.extensions["mcp_servers"]
    config = replace(raw("exit"), name="A server with quite a long name of it")
    server = servers.add(config)
    page = visit(roost.url)
    for path in ("", "/new", f"/{server.id}"):
        page.goto(f"{roost.url}/tools/servers{path}")
        until(page, "!document.querySelector('[hx-trigger=\"every 1s\"]')")
        for width in (1440, 1024, 390):
            page.set_viewport_size({"width": width, "height": 844})
            until(page, f"document.documentElement.scrollWidth <= {width}")

"""MCP servers are added, shown, changed and removed through their pages; secrets are never shown."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import Any

import pytest
from safetensors.numpy import save_file

from tests.lazy_import import Lazily
from tests.tools.mcp.conftest import raw
from tests.waiting import wait_until
from tests.web.apps import open_app
from tests.web.owner import owner_client
from tests.weights.make_checkpoints import make_tensors
from tests.wording import error_text, pattern, says, text
from webapp.services.tools import McpServers
from webapp.settings import Settings
from webapp.storage.tools import ToolStore
from webapp.tools.mcp.server_config import ServerConfig, ServerKind
from webapp.web.tools.servers import joined

Lazily("mcp")
BASE = "http://127.0.0.1"
SECRET = "sk-secret-1234"


class Browser:
    def __init__(self, app: Any) -> None:
        self.client = owner_client(app)
        self.servers: McpServers = app.extensions["mcp_servers"]
        self.tools = ToolStore(app.extensions["database"])

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        answer = self.client.get(path, base_url=BASE, headers=headers)
        return answer.status_code, unescape(answer.get_data(as_text=True))

    def post(self, path: str, htmx: bool = False, **form: Any) -> tuple[int, str, str]:
        headers = {"Origin": BASE, **({"HX-Request": "true"} if htmx else {})}
        answer = self.client.post(path, base_url=BASE, headers=headers, data=form)
        return answer.status_code, answer.headers.get("Location", ""), unescape(answer.get_data(as_text=True))

    def until_settled(self, server_id: str) -> str:
        pages: list[str] = []

        def is_settled() -> bool:
            pages.append(self.get(f"/tools/servers/{server_id}", HX_Request="true")[1])
            return "every 1s" not in pages[-1]

        wait_until(is_settled)
        return pages[-1]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("servers")
    save_file(make_tensors("7", 1, 64, 64, 256), str(folder / "v7.safetensors"))
    settings = Settings(
        data_dir=folder, models_dir=folder, model="v7.safetensors", strategy="fake", tool_hosts=("mcp.example",)
    )
    with open_app(settings) as app:
        yield app


@pytest.fixture
def browser(app):
    browser = Browser(app)
    yield browser
    for server in browser.servers.store.list():
        browser.servers.remove(server.id)


def form_of(way: str = "modern", **fields: str) -> dict[str, str]:
    config = raw(way)
    command = joined((config.command, *config.args))
    return {"name": "Tiny", "kind": "stdio", "command": command, "timeout_s": "5", **fields}


def added(browser: Browser, **fields: str) -> str:
    """The id of a server that was added with the form."""
    status, where, _ = browser.post("/tools/servers", **form_of(**fields))
    assert status == 303
    return where.partition("?")[0].rpartition("/")[2]


def test_a_server_is_added_connects_and_shows_its_tools(browser: Browser) -> None:
    server_id = added(browser)
    page = browser.until_settled(server_id)
    assert says(page, "mcp.phase.connected") and says(page, "mcp.tools_count", count=1) and "<html" not in page
    assert re.search(r'name="offered" value="echo" checked', page) and says(page, "tools.approval.always")
    (tool,) = browser.tools.list()
    status, page = browser.get("/tools")
    assert says(page, "tools.from_server", name="Tiny") and f"/tools/servers/{server_id}#tool-{tool.id}" in page
    status, page = browser.get("/tools/servers?lang=zh")
    assert status == 200 and text("mcp.phase.connected", "zh") in page
    assert text("mcp.tools_count", "zh", count=1) in page


def test_a_server_that_cannot_be_connected_says_why_and_what_to_do(browser: Browser) -> None:
    server_id = added(browser, way="exit", env=f"API_KEY={SECRET}")
    page = browser.until_settled(server_id)
    assert error_text("mcp_server_ended", name="Tiny", said="Error: API_KEY=") in page
    _, page = browser.get("/tools/servers")
    assert says(page, "mcp.phase.failed") and says(page, "mcp.reconnect") and browser.tools.list() == []


def test_secrets_are_accepted_and_never_shown(browser: Browser) -> None:
    server_id = added(browser, env=f"API_KEY={SECRET}\nOTHER=plain-text")
    for path in ("/tools/servers", f"/tools/servers/{server_id}"):
        _, page = browser.get(path)
        assert SECRET not in page and "plain-text" not in page
    _, page = browser.get(f"/tools/servers/{server_id}")
    shown = re.search(r'name="env"[^>]*>\n([^<]*)<', page)
    assert shown and shown[1] == "API_KEY=••••••••\nOTHER=••••••••"
    form = form_of(env="API_KEY=••••••••\nNEW=3", updated_at="")
    assert browser.post(f"/tools/servers/{server_id}", **form)[0] == 303
    assert browser.servers.store.get(server_id).config.env == {"API_KEY": SECRET, "NEW": "3"}
    status, _, page = browser.post(f"/tools/servers/{server_id}", **form_of(env="NEVER=••••••••"))
    assert status == 422 and says(page, "reason.web.hidden_value_missing")


def test_a_key_is_not_sent_to_another_address(browser: Browser) -> None:
    config = ServerConfig("far", ServerKind.HTTP, url="http://127.0.0.1:9/mcp", headers={"X-Key": SECRET})
    (server,) = browser.servers.store.create_all([config], is_on=False)
    form = {"name": "far", "kind": "http", "headers": "X-Key: ••••••••", "timeout_s": "5"}
    where = f"/tools/servers/{server.id}"
    status, _, page = browser.post(where, **form, url="http://evil.example/mcp")
    assert status == 422 and SECRET not in page
    status, _, page = browser.post("/tools/servers/try", server_id=server.id, **form, url="http://127.0.0.1:10/mcp")
    assert says(page, "reason.web.hidden_value_missing")
    assert browser.post(where, **form, url="http://127.0.0.1:9/other?x=1")[0] == 303
    assert browser.servers.store.get(server.id).config.headers == {"X-Key": SECRET}


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"name": ""}, "name", "1 to 40"),
        ({"command": ""}, "command", "empty"),
        ({"command": '"open'}, "command", "quotation mark"),
        ({"env": "no equals sign"}, "env", "each line"),
        ({"timeout_s": "soon"}, "timeout_s", "600"),
        ({"kind": "http", "url": "javascript:alert(1)"}, "url", "http://"),
        ({"kind": "http", "url": "http://a/", "headers": "no colon"}, "headers", "each line"),
    ],
)
def test_what_is_wrong_is_said_at_its_field_and_nothing_is_kept(
    browser: Browser, change: dict, field: str, words: str
) -> None:
    status, _, page = browser.post("/tools/servers", **form_of(**change))
    assert status == 422 and browser.servers.store.list() == []
    assert re.search(rf'<p class="error-text" id="error-{field}">[^<]*{words}', page)


def test_a_connection_is_tried_before_anything_is_kept(browser: Browser) -> None:
    _, _, page = browser.post("/tools/servers/try", htmx=True, **form_of())
    assert re.search(pattern("mcp.try.good"), page) and "<code>echo</code>" in page and "<html" not in page
    _, _, page = browser.post("/tools/servers/try", htmx=True, **form_of(command="/no/such/program --x"))
    assert "/no/such/program" in page and says(page, "error.mcp_command_missing.hint")
    _, _, page = browser.post("/tools/servers/try", **form_of(timeout_s="soon"))
    assert "600 seconds" in page and 'value="Tiny"' in page, "without scripts the form comes back as it was"
    assert browser.servers.store.list() == [] and browser.tools.list() == []


def test_a_command_is_shown_as_the_words_it_is(browser: Browser) -> None:
    _, _, page = browser.post("/tools/servers/words", htmx=True, command="npx -y 'my server' $HOME;rm")
    assert re.findall("<code>([^<]*)</code>", page) == ["npx", "-y", "my server", "$HOME;rm"]


def test_tools_are_chosen_and_approval_is_set_on_the_servers_page(browser: Browser) -> None:
    server_id = added(browser)
    browser.until_settled(server_id)
    (tool,) = browser.tools.list()
    where = f"/tools/servers/{server_id}/tools"
    assert browser.post(where, shown="echo", offered="echo", **{f"approval:{tool.id}": "never"})[0] == 303
    assert browser.tools.get(tool.id).definition.approval.value == "never"
    browser.post(where, shown="echo")
    assert browser.tools.list() == []
    _, page = browser.get(f"/tools/servers/{server_id}")
    assert re.search(r'name="offered" value="echo">', page)


def test_a_servers_tool_is_no_other_pages_to_change(browser: Browser) -> None:
    server_id = added(browser)
    browser.until_settled(server_id)
    (tool,) = browser.tools.list()
    answer = browser.client.get(f"/tools/{tool.id}", base_url=BASE)
    assert answer.status_code == 303 and server_id in answer.headers["Location"]
    assert browser.post(f"/tools/{tool.id}/delete")[0] == 422
    status, _, _ = browser.post(f"/tools/{tool.id}", name="echo", behaviour="mcp", fixed_value="x", approval="never")
    assert status == 422 and browser.tools.list() == [tool]
    assert browser.post("/tools", name="mine", behaviour="mcp")[0] == 303
    assert [row.definition.behaviour.value for row in browser.tools.list()] == ["mcp", "fixed"]
    browser.tools.delete(browser.tools.list()[1].id)


def test_buttons_of_the_list_answer_with_the_list(browser: Browser) -> None:
    server_id = added(browser)
    browser.until_settled(server_id)
    where = f"/tools/servers/{server_id}"
    _, _, page = browser.post(f"{where}/switch", htmx=True, on="", **{"from": "list"})
    assert says(page, "mcp.phase.off") and "<html" not in page and browser.tools.list() == []
    assert browser.post(f"{where}/connect", htmx=False)[0] == 409
    _, location, _ = browser.post(f"{where}/switch", on="")
    assert says(browser.get(location)[1], "mcp.said.off", name="Tiny")
    _, _, page = browser.post(f"{where}/switch", htmx=True, on="1", **{"from": "list"})
    assert says(page, "mcp.phase.connecting") or says(page, "mcp.phase.connected")
    _, location, _ = browser.post(f"{where}/delete")
    assert browser.servers.store.list() == []
    _, page = browser.get(location)
    assert f'value="restore:{server_id}"' in page
    browser.post("/tools/servers/do", do=f"restore:{server_id}")
    assert [server.id for server in browser.servers.store.list()] == [server_id]


def test_servers_of_other_programs_are_imported_switched_off(browser: Browser) -> None:
    text = json.dumps({"mcpServers": {"files": {"command": "npx", "args": ["-y", "x"], "env": {"K": SECRET}}}})
    assert browser.post("/tools/servers/import", text=text)[0] == 303
    _, page = browser.get("/tools/servers")
    assert "npx -y x" in page and says(page, "mcp.phase.off") and SECRET not in page
    for wrong in (text, "[", '{"mcpServers": {"a": {"type": "sse", "url": "http://a/"}}}'):
        status, _, page = browser.post("/tools/servers/import", text=wrong)
        assert status == 422 and len(browser.servers.store.list()) == 1


def test_only_the_owner_may_change_servers_and_see_arguments(browser: Browser) -> None:
    server_id = added(browser, env=f"API_KEY={SECRET}")
    browser.until_settled(server_id)
    browser.client.delete_cookie("roost_session_80", domain="127.0.0.1")
    where = f"/tools/servers/{server_id}"
    changes = ("/tools/servers", "/tools/servers/try", where, f"{where}/tools", f"{where}/delete")
    for path in (*changes, f"{where}/switch", f"{where}/connect", "/tools/servers/import", "/tools/servers/do"):
        assert browser.post(path, **form_of(name="Other"))[0] == 403, path
    for path in ("/tools/servers", where):
        _, page = browser.get(path)
        assert "raw_server.py" not in page and SECRET not in page
    assert [server.config.name for server in browser.servers.store.list()] == ["Tiny"]


def test_looking_starts_nothing(browser: Browser) -> None:
    (server,) = browser.servers.store.create_all([raw("deaf")], is_on=True)
    for path in ("/tools/servers", f"/tools/servers/{server.id}", "/tools/servers/new", "/tools"):
        assert browser.get(path)[0] == 200
    assert browser.servers.state(server).phase == "idle"


def test_hostile_names_stay_text(browser: Browser) -> None:
    hostile = '"><script>alert(1)</script>'
    form = form_of(command=f"x {hostile!r}", env=f"A={hostile}")
    answer = browser.client.post("/tools/servers/try", base_url=BASE, headers={"Origin": BASE}, data=form)
    assert "<script>alert" not in answer.get_data(as_text=True)
    config = ServerConfig("x", command="x", args=(hostile,))
    browser.servers.store.create_all([config], is_on=False)
    page = browser.client.get("/tools/servers", base_url=BASE).get_data(as_text=True)
    assert "<script>alert" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize("path", ["/tools/servers/nothing", "/tools/servers/" + "0" * 32])
def test_a_server_that_is_not_there_is_not_found(browser: Browser, path: str) -> None:
    assert browser.get(path)[0] == 404
    assert browser.post(path, **form_of())[0] == 404

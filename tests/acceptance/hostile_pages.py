"""HTML in every place that a model, a server or a definition controls, on every page that shows it: it must be text,
never markup."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from typing import Any

from tests.acceptance.hostile_site import HTML, Site, form_of
from webapp.chat.messages import Message, Role, ToolCall
from webapp.storage.bench import BenchStore
from webapp.storage.chats import ChatStore
from webapp.storage.records import ChatTools
from webapp.storage.tools import McpServerStore, ToolList, ToolStore
from webapp.tools.bench import BenchCase, ExpectedCall
from webapp.tools.definition import Behaviour, ToolDefinition
from webapp.tools.mcp.server_config import ServerConfig, ServerKind

EVIL = ("<script>alert(", "<img src=x")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {HTML: {"type": "string", "description": HTML, "enum": [HTML], "default": HTML, "title": HTML}},
}


def shown(*pages: str) -> int:
    """How often the text is on the page; AssertionError if it is markup or missing."""
    for page in pages:
        assert not any(mark in page for mark in EVIL), page[:2_000]
    found = sum(page.count("&lt;script&gt;alert(") for page in pages)
    assert found, "it is not shown, so nothing was tried"
    return found


@contextmanager
def waiting_call(site: Site) -> Iterator[tuple[ChatStore, str]]:
    """(the chats, the id of an answer whose call `c1` waits for a user's result)."""
    database = site.server.app.extensions["database"]
    store, tools = ChatStore(database), ToolStore(database)
    stored = tools.create(ToolDefinition("asks", behaviour=Behaviour.ASK))
    chat = store.create(title="waiting")
    store.set_tools(chat.id, ChatTools(is_own=True, is_on=True, tool_ids=(stored.id,)))
    question = store.add_message(chat.id, None, Message(Role.USER, "Ask."))
    answer = Message(Role.ASSISTANT, "", tool_calls=(ToolCall("c1", "asks", "{}"),))
    try:
        yield store, store.add_message(chat.id, question.id, answer).id
    finally:
        tools.delete(stored.id)


def said_in(page: str) -> str:
    """The text of the toast on a page."""
    found = re.search(r'role="alert"[^>]*>(.*?)</(?:div|li)>', page, re.DOTALL)
    assert found, "nothing is said"
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", found[1])).split())


def html_in_a_call(site: Site) -> str:
    """Cards of a chat: a call that waits, a finished one, one of an unknown tool."""
    database = site.server.app.extensions["database"]
    store = ChatStore(database)
    chat = store.create(title=HTML)
    calls = tuple(ToolCall(f"c{number}", name, json.dumps({"x": HTML})) for number, name in enumerate(("f", HTML)))
    result = {"c0": {"result": HTML, "is_error": True, "by": "tool", "reason": HTML}}
    question = store.add_message(chat.id, None, Message(Role.USER, HTML))
    answer = Message(Role.ASSISTANT, HTML, tool_calls=calls, metadata={"calls": result})
    message = store.add_message(chat.id, question.id, answer)
    store.add_message(chat.id, message.id, Message(Role.TOOL, HTML, tool_call_id="c0", name=HTML))
    count = shown(site.page(f"/chat/{chat.id}"))
    store.delete(chat.id)
    return f"works: shown as text, {count} times on the chat's page"


def html_in_definitions(site: Site) -> str:
    """The list, the form, its preview, a test call, and the message of an import."""
    tools = ToolStore(site.server.app.extensions["database"])
    definition = ToolDefinition("evil", HTML, SCHEMA, fixed_value=HTML)
    stored = tools.create(definition)
    fields = {**form_of(SCHEMA), "description": HTML, "fixed_value": HTML}
    pages = [
        site.page("/tools"),
        site.page(f"/tools/{stored.id}"),
        site.form("/tools/preview", **fields)[1],
        site.form("/tools/try", **fields, arguments=json.dumps({HTML: HTML}))[1],
        site.form("/tools/import", text=json.dumps([{"name": HTML, "description": HTML}]))[1],
        site.form("/tools/form", **fields, do="json", json=HTML)[1],
        site.page("/"),
    ]
    count = shown(*pages)
    tools.delete(stored.id)
    return f"works: shown as text, {count} times on {len(pages)} pages"


def html_from_servers(site: Site) -> str:
    """An MCP server's names of tools, on the server's page and in the list of servers."""
    store = McpServerStore(site.server.app.extensions["database"])
    [server] = store.create_all([ServerConfig("evil", ServerKind.HTTP, url="http://127.0.0.1:9/mcp")], is_on=False)
    refused = (("name", HTML), (HTML, "reason"))
    store.set_tools(server.id, ToolList((HTML, "other"), refused, (HTML,), left_out=3))
    count = shown(site.page(f"/tools/servers/{server.id}"))
    site.page("/tools/servers")
    store.delete(server.id)
    return f"works: shown as text, {count} times on the server's page"


def html_in_the_bench(site: Site) -> str:
    """Prompts, expected calls and the model's answers, in the report of a run."""
    tools, bench = ToolStore(site.server.app.extensions["database"]), BenchStore(site.server.app.extensions["database"])
    stored = tools.create(ToolDefinition("evil", HTML, SCHEMA, fixed_value=HTML))
    [case] = bench.add_cases([BenchCase(HTML, (ExpectedCall("evil", {HTML: HTML}),))])
    site.force(f'{HTML}```json\n{{"name":"evil","arguments":{{{json.dumps(HTML)}:{json.dumps(HTML)}}}}}\n```')
    site.form("/tools/bench/runs", mode="free", tool="evil")
    deadline = time.monotonic() + 20
    while not (bench.runs() and bench.runs()[0].is_over) and time.monotonic() < deadline:
        time.sleep(0.05)
    run = bench.runs()[0]
    pages = ["/tools/bench", f"/tools/bench/cases/{case.id}", f"/tools/bench/runs/{run.id}"]
    count = shown(*map(site.page, pages))
    assert bench.answers(run.id), "the run has no transcript"
    bench.delete_run(run.id)
    bench.delete_case(case.id)
    tools.delete(stored.id)
    return f"works: shown as text, {count} times on {len(pages)} pages"


def html_in_names(site: Site) -> str:
    """Not allowed in a tool's name; the input is shown as text, with the reason."""
    status, page = site.form("/tools", name=HTML, behaviour="fixed", approval="never")
    assert status == 422 and shown(page)
    status, answer = site.ask(tools=[{"type": "function", "function": {"name": HTML}}])
    assert status == 400, answer
    return f"refused: {answer['error']['message']}"

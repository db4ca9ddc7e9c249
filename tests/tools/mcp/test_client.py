"""A real server over both transports: its tools are listed and called, and each of its errors has its own message."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.errors import raises_code
from tests.tools.mcp.conftest import HttpServer, address, program, raw
from tests.tools.mcp.server_words import AT_ONCE, HTML, NAMES
from tests.waiting import is_gone, wait_until
from webapp.errors import McpError
from webapp.tools.mcp.answers import MAX_PAGES, MAX_TOOLS
from webapp.tools.mcp.client import McpClient
from webapp.tools.runner import MAX_RESULT_CHARS


@pytest.fixture(scope="module")
def http_server():
    server = HttpServer()
    yield server
    server.close()


@pytest.fixture(params=["stdio", "http"])
def tiny(request, client, http_server):
    """call(tool, **arguments) of the tiny server, which stays connected between tests."""
    config = program() if request.param == "stdio" else address(http_server.url)

    def call(tool, **arguments):
        return client.call(request.param, config, tool, arguments)

    call.config, call.id = config, request.param
    return call


def programs():
    """The process ids of running raw servers; other tests of this process may have child processes too."""
    children = psutil.Process().children(recursive=True)
    return {child.pid for child in children if not is_gone(child.pid) and "raw_server.py" in " ".join(words_of(child))}


def words_of(process):
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []


def test_all_pages_of_tools_are_listed(client, tiny):
    listing = client.connect(tiny.id, tiny.config)
    assert [tool.name for tool in listing.tools] == NAMES and listing.left_out == 0
    echo, weather = listing.tools[:2]
    assert echo.parameters["required"] == ["text"] and echo.hints == ("reads",)
    assert weather.description == "查询城市天气 🌦"
    state = client.state(tiny.id)
    assert (state.phase, state.server, state.error) == ("connected", "tiny 1.2", None)


def test_calls_take_and_give_any_text(tiny):
    assert tiny("get_weather", text="巴黎 🗼\n\u2028").text == "巴黎 🗼\n\u2028：22 度"
    assert tiny("html").text == HTML
    assert tiny("echo", text="a\0b\ud83d").text == "a\0b?"


def test_a_tools_own_error_is_an_error_result(tiny):
    result = tiny("fail")
    assert result.is_error and result.text == '{"error": "no such city <b>"}'


def test_a_result_of_five_megabytes_is_cut(tiny):
    result = tiny("big")
    assert len(result.text) < MAX_RESULT_CHARS + 100 and "1700000 characters in all" in result.text


def test_what_is_no_text_is_said_in_words(tiny):
    text = tiny("picture").text
    assert "[image: image/png, 3 bytes]" in text and "[resource: notes, file:///notes.txt]" in text
    assert text.endswith("[resource: file:///a.txt]\ninside")
    assert tiny("structured").text == '{"temperature": 22, "城市": "巴黎"}'


def test_a_server_that_says_its_tools_changed_is_asked_again(client, tiny):
    client.connect(tiny.id, tiny.config)
    before = len(client.listed)
    tiny("grow")
    wait_until(lambda: len(client.listed) > before)
    server_id, listing = client.listed[-1]
    assert server_id == tiny.id and listing.tools[-1].name == "later_0"


def test_calls_run_side_by_side(client):
    config = program()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda _: client.call("stdio", config, "gather", {}), range(AT_ONCE)))
    assert [result.text for result in results] == ["done"] * AT_ONCE


def test_a_slow_call_ends_at_its_time_limit_and_the_server_lives_on(client, monkeypatch):
    monkeypatch.setenv("ROOST_TOKEN", "not for others")
    config = raw("modern", timeout_s=2, env={"API_KEY": "sk-123456"})
    assert client.call("slow", config, "secret", {}).text == "none sk-123456", "its own environment and none of ours"
    pid = client.call("slow", config, "pid", {}).text
    with raises_code("mcp_timed_out") as caught:
        client.call("slow", config, "slow", {})
    assert caught.value.params == {"name": "modern", "seconds": "2"}
    assert client.call("slow", config, "pid", {}).text == pid
    with raises_code("mcp_server_ended") as caught:
        client.call("slow", config, "die", {})
    assert caught.value.params["said"] == "out of seeds" and client.state("slow").phase == "failed"
    assert client.call("slow", config, "pid", {}).text != pid, "it is begun again by the next call"
    client.drop("slow")


def test_a_call_that_is_stopped_is_left_and_the_server_lives_on(client):
    config = raw("modern")
    with pytest.raises(McpError) as caught:
        client.call("stopped", config, "slow", {}, lambda: client.state("stopped").phase == "connected")
    assert "stopped" in caught.value.message
    assert client.call("stopped", config, "echo", {}).text == "modern"
    client.drop("stopped")


def test_a_program_that_ends_between_calls_is_started_again(client):
    config = raw("modern")
    psutil.Process(int(client.call("modern", config, "pid", {}).text)).kill()
    wait_until(lambda: client.state("modern").phase == "failed")
    assert client.call("modern", config, "echo", {}).text == "modern"


def test_a_server_with_only_the_newest_protocol_is_used_with_it(client):
    listing = client.connect("modern", raw("modern"))
    assert [tool.name for tool in listing.tools] == ["echo"]
    assert client.call("modern", raw("modern"), "echo", {}).text == "modern"


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        (program(command="/no/such/program"), "mcp_command_missing", "/no/such/program"),
        (program(command="/"), "mcp_command_missing", "denied"),
        (raw("exit", env={"API_KEY": "sk-123456789"}), "mcp_server_ended", "API_KEY=•••••••• is not valid"),
        (raw("malformed"), "mcp_not_spoken", "form"),
        (address("http://127.0.0.1:9/mcp"), "mcp_unreachable", "far"),
        (address("http://no-such-host.invalid/mcp"), "mcp_unreachable", "far"),
    ],
    ids=["missing", "no program", "ends", "malformed", "refused", "unknown host"],
)
def test_what_cannot_be_connected_says_why(client, config, error, words):
    with raises_code(error) as caught:
        client.connect("broken", config)
    assert words in caught.value.message and "sk-123456789" not in caught.value.message
    assert client.state("broken").phase == "failed" and client.state("broken").error is caught.value


def test_what_never_answers_is_given_up_and_ended():
    pytest.importorskip("mcp")
    impatient = McpClient(connect_timeout_s=2)
    before = programs()
    ways = [("silent", "mcp_timed_out"), ("rubbish", "mcp_not_spoken"), ("deaf", "mcp_timed_out")]
    for way, _ in ways:
        impatient.start(way, raw(way))
    for way, error in ways:
        with raises_code(error):
            impatient.connect(way, raw(way))
            pytest.fail("it connected")
    assert not programs() - before
    impatient.close()


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_server_that_refuses_is_said_to(client, web_server, status):
    with raises_code("mcp_refused") as caught:
        client.connect("locked", address(web_server(status, b"no").url))
    assert caught.value.params["found"] == status and "Authorization" in caught.value.hint


def test_a_restarted_server_is_connected_again(client, http_server):
    config = address(http_server.url)
    client.call("again", config, "echo", {"text": "1"})
    http_server.stop()
    http_server.start()
    assert client.call("again", config, "echo", {"text": "2"}).text == "2"
    client.drop("again")


@pytest.mark.parametrize("status", [307, 302])
def test_redirects_to_another_place_are_not_followed(client, web_server, status):
    elsewhere = web_server(200, b"{}")
    server = web_server(status, Location=elsewhere.url)
    with raises_code("mcp_not_spoken") as caught:
        client.connect("moved", address(server.url, headers={"Authorization": "Bearer abcdefghi"}))
    assert elsewhere.asked == [] and "not followed" in caught.value.message
    assert server.asked[0][1]["Authorization"] == "Bearer abcdefghi"


def test_an_endless_answer_is_not_read_to_its_end(client, web_server, monkeypatch):
    monkeypatch.setattr("webapp.tools.mcp.connection.MAX_RESPONSE_BYTES", 1000)
    server = web_server(200, b" " * 100_000, Content_Type="application/json")
    with raises_code("mcp_not_spoken") as caught:
        client.connect("endless", address(server.url))
    assert "larger than" in caught.value.message
    server = web_server(200, b"<html>hello</html>", Content_Type="text/html")
    with raises_code("mcp_not_spoken"):
        client.connect("page", address(server.url))


def test_too_many_tools_are_counted_and_left_out(client):
    listing = client.connect("many", raw("many"))
    assert len(listing.tools) == MAX_TOOLS and listing.left_out == 90 * MAX_PAGES - MAX_TOOLS
    client.drop("many")


def test_another_config_is_another_connection(client):
    first, second = raw("modern"), raw("modern", env={"X": "1"})
    pid = int(client.call("changed", first, "pid", {}).text)
    client.connect("changed", second)
    assert is_gone(pid)
    client.drop("changed")


def test_without_the_package_the_way_out_is_said(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mcp"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mcp", None)
    client = McpClient()
    with raises_code("mcp_not_installed") as caught:
        client.connect("none", raw("modern"))
    assert 'pip install "rwkv-roost[mcp]"' in caught.value.hint
    client.close()


def test_nothing_is_left_after_the_end():
    pytest.importorskip("mcp")
    before, threads = programs(), set(threading.enumerate())
    client = McpClient()
    client.connect("one", raw("modern"))
    client.start("two", raw("silent"))
    wait_until(lambda: len(programs() - before) == 2)
    client.close()
    client.close()
    assert not programs() - before
    assert not [thread for thread in set(threading.enumerate()) - threads if thread.name.startswith("mcp")]
    with raises_code("shutting_down"):
        client.connect("one", raw("modern"))


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is a word of POSIX")
def test_a_program_ends_with_a_roost_that_is_killed(tmp_path):
    import subprocess

    pytest.importorskip("mcp")
    lines = (
        "import os, signal",
        "from tests.tools.mcp.conftest import raw",
        "from webapp.tools.mcp.client import McpClient",
        "print(McpClient().call('one', raw('modern'), 'pid', {}).text, flush=True)",
        "os.kill(os.getpid(), signal.SIGKILL)",
    )
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    wait_until(lambda: is_gone(int(found.stdout)))

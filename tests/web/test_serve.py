"""The server starts on a free port or gives the reason, prints its address, and stops on request."""

import contextlib
import errno
import io
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from flask import Flask

from tests.errors import raises_code
from tests.waiting import wait_until
from tests.web.owner import install_guard, owner_client
from tests.wording import pattern, text
from webapp.services.downloads import catalogue
from webapp.settings import Settings
from webapp.web import serve as serve_module
from webapp.web.app import create_app
from webapp.web.serve import announce, bind_error, local_url, make_server, prepare_pages, serve, url_of

ROOT = Path(__file__).resolve().parents[2]
POSIX_SIGNALS = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
PROGRAM = """
import sys, time
from flask import Flask
from webapp.settings import Settings
from webapp.web.serve import serve
app = Flask("program")
app.add_url_rule("/", "home", lambda: "hi")
def on_stop():
    print("stopping", flush=True)
    time.sleep(float(sys.argv[1]))
serve(app, Settings(port=0, http_threads=4), on_ready=lambda url: print("ready", flush=True), on_stop=on_stop)
print("stopped", flush=True)
"""


def make_app():
    app = Flask("serve-test")
    app.add_url_rule("/", "home", lambda: "hi")
    return app


def test_it_serves_on_a_free_port_and_stops():
    server = make_server(make_app(), Settings(port=0, http_threads=4))
    thread = threading.Thread(target=server.run)
    thread.start()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.addresses[0][1]}/", timeout=60) as response:
        assert response.read() == b"hi" and "Server" not in response.headers
    server.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_the_pages_are_prepared_so_that_the_first_look_compiles_nothing(tmp_path, monkeypatch):
    settings = Settings(data_dir=tmp_path / "data", models_dir=tmp_path / "models")
    app = create_app(settings)
    try:
        parts = ("base", "pages", "_", "models", "jobs", "status")
        names = [name for name in app.jinja_env.list_templates() if name.startswith(parts)]
        monkeypatch.setattr(app.jinja_env, "list_templates", lambda: names)
        prepare_pages(app, settings)
        fits = catalogue._fitting.cache_info()
        monkeypatch.setattr(app.jinja_env, "compile", lambda *_, **__: pytest.fail("a template was compiled"))
        assert owner_client(app).get("/models", base_url="http://127.0.0.1").status_code == 200
        assert catalogue._fitting.cache_info().misses == fits.misses and fits.misses >= 20
        prepare_pages(Flask("bare"), settings)  # an app without a model
    finally:
        app.extensions["close"]()


def test_a_taken_port_is_an_error_with_the_way_out():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with raises_code("settings_invalid", match="--port") as caught:
            make_server(make_app(), Settings(port=port, http_threads=4))
    assert caught.value.params["name"] == "port" and caught.value.params["value"] == port


def has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True
    return False


IPV6 = pytest.mark.skipif(not has_ipv6(), reason="this system has no IPv6")


@IPV6
@pytest.mark.parametrize("host", ["localhost", "::"])
def test_both_families_are_answered_at_one_port(host):
    server = make_server(make_app(), Settings(host=host, port=0, http_threads=4))
    thread = threading.Thread(target=server.run)
    thread.start()
    port = server.addresses[0][1]
    for address in ("127.0.0.1", "[::1]"):
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=60) as response:
            assert response.read() == b"hi"
    server.stop()
    thread.join(60)


def test_localhost_without_ipv6_is_the_other_family_alone(monkeypatch):
    def refuse_ipv6(family, address):
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "no such address")
        return bound(family, address)

    bound = serve_module._bound
    monkeypatch.setattr(serve_module, "_bound", refuse_ipv6)
    server = make_server(make_app(), Settings(host="localhost", port=0, http_threads=4))
    assert [address for address, _ in server.addresses] == ["127.0.0.1"]
    server.close()


@IPV6
def test_a_port_taken_in_one_family_is_an_error():
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", 0))  # bound but not listening: nothing answers there
        port = other.getsockname()[1]
        with raises_code("settings_invalid") as caught:
            make_server(make_app(), Settings(host="localhost", port=port, http_threads=4))
    assert caught.value.params["name"] == "port"


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "a..b"])
def test_a_host_that_is_not_ours_is_an_error(host):
    with raises_code("settings_invalid") as caught:
        make_server(make_app(), Settings(host=host, port=0, http_threads=4))
    assert caught.value.params["name"] == "host"


@pytest.mark.parametrize(
    "number, name", [(errno.EADDRINUSE, "port"), (errno.EACCES, "port"), (errno.EADDRNOTAVAIL, "host")]
)
def test_errors_of_the_system_name_the_setting(number, name):
    assert bind_error(Settings(), OSError(number, os.strerror(number))).params["name"] == name


def test_urls():
    assert local_url(Settings(), 8000) == "http://127.0.0.1:8000/"
    assert local_url(Settings(lan=True), 80, "abc") == "http://127.0.0.1:80/?token=abc"
    assert url_of("::1", 8000) == "http://[::1]:8000/"
    assert url_of("::1", 8000, "a+b/c=de") == "http://[::1]:8000/?token=a%2Bb/c%3Dde"  # an unescaped + would be a space


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def announced(monkeypatch, settings, terminal=None):
    monkeypatch.setattr(serve_module, "lan_addresses", lambda is_ipv6: ["fd00::7" if is_ipv6 else "192.0.2.7"])
    out = terminal or Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    announce(settings, 8000, "abc" if settings.is_shared else "")
    return out.getvalue()


def test_one_line_for_one_machine(monkeypatch):
    assert announced(monkeypatch, Settings()) == text("cli.serve.open_at", url="http://127.0.0.1:8000/") + "\n"


def test_the_network_gets_an_address_a_warning_and_a_qr_code(monkeypatch):
    said = announced(monkeypatch, Settings(lan=True))
    assert "http://192.0.2.7:8000/?token=abc" in said and text("cli.serve.plain_http") in said and "▀" in said
    said = announced(monkeypatch, Settings(host="::"))
    assert "http://[fd00::7]:8000/?token=abc" in said and "http://192.0.2.7:8000/?token=abc" in said


@pytest.mark.parametrize("is_ipv6, version", [(False, 4), (True, 6)])
def test_only_addresses_of_the_listening_family_are_printed(is_ipv6, version):
    found = serve_module.lan_addresses(is_ipv6)
    assert all(ipaddress.ip_address(address).version == version for address in found)


def test_no_qr_code_where_it_cannot_be_printed(monkeypatch):
    terminal = Terminal()
    terminal.encoding = "ascii"
    assert "▀" not in announced(monkeypatch, Settings(lan=True), terminal)


def test_the_url_given_to_the_browser_is_an_owners_link(monkeypatch):
    app = make_app()
    settings = Settings(port=0, http_threads=4, token="a-token-for-tests")
    install_guard(app, settings)
    urls = []

    monkeypatch.setattr(serve_module.BridgeServer, "loop", lambda server: wait_until(lambda: urls))
    serve(app, settings, on_ready=urls.append)
    secret = urls[0].partition("/open?secret=")[2]
    proof = app.extensions["guard"].proof
    assert not proof.use(secret, is_own_account=False) and proof.use(secret, is_own_account=True)
    assert proof.addresses() == [], "they are forgotten when it stops"


def test_the_name_on_the_network_is_claimed_while_serving(monkeypatch):
    is_served, closed = threading.Event(), []

    class Name:
        def close(self):
            closed.append(self)

    def named(settings, port):
        assert is_served.wait(60)
        return Name()

    monkeypatch.setattr(serve_module, "named_on_network", named)
    monkeypatch.setattr(serve_module.BridgeServer, "loop", lambda server: is_served.set())
    serve(make_app(), Settings(port=0, http_threads=4))
    assert is_served.is_set() and len(closed) == 1


def start_program(stop_seconds):
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(stop_seconds)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert re.match(pattern("cli.serve.open_at"), program.stdout.readline())
    assert program.stdout.readline() == "ready\n"
    return program


@POSIX_SIGNALS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly(number):
    program = start_program(0)
    program.send_signal(number)
    out, errors = program.communicate(timeout=60)
    assert (out, errors, program.returncode) == ("stopping\nstopped\n", "", 0)


@POSIX_SIGNALS
def test_a_second_signal_exits_at_once():
    program = start_program(300)
    program.send_signal(signal.SIGINT)
    assert program.stdout.readline() == "stopping\n"
    program.send_signal(signal.SIGINT)
    out, errors = program.communicate(timeout=60)
    assert (out, errors, program.returncode) == ("", "", 130)

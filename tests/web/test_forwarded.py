"""Requests from proxies and other accounts to the real server: none gets the owner's rights."""

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.web.chat.running_roost import RunningRoost, fake_strategy

TOKEN = "a-token-for-tests"
PROGRAM = "name=case&kind=stdio&command=true&timeout_s=60"
IMPORT = "path=/etc/passwd"
FORWARDING = (
    "X-Forwarded-For: 198.51.100.7", "X-Forwarded-For: 127.0.0.1", "Forwarded: for=198.51.100.7", "Via: 1.1 proxy",
    "X-Real-IP: 127.0.0.1", "X-Forwarded-Host: a.example", "X-Forwarded-Proto: https", "CF-Connecting-IP: 127.0.0.1",
)  # fmt: skip
NGINX = shutil.which("nginx")
NOBODY = 65534
CAN_BECOME_NOBODY = sys.platform.startswith("linux") and os.getuid() == 0
OTHER_ACCOUNT = pytest.mark.skipif(not CAN_BECOME_NOBODY, reason="needs root, to ask as another account")


@pytest.fixture
def start(tmp_path):
    started = []

    def start(**settings):
        started.append(RunningRoost(tmp_path / "data", fake_strategy("x"), **settings))
        return started[-1]

    yield start
    for roost in started:
        roost.stop()


def ask(port, method, path, *headers, body="", version="1.1"):
    """(status, response) of one request, sent exactly as written; a Host header among ``headers`` replaces the
    default."""
    host = [] if any(line.startswith("Host:") for line in headers) else [f"Host: 127.0.0.1:{port}"]
    kind = "json" if body.startswith("{") else "x-www-form-urlencoded"
    length = [f"Content-Type: application/{kind}", f"Content-Length: {len(body)}"] if body else []
    head = [f"{method} {path} HTTP/{version}", *host, "Connection: close", *headers, *length]
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.sendall("\r\n".join([*head, "", body]).encode())
        answer = b""
        while part := sock.recv(65536):
            answer += part
    return int(answer.split()[1]), answer.decode("utf-8", "replace")


def add_program(port, *headers, **how):
    return ask(port, "POST", "/tools/servers", *headers, body=PROGRAM, **how)[0]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_nobody_adds_a_program_without_proof(start, version):
    roost = start()
    servers = roost.app.extensions["mcp_servers"]
    for header in ("Accept: */*", *FORWARDING):
        assert add_program(roost.port, header, version=version) == 403, header
    assert servers.store.list() == []
    owner = f"Cookie: {roost.cookie}"
    assert add_program(roost.port, owner, version=version) == 303, "the owner's session counts, whatever the way"


def test_a_forwarded_request_is_not_from_this_machine(start):
    port = start().port

    def status(*headers, **how):
        return ask(port, "POST", "/update-config", *headers, body="{}", **how)[0]

    assert status() == 200, "Runner's scripts"
    assert {status(header) for header in FORWARDING} == {403}
    assert status(version="1.0") == 403, "nginx's default says nothing but HTTP/1.0"
    assert ask(port, "GET", "/", FORWARDING[0])[0] == 200, "and may chat"


@pytest.mark.parametrize(
    "headers, status",
    [
        (("Host: evil.example",), 400), (("Origin: http://evil.example",), 403), (("Sec-Fetch-Site: cross-site",), 403),
        (("X-Forwarded-Host: evil.example",), 403),
    ],
)  # fmt: skip
def test_the_other_header_rules_hold_for_the_owner_too(start, headers, status):
    roost = start()
    found = add_program(roost.port, f"Cookie: {roost.cookie}", *headers)
    assert found == (303 if headers[0].startswith("X-Forwarded") else status)


def test_the_token_and_the_key(start):
    roost = start(token=TOKEN)
    key = (roost.settings.data_dir / "owner.key").read_text().strip()
    port = roost.port
    assert add_program(port) == 401
    assert add_program(port, "Authorization: Bearer wrong") == 401
    assert add_program(port, f"Authorization: Bearer {TOKEN}") == add_program(port, f"x-api-key: {TOKEN}") == 403
    assert ask(port, "GET", "/", f"Authorization: Bearer {TOKEN}")[0] == 200
    assert add_program(port, f"Authorization: Bearer {key}", FORWARDING[0]) == 303


def test_no_wrong_guess_locks_anybody_out(start):
    roost = start(token=TOKEN)
    guesses = [ask(roost.port, "GET", "/", f"Authorization: Bearer wrong{n}")[0] for n in range(15)]
    assert guesses[0] == 401 and guesses[-1] == 429
    assert ask(roost.port, "GET", "/", f"Authorization: Bearer {TOKEN}")[0] == 200
    assert ask(roost.port, "GET", "/", f"Cookie: {roost.cookie}")[0] == 200
    assert ask(roost.port, "GET", f"/?token={TOKEN}")[0] == 303


def test_behind_a_trusted_proxy_addresses_scheme_and_limits_are_the_clients(start):
    roost = start(trusted_proxy=("127.0.0.1",), token=TOKEN, allow_hosts=("roost.example",))
    seen = []
    roost.app.after_request(lambda response: seen.append(asked()) or response)

    def asked():
        from flask import request

        return request.remote_addr, request.scheme, request.host, request.script_root

    bearer = f"Authorization: Bearer {TOKEN}"
    ask(roost.port, "GET", "/health", bearer, "X-Forwarded-For: 127.0.0.1, 198.51.100.7", "X-Forwarded-Proto: https",
        "X-Forwarded-Host: roost.example", "X-Forwarded-Prefix: /roost")  # fmt: skip
    ask(roost.port, "GET", "/health", bearer, 'Forwarded: for="[2001:db8::7]:1234";proto=https')
    ask(roost.port, "GET", "/health", bearer)
    assert seen[0] == ("198.51.100.7", "https", "roost.example", "/roost")
    assert seen[1][:2] == ("2001:db8::7", "https") and seen[2][:2] == ("127.0.0.1", "http")
    _, answer = ask(roost.port, "GET", f"/?token={TOKEN}", "X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https")
    cookie = next(line for line in answer.splitlines() if line.startswith("Set-Cookie"))
    assert "Secure" in cookie and TOKEN not in cookie
    _, answer = ask(roost.port, "GET", f"/?token={TOKEN}")
    assert "Secure" not in answer.partition("Set-Cookie")[2].splitlines()[0]


def test_websockets_behind_a_trusted_proxy_count_for_their_own_address(start):
    roost = start(trusted_proxy=("127.0.0.1",), token=TOKEN, websockets_per_client=1)
    opened = []

    def status(client):
        sock = socket.create_connection(("127.0.0.1", roost.port), 20)
        opened.append(sock)
        lines = ("GET /ws/chat HTTP/1.1", f"Host: 127.0.0.1:{roost.port}", "Upgrade: websocket", "Connection: Upgrade",
                 "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
                 f"Authorization: Bearer {TOKEN}", f"X-Forwarded-For: {client}", "", "")  # fmt: skip
        sock.sendall("\r\n".join(lines).encode())
        return int(sock.recv(4096).split()[1])

    assert [status(client) for client in ("198.51.100.7", "198.51.100.8", "198.51.100.7")] == [101, 101, 503]
    for sock in opened:
        sock.close()


def test_guesses_behind_a_trusted_proxy_count_for_their_own_address(start):
    roost = start(trusted_proxy=("127.0.0.1",), token=TOKEN)
    for number in range(15):
        last = ask(roost.port, "GET", "/", f"x-api-key: wrong{number}", "X-Forwarded-For: 198.51.100.7")[0]
    assert last == 429
    assert ask(roost.port, "GET", "/", "x-api-key: wrong", "X-Forwarded-For: 198.51.100.8")[0] == 401


NGINX_CONF = """
daemon off; pid nginx.pid; error_log error.log; events {{}}
http {{
  access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4;
  scgi_temp_path t5;
  server {{ listen 127.0.0.1:{plain}; location / {{ proxy_pass http://127.0.0.1:{roost}; }} }}
  server {{ listen 127.0.0.1:{told}; location / {{
    proxy_pass http://127.0.0.1:{roost}; proxy_set_header Host $http_host; proxy_http_version 1.1;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto https; }} }}
}}
"""


@pytest.fixture
def nginx(tmp_path):
    """nginx(port of a Roost) -> (port with nginx's defaults, port with forwarded headers).

    nginx inherits both listening sockets, as during an upgrade of nginx: no other test can get one of the ports
    meanwhile, and early connections wait."""
    if NGINX is None:
        pytest.skip("needs nginx on the PATH")
    running = []

    def begin(roost):
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        plain, told = (sock.getsockname()[1] for sock in sockets)
        folder = tmp_path / "nginx"
        folder.mkdir()
        (folder / "nginx.conf").write_text(NGINX_CONF.format(plain=plain, told=told, roost=roost))
        command = [NGINX, "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]
        numbers = [sock.fileno() for sock in sockets]
        environment = {**os.environ, "NGINX": "".join(f"{number};" for number in numbers)}
        running.append(subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment, pass_fds=numbers))
        for sock in sockets:
            sock.close()
        return plain, told

    yield begin
    for process in running:
        process.terminate()
        process.wait(60)


def test_a_real_nginx_is_never_the_owner(start, nginx):
    roost = start()
    for port in nginx(roost.port):
        for header in ("Accept: */*", *FORWARDING):
            assert add_program(port, header) == 403
        assert ask(port, "POST", "/exit")[0] == ask(port, "POST", "/models/import", body=IMPORT)[0] == 403
    assert roost.app.extensions["mcp_servers"].store.list() == []


def test_behind_a_real_nginx_that_is_trusted_the_addresses_are_right(start, nginx):
    roost = start(trusted_proxy=("127.0.0.1",), token=TOKEN)
    seen = []

    def note(response):
        from flask import request

        seen.append((request.remote_addr, request.scheme))
        return response

    roost.app.after_request(note)
    _, told = nginx(roost.port)
    bearer = f"Authorization: Bearer {TOKEN}"
    assert ask(told, "GET", "/health", bearer)[0] == 200
    assert ask(told, "GET", "/health", bearer, "X-Forwarded-For: 203.0.113.9")[0] == 200
    # the request to nginx came from this machine, so nginx adds only its client's address: a trusted one here.
    assert seen == [("127.0.0.1", "https"), ("203.0.113.9", "https")]
    assert add_program(told, bearer) == 403 and add_program(told) == 401
    assert add_program(told, f"Cookie: {roost.cookie}") == 303


AS_NOBODY = """
import json, sys, urllib.error, urllib.request
def status(url, body=None):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, body)).status
    except urllib.error.HTTPError as exc:
        return exc.code
def readable(path):
    try:
        open(path).close()
    except OSError:
        return False
    return True
url, folder, link = sys.argv[1:]
print(json.dumps({
    "chat": status(url + "/"), "v1": status(url + "/v1/models"),
    "program": status(url + "/tools/servers", b"name=case&kind=stdio&command=true&timeout_s=60"),
    "import": status(url + "/models/import", b"path=/etc/passwd"),
    "state": status(url + "/states/import", b"path=/etc/passwd"),
    "exit": status(url + "/exit", b""), "link": status(link),
    "key": readable(folder + "/owner.key"), "database": readable(folder + "/roost.db"),
}))
"""


@OTHER_ACCOUNT
def test_another_account_of_this_machine_is_not_the_owner(start):
    roost = start()
    folder = roost.settings.data_dir
    folder.parent.chmod(0o755)  # pytest's own folder is not readable either
    proof = roost.app.extensions["owner_proof"]
    secret = proof.new_secret(is_for_own_account=True)
    link = f"{roost.url}/open?secret={secret}"

    def become_nobody():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    found = subprocess.run(
        ["/usr/bin/env", "python3", "-I", "-c", AS_NOBODY, roost.url, str(folder), link],
        preexec_fn=become_nobody, capture_output=True, text=True, timeout=60, cwd="/",
    )  # fmt: skip
    assert json.loads(found.stdout or found.stderr) == {
        "chat": 200, "v1": 200, "program": 403, "import": 403, "state": 403, "exit": 403, "link": 403,
        "key": False, "database": False,
    }  # fmt: skip
    with urllib.request.urlopen(link) as answer:  # the link in the browser's command line was of no use
        assert answer.url == f"{roost.url}/"


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_what_the_data_folder_shows_others(start):
    folder = start().settings.data_dir
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "owner.key").stat().st_mode & 0o777 == 0o600
    assert (folder / "links").stat().st_mode & 0o777 == 0o700


def test_nothing_in_the_database_gives_access(start):
    roost = start(token=TOKEN)
    _, value = roost.owner
    data = b"".join(path.read_bytes() for path in Path(roost.settings.data_dir).glob("roost.db*"))
    assert value.encode() not in data and TOKEN.encode() not in data

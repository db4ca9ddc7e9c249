"""The resources that a client may use before it is authenticated: bodies, headers, connections, descriptors."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from flask import Flask, request
from waitress.buffers import TempfileBasedBuffer

from tests.waiting import PATIENCE_S, WaitRanOut, wait_until
from tests.web.owner import install_guard
from tests.web.ws_client import RawClient
from webapp.settings import Settings
from webapp.web import serve as serve_module
from webapp.web.peer import TrustedProxies, address_key, connections_of
from webapp.web.serve import connection_limits, make_server
from webapp.web.socket import server as server_module
from webapp.web.socket.channel import Limits
from webapp.web.socket.server import Listener

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-for-tests"
BEARER = f"Authorization: Bearer {TOKEN}"
MB = 1 << 20
QUICK = Limits(header_s=0.5)
SLOW_S = 3.0
LATE = Limits(header_s=SLOW_S - 0.5)
"""The tests' client may be delayed this long."""
HARDLY = Limits(body_grace_s=0.5, body_bytes_per_s=1_000)


def can_use(address):
    with contextlib.suppress(OSError), socket.socket() as sock:
        sock.bind((address, 0))
        return True
    return False


OTHER = "127.0.0.2"
TWO_ADDRESSES = pytest.mark.skipif(not can_use(OTHER), reason="this system's loopback has one address")


class Door:
    """The real server with the real guard, in a thread."""

    def __init__(self, **settings):
        app = Flask("front-door-test")
        settings = Settings(port=0, http_threads=4, **{"token": TOKEN, **settings})
        install_guard(app, settings)
        self.taken, self.files = [], 0
        app.add_url_rule("/", "chat.index", lambda: "hi")
        app.add_url_rule("/slow", "chat.chats", lambda: time.sleep(SLOW_S) or "slow")
        app.add_url_rule("/take", "chat.do", self._take, methods=["POST"])
        app.add_url_rule("/v1/take", "api POST /v1/take", self._take, methods=["POST"])
        self.server = make_server(app, settings)
        self.port = self.server.addresses[0][1]
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def _take(self):
        self.taken.append(len(request.get_data()))
        return f"{self.taken[-1]}"

    def client(self, sent=b"", address=None):
        client = RawClient(self.port)
        if address:
            client.abandon()
            client.sock = socket.create_connection(("127.0.0.1", self.port), 30, source_address=(address, 0))
        client.send_bytes(sent)
        return client

    def head(self, line, *headers):
        return "\r\n".join([f"{line} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", *headers, "", ""]).encode()

    def status(self, address=None, path="/"):
        """The status of a GET with the token; 0 if the connection ended without a response."""
        client = self.client(self.head(f"GET {path}", BEARER), address)
        try:
            return client.read_response()[0]
        except OSError:
            return 0
        finally:
            client.abandon()

    def has_open(self, count):
        """Waits, because the loop may change the count."""

        def is_so():
            with contextlib.suppress(RuntimeError):
                return len(self.server.places) == count

        wait_until(is_so)
        return True

    def stop(self):
        self.server.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture
def open_door(monkeypatch):
    doors = []

    def open_one(limits=None, **settings):
        if limits:
            monkeypatch.setattr(serve_module, "connection_limits", lambda *_: limits)
        doors.append(Door(**settings))
        return doors[-1]

    yield open_one
    for door in doors:
        door.stop()


@pytest.fixture
def door(open_door):
    return open_door(max_body_bytes=4 * MB, api_max_body_bytes=MB)


@pytest.fixture
def files(monkeypatch):
    """Temporary files with bodies."""
    made, newfile = [], TempfileBasedBuffer.newfile
    monkeypatch.setattr(TempfileBasedBuffer, "newfile", lambda buffer: made.append(1) or newfile(buffer))
    return made


def is_closed(client):
    client.sock.settimeout(30)
    with contextlib.suppress(ConnectionResetError):
        return client.sock.recv(1) == b""
    return True


# Bodies


@pytest.mark.parametrize(
    "line, headers, status",
    [
        ("POST /take", (f"Content-Length: {2 * MB}",), 401),
        ("POST /v1/take", (f"Content-Length: {2 * MB}", "Authorization: Bearer wrong-token"), 401),
        ("POST /v1/take", ("Transfer-Encoding: chunked",), 401),
        ("POST /take", (f"Content-Length: {60 * MB}", BEARER), 413),
        ("POST /v1/take", (f"Content-Length: {2 * MB}", BEARER), 413),
        ("POST /login", (f"Content-Length: {2 * MB}",), 401),
        ("POST /take", (f"Content-Length: {2 * MB}", BEARER, "Origin: http://evil.example"), 403),
        ("POST /nothing-here", (f"Content-Length: {2 * MB}",), 401),
    ],
)
def test_a_body_is_refused_before_it_is_sent(door, line, headers, status):
    client = door.client(door.head(line, "Content-Type: application/json", *headers))
    assert client.read_response()[0] == status
    assert is_closed(client) and door.taken == []
    client.abandon()


@pytest.mark.parametrize("token, expected", [("", 401), (BEARER, 100)], ids=["no token", "token"])
def test_expect_100_is_answered_by_what_will_happen(door, token, expected):
    headers = [header for header in ("Expect: 100-continue", "Content-Length: 4", token) if header]
    client = door.client(door.head("POST /take", *headers))
    assert client.read_response()[0] == expected
    if expected == 100:
        client.send_bytes(b"body")
        assert client.read_response()[::2] == (200, b"4")
    client.abandon()


def test_expect_100_without_a_body_is_answered(door):
    client = door.client(door.head("POST /take", "Expect: 100-continue", "Content-Length: 0", BEARER))
    assert client.read_response()[::2] == (200, b"0")
    client.abandon()


def test_refused_bodies_that_are_sent_anyway_are_not_stored(door, files):
    """Simple clients send everything before they read; they get the response, not a reset."""
    for _ in range(5):
        client = door.client(door.head("POST /take", f"Content-Length: {20 * MB}"))
        for _ in range(20):
            client.send_bytes(b"x" * MB)
        assert client.read_response()[0] == 401
        client.abandon()
    assert files == [] and door.taken == []


def test_bodies_with_a_token_arrive(door, files):
    for size in (100_000, 3 * MB):
        client = door.client(door.head("POST /take", f"Content-Length: {size}", BEARER) + b"x" * size)
        assert client.read_response()[::2] == (200, str(size).encode())
        client.abandon()
    assert len(files) == 1  # for the large one


def test_a_chunked_body_ends_at_the_limit(door):
    client = door.client(door.head("POST /v1/take", "Transfer-Encoding: chunked", BEARER))
    for _ in range(3):
        client.send_bytes(b"80000\r\n" + b"x" * 0x80000 + b"\r\n")
    assert client.read_response()[0] == 413 and door.taken == []
    client.abandon()


def test_a_chunk_whose_header_never_ends_is_400(door):
    client = door.client(door.head("POST /take", "Transfer-Encoding: chunked", BEARER) + b"1;" + b"x" * 20_000)
    assert client.read_response()[0] == 400
    client.abandon()


def test_a_refused_body_behind_another_request_is_answered_in_turn(door):
    second = door.head("POST /take", f"Content-Length: {2 * MB}")
    client = door.client(door.head("GET /slow", BEARER) + second + b"x" * 1000)
    assert client.read_response()[::2] == (200, b"slow")
    assert client.read_response()[0] == 401
    client.abandon()


def test_a_body_that_cannot_be_stored_is_507(door, monkeypatch, caplog):
    def no_descriptor(buffer):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(TempfileBasedBuffer, "newfile", no_descriptor)
    for _ in range(3):
        client = door.client(door.head("POST /take", f"Content-Length: {2 * MB}", BEARER) + b"x" * (2 * MB))
        assert client.read_response()[0] == 507
        client.abandon()
    assert door.status() == 200
    assert len(caplog.records) == 1


# Headers


def test_a_header_over_the_limit_is_431(door):
    client = door.client(b"GET / HTTP/1.1\r\nX-Large: ")
    for _ in range(30):
        client.send_bytes(b"x" * 10_000)  # would soon fail after a reset
        time.sleep(0.02)
    assert client.read_response()[0] == 431
    client.abandon()


def drip(client, byte, pause_s=0.1):
    """Sends ``byte`` again and again until the server responds."""
    end = time.monotonic() + PATIENCE_S
    client.sock.settimeout(pause_s)
    while time.monotonic() < end:
        client.send_bytes(byte)
        with contextlib.suppress(TimeoutError):
            return client.sock.recv(12)
    raise WaitRanOut("the server waits on")


def test_a_header_that_does_not_end_is_408(open_door):
    door = open_door(QUICK)
    silent = door.client(b"GET / HTTP/1.1\r\nX-Half")
    dripping = door.client(b"GET / HTTP/1.1\r\nX-Slow: ")
    assert drip(dripping, b"x") == b"HTTP/1.0 408"
    assert silent.read_response()[0] == 408
    for client in (silent, dripping):
        client.abandon()


def test_a_body_that_arrives_too_slowly_is_408(open_door):
    door = open_door(HARDLY)
    client = door.client(door.head("POST /take", "Content-Length: 5000", BEARER) + b"x")
    assert drip(client, b"x") == b"HTTP/1.1 408" and door.taken == []
    client.abandon()


def test_a_body_that_arrives_fast_enough_may_take_long(open_door):
    door = open_door(HARDLY)
    client = door.client(door.head("POST /take", "Content-Length: 90000", BEARER) + b"x" * 50_000)
    for _ in range(4):
        time.sleep(0.2)
        client.send_bytes(b"x" * 10_000)
    assert client.read_response()[::2] == (200, b"90000")
    client.abandon()


def test_a_request_behind_a_slow_answer_is_not_late(open_door):
    door = open_door(LATE)
    client = door.client(door.head("GET /slow", BEARER) + b"GET / HTTP/1.1\r\n")
    assert client.read_response()[::2] == (200, b"slow")
    client.send_bytes(f"Host: 127.0.0.1:{door.port}\r\n{BEARER}\r\n\r\n".encode())
    assert client.read_response()[::2] == (200, b"hi")
    client.abandon()


# Connections


def half_header(door, count, address=None):
    return [door.client(b"GET / HTTP/1.1\r\nX-Half", address) for _ in range(count)]


def abandon(clients):
    for client in clients:
        client.abandon()


@TWO_ADDRESSES
def test_one_address_does_not_lock_out_another(open_door):
    door = open_door(connections_per_client=20)
    clients = half_header(door, 20)
    wait_until(lambda: door.status() in (0, 503)), "its own place is taken"
    assert [door.status(OTHER) for _ in range(20)] == [200] * 20
    abandon(clients)
    wait_until(lambda: door.status() == 200)


def test_a_refused_connection_gets_the_reason(open_door):
    door = open_door(connections_per_client=4)
    clients = half_header(door, 4)
    assert door.has_open(4)
    refused = door.client()
    assert refused.read_response()[0] == 503 and is_closed(refused)
    abandon([*clients, refused])


def test_an_idle_connection_makes_room_for_one_of_the_same_address(open_door, monkeypatch):
    monkeypatch.setattr(server_module, "RECENT_S", 0)
    door = open_door(connections_per_client=4)
    busy = half_header(door, 3)
    idle = door.client(door.head("GET /", BEARER))
    assert idle.read_response()[0] == 200
    wait_until(lambda: door.status() == 200)
    assert is_closed(idle)
    abandon([*busy, idle])


@TWO_ADDRESSES
def test_a_full_server_takes_a_place_from_who_has_most(open_door, monkeypatch):
    monkeypatch.setattr(server_module, "RECENT_S", 0)
    door = open_door(connection_limit=8, connections_per_client=8)
    many = [door.client() for _ in range(6)]
    few = [door.client(address=OTHER) for _ in range(2)]
    assert door.has_open(8)
    assert [door.status("127.0.0.3") for _ in range(3)] == [200] * 3
    for client in few:
        client.send_bytes(door.head("GET /", BEARER))
        assert client.read_response()[0] == 200
    abandon(many + few)


@pytest.mark.parametrize(
    "address, key",
    [
        ("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("::1", "::1"), ("?", "?"),
        ("2001:db8::1:2:3:4", "2001:db8::"), ("fe80::1%eth0", "fe80::"),
    ],
)  # fmt: skip
def test_what_a_client_is_counted_by(address, key):
    assert address_key(address) == key


@pytest.mark.parametrize(
    "settings, client, expected",
    [
        ({}, "127.0.0.1", 300), ({"token": TOKEN}, "127.0.0.1", 128), ({"lan": True}, "127.0.0.1", 128),
        ({}, "192.0.2.7", 128), ({"trusted_proxy": ("127.0.0.1",)}, "127.0.0.1", 400),
        ({"trusted_proxy": ("10.0.0.0/8",)}, "10.1.2.3", 400), ({"trusted_proxy": ("10.0.0.0/8",)}, "192.0.2.7", 128),
    ],
)  # fmt: skip
def test_how_many_connections_a_client_may_have(settings, client, expected):
    settings = Settings(**settings)
    assert (
        connections_of(
            not (settings.is_shared or settings.token), Limits(400, 128), TrustedProxies(settings.trusted_proxy), client
        )
        == expected
    )


@TWO_ADDRESSES
def test_a_trusted_proxy_has_the_connections_of_many(open_door):
    door = open_door(connections_per_client=2, trusted_proxy=(OTHER,))
    clients = half_header(door, 10, OTHER)
    assert door.has_open(10)
    abandon(clients)


@pytest.mark.parametrize("descriptors, most, per_address", [(8192, 1024, 128), (1024, 160, 120), (256, 16, 12)])
def test_places_follow_the_limit_of_descriptors(descriptors, most, per_address):
    assert connection_limits(Settings(), descriptors) == Limits(most, per_address)


# Descriptors

FEW_DESCRIPTORS = """
import logging, resource, sys
from flask import Flask
from webapp.web.socket.server import BridgeServer
logging.basicConfig(level="WARNING", format="LOG %(message)s")
app = Flask("few")
app.add_url_rule("/", "chat.index", lambda: "hi")
server = BridgeServer(app, host="127.0.0.1", port=0, threads=2)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
print(server.addresses[0][1], flush=True)
server.run()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_NOFILE")
def test_without_descriptors_it_neither_spins_nor_fills_the_log_and_recovers():
    program = subprocess.Popen(
        [sys.executable, "-c", FEW_DESCRIPTORS], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    port = int(program.stdout.readline())
    clients = [RawClient(port) for _ in range(60)]
    for client in clients:
        client.send_bytes(b"GET / HTTP/1.1\r\nX-Half")
    spent = psutil.Process(program.pid).cpu_times
    time.sleep(0.5)
    before = sum(spent()[:2])
    time.sleep(2)
    assert sum(spent()[:2]) - before < 1, "seconds of processor time in two seconds"
    for client in clients:
        client.abandon()
    last = RawClient(port)
    last.send_bytes(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert last.read_response()[::2] == (200, b"hi")
    last.abandon()
    program.terminate()
    log = program.communicate(timeout=60)[1]
    assert log.count("LOG") == 1, log


def test_accepting_pauses_when_it_fails(open_door, monkeypatch, caplog):
    calls = []

    def accept(listener):
        calls.append(time.monotonic())
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    door = open_door()
    with monkeypatch.context() as patched:
        patched.setattr(Listener, "accept", accept)
        waiting = door.client(door.head("GET /", BEARER))
        wait_until(lambda: len(calls) >= 3)
    assert min(later - earlier for earlier, later in pairwise(calls)) > 0.9 * server_module.ACCEPT_PAUSE_S
    assert waiting.read_response()[0] == 200
    assert len(caplog.records) == 1
    waiting.abandon()

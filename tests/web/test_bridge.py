"""WebSockets under waitress: correct and faulty clients, and that nothing is left over."""

import contextlib
import struct
import threading
import time
import urllib.error

import pytest

from tests.waiting import wait_until
from tests.web.bridge_app import EVIL, RunningServer, open_descriptors, tls_pair
from tests.web.ws_client import BINARY, CLOSE, PING, PONG, TEXT, Refused, frame, handshake
from webapp.web.socket.channel import Limits


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tls_pair(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["poll", "select", "tls"])
def server(request):
    """Windows has no poll, so the tests also run with select, and with TLS."""
    running = RunningServer(
        poll=request.param != "select",
        tls=request.getfixturevalue("certificates") if request.param == "tls" else None,
        ping_interval=60,
        send_timeout=1.5,
        close_timeout=0.5,
        limit=300,
        per_client=300,
    )
    yield running
    running.finish()


def test_echo_of_small_and_large_messages(server):
    client = server.connect("/echo")
    for message in ("a", "é" * 1000, "z" * 300_000):
        client.send(message)
        assert client.receive() == message
    client.close()
    assert server.is_idle() and server.events[-1] == ("echo", 1000)


def test_plain_http_still_works(server):
    assert server.get() == b"hi"
    assert server.get("/count/500").count(b"\n") == 500


@pytest.mark.parametrize("path, status", [("/", 400), ("/nope", 404)])
def test_an_upgrade_of_a_page_is_answered_as_http(server, path, status):
    with pytest.raises(Refused) as caught:
        server.connect(path)
    assert caught.value.status == status and server.is_idle()


def test_the_app_can_refuse_a_handshake(server):
    with pytest.raises(Refused) as caught:
        server.connect("/echo", extra=f"Origin: {EVIL}\r\n")
    assert caught.value.status == 403 and server.is_idle()


@pytest.mark.parametrize(
    "request_bytes",
    [
        handshake("/echo").replace(b"Sec-WebSocket-Key", b"X-Nothing"),
        handshake("/echo").replace(b"Version: 13", b"Version: 7"),
        handshake("/echo").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
    ids=["no key", "old version", "http 1.0"],
)
def test_a_bad_handshake_is_400(server, request_bytes):
    client = server.raw()
    client.send_bytes(request_bytes)
    assert " 400 " in client.read_head().split("\r\n")[0]
    client.abandon()
    assert server.is_idle()


def test_a_plain_get_of_a_socket_is_400(server):
    with pytest.raises(urllib.error.HTTPError) as caught:
        server.get("/echo")
    assert caught.value.code == 400
    caught.value.close()


def test_frames_sent_together_with_the_handshake(server):
    client = server.raw("/echo", extra=frame("early") + frame("two"))
    client.read_head()
    assert [client.read_frame() for _ in range(2)] == [(1, b"early"), (1, b"two")]
    client.abandon()
    assert server.is_idle()


def test_an_upgrade_pipelined_behind_a_slow_request(server):
    client = server.raw()
    client.send_bytes(b"GET /slow?s=0.3 HTTP/1.1\r\nHost: x\r\n\r\n" + handshake("/echo") + frame("after"))
    assert client.read_response()[2] == b"slow"
    assert client.read_response()[0] == 101
    assert client.read_frame() == (1, b"after")
    client.abandon()
    assert server.is_idle()


def test_an_upgrade_needs_no_worker(server):
    held = [threading.Thread(target=server.get, args=("/held",)) for _ in range(4)]
    for thread in held:
        thread.start()
    wait_until(lambda: len(server.events) == 4), "all workers are taken"
    client = server.connect("/echo")
    client.send("x")
    assert client.receive() == "x"
    client.close()
    server.may_end.set()
    for thread in held:
        thread.join()


def test_a_handler_that_returns_closes(server):
    client = server.connect("/bye")
    assert client.receive() == "bye" and client.close_code() == 1000
    client.close()
    assert server.is_idle()


def test_a_client_that_never_answers_the_close_is_left(server):
    client = server.raw("/bye")
    assert server.is_idle()  # half the time of two pings
    client.abandon()


def test_a_handler_that_raises_closes_with_1011(server):
    client = server.connect("/crash")
    client.send("x")
    assert client.close_code() == 1011 and server.is_idle()
    client.abandon()


@pytest.mark.parametrize("end", ["reset", "abandon"])
def test_a_client_that_vanishes_ends_its_handler(server, end):
    client = server.connect("/echo")
    getattr(client, end)()
    assert server.is_idle() and server.events.pop()[0] == "echo"


@pytest.mark.parametrize("poll", [True, False], ids=["poll", "select"])
def test_a_client_that_falls_silent_is_dropped_by_pings(poll):
    running = RunningServer(poll=poll, ping_interval=0.5)
    client = running.connect("/echo")
    assert running.is_idle()  # two intervals
    client.abandon()
    running.finish()


def test_send_to_a_client_that_does_not_read_gives_up(server):
    client = server.raw("/flood")
    wait_until(lambda: server.events)
    assert server.events[0] == ("flood", "ConnectionClosed")
    assert server.is_idle()
    client.abandon()


def test_a_message_over_the_limit_is_1009(server):
    client = server.connect("/echo")
    client.send("x" * (1 << 20) + "yy")
    assert client.close_code() == 1009 and server.is_idle()
    client.abandon()


def test_binary_messages_arrive(server):
    client = server.connect("/echo")
    client.send(b"\x00\xff", BINARY)
    assert client.read_frame() == (BINARY, b"\x00\xff")
    client.close()


def test_fragments_with_a_ping_between_and_a_character_split(server):
    client = server.connect("/echo")
    text = "née 😀".encode()
    first, middle, last = (
        bytearray(frame(part, opcode)) for part, opcode in ((text[:2], TEXT), (text[2:7], 0), (text[7:], 0))
    )
    first[0] &= 0x7F  # not the final fragment
    middle[0] &= 0x7F
    client.send_bytes(bytes(first) + bytes(middle) + frame(b"?", PING) + bytes(last))
    assert client.read_frame() == (PONG, b"?")
    assert client.receive() == text.decode()
    client.close()


def test_an_unread_inbox_has_a_limited_size(server):
    client = server.connect("/sleepy")
    with contextlib.suppress(OSError):
        for _ in range(500):
            client.send("m")
    (connection,) = server.server.websockets.live
    wait_until(lambda: connection.websocket and not connection.websocket.connected)
    server.may_end.set()
    assert server.is_idle() and server.events[-1][0] == "sleepy"
    client.abandon()


@pytest.mark.parametrize(
    "bad",
    [b"\x81\x05hello", b"\xff\xff\xff\xff", b"\x88\x01\x00", frame(b"\xff\xfe"), b"GET / HTTP/1.1\r\n\r\n"],
    ids=["unmasked", "reserved bits", "short close", "not utf-8", "http"],
)
def test_bad_frames_end_the_connection(server, bad):
    client = server.connect("/echo")
    client.send_bytes(bad)
    assert server.is_idle()
    client.abandon()


def test_several_threads_send_whole_frames_in_order(server):
    client = server.connect("/many")
    got = []
    while (message := client.receive()) != "done":
        got.append(message.split(":")[:2])
    for sender in "0123":
        assert [int(number) for name, number in got if name == sender] == list(range(200))
    client.close()


def test_a_place_over_the_limit_is_503_until_one_is_free():
    running = RunningServer(limit=3, per_client=3)
    clients = [running.connect("/echo") for _ in range(3)]
    with pytest.raises(Refused) as caught:
        running.connect("/echo")
    assert caught.value.status == 503 and running.get() == b"hi"
    clients.pop().close()
    wait_until(lambda: running.server.websockets.count == 2)
    clients.append(running.connect("/echo"))
    clients[-1].send("q")
    assert clients[-1].receive() == "q"
    for client in clients:
        client.close()
    running.finish()


def test_one_address_cannot_take_every_place():
    running = RunningServer(limit=9, per_client=2)
    clients = [running.connect("/echo") for _ in range(2)]
    with pytest.raises(Refused, match="503"):
        running.connect("/echo")
    for client in clients:
        client.close()
    running.finish()


def test_clients_behind_a_proxy_are_counted_each():
    running = RunningServer(client_of=lambda environ: environ["HTTP_X_REAL_IP"], per_client=1)
    clients = [running.connect("/echo", extra=f"X-Real-IP: 192.0.2.{number}\r\n") for number in range(3)]
    with pytest.raises(Refused, match="503"):
        running.connect("/echo", extra="X-Real-IP: 192.0.2.1\r\n")
    for client in clients:
        client.close()
    running.finish()


def test_websockets_do_not_take_the_places_of_http():
    running = RunningServer(limits=Limits(connections=16, per_address=2))
    clients = [running.connect("/echo") for _ in range(5)]
    assert running.get() == b"hi"
    for client in clients:
        client.close()
    running.finish()


def test_stopping_says_goodbye_to_every_page(server):
    clients = [server.connect("/echo") for _ in range(20)]
    stuck = server.raw("/flood")
    time.sleep(0.3)
    assert server.stop() < 25
    assert [client.close_code() for client in clients] == [1012] * 20
    for client in [*clients, stuck]:
        client.abandon()


def test_stopping_during_a_stream():
    running = RunningServer()
    client = running.raw()
    client.send_bytes(b"GET /count/100000000 HTTP/1.1\r\nHost: x\r\n\r\n")
    time.sleep(0.3)
    assert running.stop() < 25
    client.abandon()
    running.finish()


def test_clients_that_stop_reading_do_not_block_the_workers():
    running = RunningServer(send_timeout=1.0)
    stuck = [running.raw() for _ in range(4)]  # as many as workers; each response exceeds waitress' 16 MB watermark
    for client in stuck:
        client.send_bytes(b"GET /big/64 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert running.get() == b"hi"
    for client in stuck:
        client.abandon()
    running.finish()


def test_a_long_silence_of_the_app_is_no_fault_of_the_client():
    running = RunningServer(send_timeout=2.0)
    assert len(running.get("/silence-then/100")) == 5 + 100 * 65536
    running.finish()


def cycle(server, number):
    """One visit during an answer, ended in one of four ways."""
    client = server.connect("/ticks")
    assert client.receive() == "tick"
    if number % 4 == 0:
        client.reset()
    elif number % 4 == 1:
        client.abandon()
    elif number % 4 == 2:
        client.send(struct.pack("!H", 1001), CLOSE)
        client.abandon()
    else:
        client.close()


def test_500_visits_in_mid_generation_leave_nothing(server):
    for number in range(20):
        cycle(server, number)
    assert server.is_idle()
    threads, descriptors = threading.active_count(), open_descriptors()
    for number in range(500):
        cycle(server, number)
    assert server.is_idle()
    wait_until(lambda: threading.active_count() <= threads)
    wait_until(lambda: open_descriptors() <= descriptors)

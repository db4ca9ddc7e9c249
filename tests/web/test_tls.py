"""https: what devices get before and after they trust the certificate, and what clients cannot block."""

import json
import ssl
import urllib.error
import urllib.request

import pytest

from tests.web.apps import open_app
from tests.web.bridge_app import RunningServer, tls_pair
from tests.web.chat.running_roost import RunningRoost, fake_strategy
from tests.web.owner import owner_client
from tests.web.ws_client import PING, RawClient, WebSocketClient, frame, handshake
from webapp.services.access import OwnerProof
from webapp.services.certificates import Certificates
from webapp.settings import Settings

pytest.importorskip("cryptography")
TOKEN = "a-token-for-tests"


@pytest.fixture(scope="module")
def contexts(tmp_path_factory):
    return tls_pair(tmp_path_factory.mktemp("tls"))


def hello(client_context):
    """The first bytes of a handshake, and the object to continue it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return client, incoming, outgoing


def test_a_handshake_that_never_ends_blocks_nothing_and_is_dropped(contexts):
    running = RunningServer(tls=contexts, threads=1, adjustments={"channel_timeout": 1, "cleanup_interval": 1})
    silent = [RawClient(running.port) for _ in range(20)]
    for place, client in enumerate(silent):
        if place % 2:
            client.send_bytes(hello(contexts[1])[2].read()[:90])
    assert running.get() == b"hi"
    for client in silent:
        with pytest.raises(ConnectionError):
            client.read(1)
        client.abandon()
    running.finish()


def test_half_a_record_keeps_no_ping_from_going_out(contexts):
    """The thread that reads also sends the pings."""
    running = RunningServer(tls=contexts, ping_interval=0.3)
    raw = RawClient(running.port)
    client, incoming, outgoing = hello(contexts[1])

    def take():
        raw.send_bytes(outgoing.read())
        incoming.write(raw.sock.recv(65536))

    def until_done(step, *given):
        while True:
            try:
                return step(*given)
            except ssl.SSLWantReadError:
                take()

    until_done(client.do_handshake)
    client.write(handshake("/echo"))
    assert until_done(client.read, 65536).startswith(b"HTTP/1.1 101")
    client.write(frame("never whole"))
    raw.send_bytes(outgoing.read()[:-3])
    assert until_done(client.read, 65536)[0] == 0x80 | PING
    assert running.is_idle(), "and unanswered pings end it"
    raw.abandon()
    running.finish()


@pytest.mark.parametrize("first", [b"\x16nonsense that is no handshake", b"\x80\x2e\x01\x03\x01", b"\0" * 50])
def test_what_is_neither_tls_nor_http_ends(contexts, first):
    running = RunningServer(tls=contexts, limits=None)
    client = RawClient(running.port)
    client.send_bytes(first + b"\r\n\r\n")
    with pytest.raises(ConnectionError):
        client.read(1 << 20)
    client.abandon()
    assert running.get() == b"hi"
    running.finish()


def test_plain_http_is_accepted_at_the_same_port(contexts):
    running = RunningServer(tls=contexts)
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/", timeout=60) as response:
        assert response.read() == b"hi"
    running.finish()


def test_the_end_of_an_answer_is_distinguished_from_a_cut(contexts):
    """Without close_notify, OpenSSL's clients consider a response without a length incomplete."""
    running = RunningServer(tls=contexts)
    raw = RawClient(running.port)
    sock = contexts[1].wrap_socket(raw.sock, server_hostname="localhost", suppress_ragged_eofs=False)
    sock.sendall(b"GET /count/3 HTTP/1.0\r\nHost: x\r\n\r\n")
    found = b""
    while piece := sock.recv(4096):
        found += piece
    assert found.endswith(b"x2\n")
    sock.close()
    running.finish()


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    settings = Settings(data_dir=folder, models_dir=folder, strategy="fake", lan=True, token=TOKEN, tls=True)
    with open_app(settings) as app:
        yield app


def ask(app, path, scheme, method="GET", **headers):
    told = {"Accept": "text/html", **headers}
    return app.test_client(use_cookies=False).open(
        path, method=method, base_url=f"{scheme}://roost.local:8000", headers=told
    )


def test_a_page_asked_for_in_plain_http_leads_to_https(app):
    found = ask(app, "/presets?x=1", "http")
    assert (found.status_code, found.headers["Location"]) == (307, "https://roost.local:8000/presets?x=1")
    assert ask(app, "/presets", "https").status_code == 401
    assert "Strict-Transport-Security" not in ask(app, "/presets", "https").headers


def test_the_way_from_plain_http_is_no_other_sites_page(app):
    """Chromium then sends cross-site, and the service worker hides the destination."""
    told = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "empty", "Authorization": f"Bearer {TOKEN}"}
    assert ask(app, "/presets", "https", **{"Sec-Fetch-Mode": "navigate"}, **told).status_code == 200
    assert ask(app, "/presets", "https", **{"Sec-Fetch-Mode": "cors"}, **told).status_code == 403


def test_programs_forms_and_sockets_get_an_error_in_plain_http(app):
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    openai = ask(app, "/v1/models", "http", Accept="*/*", **bearer)
    assert (openai.status_code, openai.json["error"]["code"]) == (400, "https_only")
    assert ask(app, "/v1/messages", "http", "POST", **bearer).json["type"] == "error"
    assert ask(app, "/chat/do", "http", "POST").status_code == 400
    assert ask(app, "/ws/chat", "http", Upgrade="websocket", Connection="Upgrade").status_code == 400
    assert ask(app, "/v1/models", "https", Accept="*/*", **bearer).status_code == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_stranger_gets_the_page_about_trust_and_the_authority(app, scheme):
    page = ask(app, "/trust", scheme)
    assert page.status_code == 200 and app.extensions["certificates"].fingerprint() in page.text
    pem = ask(app, "/trust/authority.pem", scheme).data
    der = ask(app, "/trust/authority.der", scheme)
    assert ssl.PEM_cert_to_DER_cert(pem.decode()) == der.data and b"PRIVATE" not in pem
    assert der.mimetype == "application/x-x509-ca-cert"
    assert ask(app, "/login/style.css", scheme).status_code == ask(app, "/health", scheme).status_code == 200


def test_a_server_with_a_given_certificate_or_none_has_no_authority(tmp_path):
    settings = Settings(data_dir=tmp_path, models_dir=tmp_path, strategy="fake")
    with open_app(settings) as app:
        assert owner_client(app).get("/trust", base_url="http://127.0.0.1").status_code == 404


def test_the_whole_roost_over_https(tmp_path):
    """Session, page, static file, upload, stream and WebSocket, by clients that trust only the authority."""
    roost = RunningRoost(tmp_path, fake_strategy("Birds sit."), tls=True, lan=True, token=TOKEN)
    made: Certificates = roost.app.extensions["certificates"]
    trusting = ssl.create_default_context(cafile=made.authority_path)
    url = f"https://127.0.0.1:{roost.port}"

    def fetch(path, body=None, **headers):
        told = {"Authorization": f"Bearer {TOKEN}", **headers}
        return urllib.request.urlopen(urllib.request.Request(url + path, body, told), context=trusting, timeout=60)

    secret = OwnerProof(tmp_path).new_secret()
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusting), NoRedirect)
    with pytest.raises(urllib.error.HTTPError) as caught:
        opener.open(f"{url}/open?secret={secret}", timeout=60)
    cookie = caught.value.headers["Set-Cookie"]
    assert "Secure" in cookie and "HttpOnly" in cookie
    with fetch("/", Accept="text/html", Cookie=cookie.partition(";")[0]) as page:
        assert page.status == 200 and "wss://" in page.headers["Content-Security-Policy"]
    text = "A bird sits on a wire. " * 20_000
    with fetch("/v1/tokenize", json.dumps({"text": text}).encode(), Content_Type="application/json") as answer:
        assert json.load(answer)["count"] > 20_000
    body = {"messages": [{"role": "user", "content": "Why?"}], "stream": True, "max_tokens": 10}
    with fetch("/v1/chat/completions", json.dumps(body).encode(), Content_Type="application/json") as stream:
        events = [line for line in stream.read().decode().split("\n\n") if line]
    assert events[-1] == "data: [DONE]" and len(events) > 5
    head = f"Origin: {url}\r\nCookie: {cookie.partition(';')[0]}\r\n"
    page = WebSocketClient(roost.port, "/ws/chat", extra=head, tls=trusting)
    page.send(json.dumps({"do": "open", "chat": "", "shown": []}))
    assert page.receive()
    page.close()
    roost.stop()


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None

"""A Flask app with all kinds of handlers that the bridge must support, and its server in a thread."""

from __future__ import annotations

import gc
import ssl
import threading
import time
import urllib.request

import psutil
import pytest
from flask import Flask, Response, abort, request
from flask_sock import Sock

from tests.waiting import wait_until
from tests.web.ws_client import RawClient, WebSocketClient, handshake
from webapp.services.certificates import Certificates
from webapp.settings import Settings
from webapp.web.socket.server import BridgeServer

EVIL = "http://evil.example"


def make_app(events, may_end):
    """``events`` collects how handlers ended: (route, close reason or exception name). ``may_end``: see /held."""
    app = Flask("bridge-test")
    sock = Sock(app)

    @app.before_request
    def refuse_the_evil_page():
        if request.headers.get("Origin") == EVIL:
            abort(403)

    @app.get("/")
    def index():
        return "hi"

    @app.get("/slow")
    def slow():
        time.sleep(float(request.args["s"]))
        return "slow"

    @app.get("/held")
    def held():
        """A worker's place for as long as the test wants it."""
        events.append(("held", ""))
        may_end.wait(60)
        return "held"

    @app.get("/count/<int:count>")
    def count_up(count):
        return Response(b"x%d\n" % number for number in range(count))

    @app.get("/silence-then/<int:chunks>")
    def silence_then(chunks):
        def body():
            yield b"first"
            time.sleep(2.2)
            for _ in range(chunks):
                yield b"z" * 65536

        return Response(body())

    @app.get("/big/<int:megabytes>")
    def big(megabytes):
        return Response(b"z" * 65536 for _ in range(megabytes * 16))

    @sock.route("/echo")
    def echo(ws):
        try:
            while True:
                ws.send(ws.receive())
        finally:
            events.append(("echo", ws.close_reason))

    @sock.route("/bye")
    def bye(ws):
        ws.send("bye")

    @sock.route("/crash")
    def crash(ws):
        ws.receive()
        raise ValueError("a fault in a handler")

    @sock.route("/flood")
    def flood(ws):
        try:
            while True:
                ws.send("x" * 10000)
        except BaseException as exc:
            events.append(("flood", type(exc).__name__))
            raise

    @sock.route("/ticks")
    def ticks(ws):
        """As a generation: text flows without a question, until the client is gone."""
        while ws.connected:
            ws.send("tick")
            time.sleep(0.002)

    @sock.route("/sleepy")
    def sleepy(ws):
        """Reads nothing for as long as the test wants it."""
        may_end.wait(60)
        try:
            while True:
                ws.receive()
        finally:
            events.append(("sleepy", ws.close_reason))

    @sock.route("/many")
    def many_senders(ws):
        def send_all(sender):
            for number in range(200):
                ws.send(f"{sender}:{number}:" + "y" * 3000)

        senders = [threading.Thread(target=send_all, args=(sender,)) for sender in range(4)]
        for thread in senders:
            thread.start()
        for thread in senders:
            thread.join()
        ws.send("done")

    return app


def open_descriptors():
    process = psutil.Process()
    return process.num_handles() if psutil.WINDOWS else process.num_fds()


def tls_pair(folder):
    """Contexts of a server with a certificate in ``folder``, and of clients that trust only its authority."""
    pytest.importorskip("cryptography")
    made = Certificates(Settings(data_dir=folder, tls=True))
    return made.context, ssl.create_default_context(cafile=made.authority_path)


class RunningServer:
    """The app above, served on a free port until :meth:`stop`."""

    def __init__(self, poll=True, threads=4, limits=None, client_of=None, tls=None, adjustments=None, **websockets):
        """``tls``: (the server's context, its clients')."""
        self.events, self.may_end = [], threading.Event()
        self.threads_before = threading.active_count()
        self.descriptors_before = open_descriptors()
        self.server = BridgeServer(
            make_app(self.events, self.may_end),
            websockets,
            limits,
            client_of=client_of,
            host="127.0.0.1",
            port=0,
            threads=threads,
            asyncore_use_poll=poll,
            tls_context=lambda: tls[0] if tls else None,
            **adjustments or {},
        )
        self.client_tls = tls[1] if tls else None
        self.port = self.server.addresses[0][1]
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def connect(self, path, **options):
        return WebSocketClient(self.port, path, tls=self.client_tls, **options)

    def raw(self, path=None, extra=b""):
        client = RawClient(self.port, tls=self.client_tls)
        if path:
            client.send_bytes(handshake(path) + extra)
        return client

    def get(self, path="/"):
        url = f"http{'s' if self.client_tls else ''}://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=60, context=self.client_tls) as response:
            return response.read()

    def is_idle(self):
        pool = self.server.websockets
        wait_until(lambda: pool.count == 0 and not pool.live, "connections are still open")
        return True

    def stop(self):
        """Returns the seconds it took."""
        start = time.monotonic()
        self.server.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()
        return time.monotonic() - start

    def finish(self):
        """Stops if needed; nothing may be left over."""
        if self.thread.is_alive():
            self.stop()
        wait_until(lambda: threading.active_count() <= self.threads_before, "threads are left")
        gc.collect()
        wait_until(lambda: open_descriptors() <= self.descriptors_before, "descriptors are left")

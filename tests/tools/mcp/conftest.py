import http.server
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from webapp.tools.mcp.client import McpClient
from webapp.tools.mcp.server_config import ServerConfig, ServerKind

FOLDER = Path(__file__).parent


def program(*words, name="tiny", script="server.py", **fields):
    args = (str(FOLDER / script), *words)
    return ServerConfig(name, ServerKind.STDIO, **{"command": sys.executable, "args": args, "timeout_s": 5.0, **fields})


def raw(way, **fields):
    return program(way, name=way, script="raw_server.py", **fields)


def address(url, name="far", **fields):
    return ServerConfig(name, ServerKind.HTTP, url=url, **{"timeout_s": 5.0, **fields})


class HttpServer:
    """The tiny server at a separate address, where it can be stopped and started again.

    The socket belongs to the test and stays open, so that no other program gets its port while no server runs."""

    def __init__(self):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/mcp"
        self.start()

    def start(self):
        number = self._listening.fileno()
        command = [sys.executable, str(FOLDER / "server.py"), "http", str(number)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[number])
        self._process.stdout.readline()  # it has finished its imports

    def stop(self):
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()

    def close(self):
        self.stop()
        self._listening.close()


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers every POST with ``status``, ``headers`` and ``body``; ``asked`` are the paths and headers of requests."""

    status, headers_sent, body = 200, (), b""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, dict(self.headers)))
        self.send_response(self.status)
        for name, value in self.headers_sent:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_DELETE = do_POST

    def log_message(self, *words):
        pass


@pytest.fixture
def web_server():
    """web_server(status, body, **headers) -> a server with this response to everything; ``.url`` and ``.asked``."""
    made = []

    def start(status=200, body=b"", **headers):
        sent = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        handler = type("Handler", (Answers,), {"status": status, "headers_sent": sent, "body": body})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.asked, server.url = [], f"http://127.0.0.1:{server.server_address[1]}/mcp"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        made.append(server)
        return server

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def client():
    """One per module, so that imports and connections are shared."""
    pytest.importorskip("mcp", reason="needs the MCP SDK (pip install -e '.[mcp]')")
    made = McpClient(connect_timeout_s=60)
    made.listed = []
    made.on_tools = lambda server_id, listing: made.listed.append((server_id, listing))
    yield made
    made.close()

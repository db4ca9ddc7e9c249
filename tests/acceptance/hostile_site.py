"""A Roost to attack: the real app on a real port, whose fake model writes a given text, and a malicious server."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.web.api.api_server import ApiServer
from tests.web.owner import owner_cookie
from webapp.tokenizer import load_tokenizer

CHAT = "/v1/chat/completions"
ALIVE = {"messages": [{"role": "user", "content": "Are you there?"}], "max_tokens": 3}
HTML = "<script>alert('x')</script><img src=x onerror=alert(1)>"
BIG = 5_000_000


class Site:
    """``post`` acts as a program, ``form`` as the owner's page."""

    def __init__(self, folder: Path) -> None:
        self.outside = ThreadingHTTPServer(("127.0.0.1", 0), _Bad)
        threading.Thread(target=self.outside.serve_forever, daemon=True).start()
        self.bad_port = self.outside.server_address[1]
        self.server = ApiServer(folder, "fake slots=8", tool_hosts=("127.0.0.1", "localhost", "inside.example"))
        self.cookie = "=".join(owner_cookie(self.server.app, self.server.server.addresses[0][1]))
        self.post = self.server.post
        self.get = self.server.get

    def close(self) -> None:
        self.server.stop()
        self.outside.shutdown()
        self.outside.server_close()

    def force(self, text: str) -> None:
        """The model writes this from now on; "" allows any text."""
        ids = ",".join(map(str, load_tokenizer(65536).encode(text)))
        self.server.manager.load(strategy=f"fake slots=8{f' script={ids}' if text else ''}")
        self.server.manager.wait_ready()

    def ask(self, **fields: Any) -> tuple[int, Any]:
        return self.post(CHAT, {**ALIVE, "max_tokens": 200, "seed": 1, "temperature": 1, **fields})

    def is_alive(self) -> bool:
        status, answer = self.post(CHAT, ALIVE)
        return status == 200 and answer["usage"]["completion_tokens"] >= 1

    def form(self, path: str, **fields: str | list[str]) -> tuple[int, str]:
        """(status, page), after redirects."""
        data = urllib.parse.urlencode(fields, doseq=True).encode()
        headers = {"Origin": self.server.url, "Cookie": self.cookie}
        request = urllib.request.Request(self.server.url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()

    def page(self, path: str) -> str:
        request = urllib.request.Request(self.server.url + path, headers={"Cookie": self.cookie})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def call_address(self, url: str) -> str:
        """The result of an HTTP tool with this address, tested from the tool's form."""
        fields = {"name": "f", "behaviour": "http", "url": url, "method": "GET", "timeout_s": "2", "approval": "always"}
        return result_of(self.form("/tools/try", **fields, arguments="{}")[1])

    def check_arguments(self, schema: dict[str, Any], arguments: str) -> str:
        """The result of a call with these arguments, tested from the form of a tool with this schema."""
        fields = form_of(schema)
        return result_of(self.form("/tools/try", **fields, arguments=arguments)[1])


def form_of(schema: dict[str, Any]) -> dict[str, Any]:
    """The form's fields for a tool with a fixed result; every parameter as JSON."""
    rows = list(schema.get("properties", {}).items())
    fields: dict[str, Any] = {"name": "f", "behaviour": "fixed", "fixed_value": "done", "approval": "never"}
    fields["row"] = [str(number) for number in range(len(rows))]
    for number, (name, part) in enumerate(rows):
        fields |= {f"{number}:name": name, f"{number}:kind": "other", f"{number}:more": json.dumps(part)}
    more = {key: value for key, value in schema.items() if key not in ("type", "properties")}
    return {**fields, "more": json.dumps(more) if more else ""}


def result_of(page: str) -> str:
    """The text in the form's result box, or the first error."""
    from html import unescape
    from re import DOTALL, search

    box = search(r'<div class="trial".*?<pre class="tool-text">(.*?)</pre>', page, DOTALL)
    error = search(r'class="error-text"[^>]*>([^<]+)<', page)
    found = box or error
    return unescape(found[1]).strip() if found else ""


class _Bad(BaseHTTPRequestHandler):
    """Responses of an address that a tool requests."""

    def do_GET(self) -> None:
        if self.path.startswith("/redirect"):
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_address[1]}/secret")
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        try:
            self.wfile.write(b"x" * BIG if self.path.startswith("/big") else b"the secret of this machine")
        except OSError:
            return

    def log_message(self, *found: object) -> None:
        pass

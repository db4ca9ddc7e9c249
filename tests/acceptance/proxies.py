"""The chat in Chromium behind nginx: configured as recommended, without Upgrade, with nginx's own Host, below a path;
and with nginx stopped for a while during an answer.

    python -m tests.acceptance.proxies [--away 60] [--images FOLDER]

Needs nginx and Chromium. Everything is on this machine. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from tests.browser.acting import ANSWER, send, wait_done, wait_ready
from tests.browser.conftest import ARGUMENTS, CHROMIUM, owner_cookies
from tests.web.chat.running_roost import RunningRoost, fake_strategy
from webapp.backends.fake import FakeBackend
from webapp.tokenizer import load_tokenizer

COMMON = "proxy_http_version 1.1; proxy_buffering off;"
UPGRADE = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"
HOST = "proxy_set_header Host $http_host;"
PREFIX = "proxy_set_header X-Forwarded-Prefix /roost;"
CONFIGURATION = """daemon off; pid nginx.pid; error_log error.log; events {{}}
http {{
  access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4;
  scgi_temp_path t5;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
  {servers}
}}
"""
PARTS = 400


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def says_parts(seconds):
    """From now on, every answer counts to PARTS and takes a little longer than ``seconds``."""
    script = load_tokenizer(65536).encode(" ".join(f"part {number}" for number in range(PARTS)))
    step = FakeBackend.step

    def paced(self, batch):
        time.sleep(1.2 * seconds / len(script))
        return step(self, batch)

    FakeBackend.step = paced
    FakeBackend._script_token = lambda self, position: script[position] if position < len(script) else 0


@contextmanager
def nginx(folder, servers):
    """Runs until the block ends; yields functions that stop and start it."""
    path = folder / "nginx.conf"
    path.write_text(CONFIGURATION.format(servers="\n  ".join(servers)))
    process = None

    def start():
        nonlocal process
        process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(path)], stderr=subprocess.DEVNULL)

    def stop():
        process.terminate()
        process.wait(60)

    start()
    try:
        yield start, stop
    finally:
        stop()


def server(port, roost_port, path="/", target="", *lines):
    inside = " ".join((COMMON, *lines))
    passed = f"proxy_pass http://127.0.0.1:{roost_port}{target}; {inside}"
    return f"server {{ listen 127.0.0.1:{port}; location {path} {{ {passed} }} }}"


def walk(page):
    """Ask, ask again, rename by a command, reload the page, search, open another page and come back."""
    wait_ready(page)
    send(page, "Why can birds sit on wires?")
    wait_done(page)
    send(page, "And squirrels?")
    page.wait_for_selector(".message >> nth=3")
    wait_done(page)
    page.reload()
    wait_ready(page)
    assert page.locator(".message").count() == 4
    page.fill("#search", "squirrels")
    page.wait_for_selector("#search-results .hit")
    page.click(".rail-item[href$='/models']")
    page.wait_for_selector("#models-list")
    page.go_back()
    wait_ready(page)
    return {"polling": page.locator("#polling:not([hidden])").count() == 1}


def refusal(page):
    page.wait_for_selector("#lost:has-text('proxy_set_header Host $http_host')")
    return {"told": page.inner_text("#lost span")}


def away(page, seconds, start, stop):
    """nginx stops during an answer and starts again; the answer is complete in the end."""
    wait_ready(page)
    send(page, "Tell me much")
    page.wait_for_selector(f"{ANSWER} [data-channel=content]:has-text('part 3 '), {ANSWER} .tail:has-text('part 3 ')")
    stop()
    page.wait_for_selector("#lost:not([hidden])")
    time.sleep(seconds)
    start()
    back_at = time.monotonic()
    wait_ready(page)
    recovered_s = time.monotonic() - back_at
    page.wait_for_selector(f"{ANSWER}:has-text('part {PARTS - 1}')", timeout=120_000)
    wait_done(page)
    text = page.input_value(f"{ANSWER} [data-source]")
    assert text.split() == [word for number in range(PARTS) for word in ("part", str(number))], text[:200]
    return {"away_s": seconds, "recovered_s": round(recovered_s, 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--away", type=float, default=60)
    parser.add_argument("--images", type=Path)
    options = parser.parse_args()
    if CHROMIUM is None or not shutil.which("nginx"):
        print("needs nginx and Chromium")
        return 2
    from playwright.sync_api import sync_playwright

    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        roost = RunningRoost(folder / "data", fake_strategy(delay_ms=2), trusted_proxy=("127.0.0.1",), token="t" * 16)
        ports = [free_port() for _ in range(5)]
        whole, no_upgrade, own_host, below, uncut = ports
        servers = [
            server(whole, roost.port, "/", "", HOST, UPGRADE),
            server(no_upgrade, roost.port, "/", "", HOST),
            server(own_host, roost.port, "/", "", UPGRADE),
            server(below, roost.port, "/roost/", "/", HOST, PREFIX, UPGRADE),
            server(uncut, roost.port, "/roost/", "/", HOST, PREFIX),
        ]
        with nginx(folder, servers) as (start, stop), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)

            def visit(port, path="/"):
                context = browser.new_context(viewport={"width": 1280, "height": 860})
                context.set_default_timeout(60_000)
                context.add_cookies(owner_cookies(roost.url))
                page = context.new_page()
                page.goto(f"http://127.0.0.1:{port}{path}")
                return page

            for case, port, path, act in (
                ("whole", whole, "/", walk),
                ("no upgrade", no_upgrade, "/", walk),
                ("own host", own_host, "/", refusal),
                ("below a path", below, "/roost/", walk),
                ("below a path, no upgrade", uncut, "/roost/", walk),
            ):
                page = visit(port, path)
                try:
                    found[case] = act(page)
                except Exception as exc:
                    found[case] = {"failed": str(exc)[:400]}
                if options.images:
                    page.screenshot(path=options.images / f"{case.replace(', ', '-').replace(' ', '-')}.png")
                page.context.close()
            says_parts(options.away)
            for case, port in (("away", whole), ("away, no upgrade", no_upgrade)):
                page = visit(port)
                try:
                    found[case] = away(page, options.away, start, stop)
                except Exception as exc:
                    found[case] = {"failed": str(exc)[:400]}
                page.context.close()
            browser.close()
        roost.stop()
    print(json.dumps(found, ensure_ascii=False))
    return 1 if any("failed" in row for row in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Roost as a web app: its manifest, and its own page while the server is offline."""

import json

from tests.browser.acting import until, wait_ready
from tests.wording import text


def test_the_manifest_names_the_app_and_icons_that_are_there(roost, visit):
    page = visit(roost.url)
    manifest = json.loads(roost.get(page.get_attribute("link[rel=manifest]", "href")))  # at once: nothing changes it
    assert manifest["start_url"] == manifest["scope"] == "../" and manifest["display"] == "standalone"
    for icon in manifest["icons"]:
        answer = page.request.get(f"{roost.url}/static/{icon['src']}")
        assert answer.ok and answer.headers["content-type"].startswith(icon["type"])


def test_while_the_server_is_away_a_reload_shows_our_own_page(own_roost, visit):
    page = visit(own_roost.url, service_workers="allow")
    wait_ready(page)
    until(page, "caches.match('/offline').then(Boolean)")
    until(page, "Boolean(navigator.serviceWorker.controller)")
    page.expected += ["ERR_", "htmx:wsError", "WebSocket", "Failed to"]
    own_roost.stop()
    page.reload()
    page.wait_for_selector(f"h1:has-text('{text('offline.title')}')")

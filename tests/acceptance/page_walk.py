"""A picture of every page at three widths, light and dark, in English and Chinese, to compare with those of another
day.

    python -m tests.acceptance.page_walk FOLDER               walks the pages of a new server, with a scripted model
    python -m tests.acceptance.page_walk FOLDER --than OTHER  compares two folders: lists what differs (needs Pillow)

Parts that always change (figures of an answer, dates, names of folders) are covered.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.acceptance.served_roost import ROOT, STARTER, ServedRoost
from tests.browser.conftest import CHROMIUM
from tests.web.chat.running_roost import fake_strategy

WIDTHS = (390, 820, 1280)
HEIGHT = 1400
THEMES = ("light", "dark")
LOCALES = ("en", "zh")
MODEL = f"/models/{STARTER.name}"
PAGES = {
    "new_chat": "/",
    "presets": "/presets",
    "new_preset": "/presets/new",
    "compare": "/presets/compare",
    "models": "/models",
    "model": MODEL,
    "convert": "/convert",
    "states": "/states",
    "tools": "/tools",
    "tool": "/tools/new?from=example",
    "servers": "/tools/servers",
    "bench": "/tools/bench",
    "docs": "/docs",
    "people": "/people",
    "search": "/chats?q=birds",
    "missing": "/nothing-here",
}
COVERED = (".stats", "time", "[data-volatile]", ".sessions-list .facts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--than", type=Path, help="compare with the pictures in this folder instead of walking")
    args = parser.parse_args()
    if args.than:
        compare(args.folder, args.than)
    else:
        walk(args.folder)


def walk(folder: Path) -> None:
    from playwright.sync_api import sync_playwright

    folder.mkdir(parents=True, exist_ok=True)
    data = Path(tempfile.gettempdir()) / "roost-page-walk"  # a fixed name, because some pages print it
    shutil.rmtree(data, ignore_errors=True)
    flags = ("--models", str(ROOT / "models"), "--strategy", fake_strategy(), "--port", "7399")
    try:
        with ServedRoost(data, *flags) as roost, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            )
            chat = ""
            for locale in LOCALES:
                for theme in THEMES:
                    page = visit(browser, roost, data, locale, theme)
                    chat = chat or send(page, roost)
                    for name, path in {**PAGES, "chat": chat}.items():
                        page.goto(roost.url + path)
                        take(page, folder, f"{name}-{locale}-{theme}")
                    page.goto(roost.url)
                    page.click(".strip-button")
                    page.wait_for_selector("#model-menu-body form, #model-menu-body li")
                    take(page, folder, f"status_menu-{locale}-{theme}")
                    page.context.close()
            browser.close()
    finally:
        shutil.rmtree(data, ignore_errors=True)


def visit(browser: Any, roost: ServedRoost, data: Path, locale: str, theme: str) -> Any:
    """A page of the owner, in a separate browser."""
    context = browser.new_context(reduced_motion="reduce")
    context.add_cookies([{"name": "roost_theme", "value": theme, "url": roost.url}])
    command = [sys.executable, "-m", "webapp.cli", "open", "--print", "--data", str(data)]
    link = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()[-1]
    page = context.new_page()
    page.goto(link)
    page.goto(f"{roost.url}/?lang={locale}")
    return page


def send(page: Any, roost: ServedRoost) -> str:
    """Sends a message and waits for the answer; returns the chat's path."""
    page.wait_for_selector("body.is-live")
    page.fill("#prompt", "Why do birds sit on wires?")
    page.press("#prompt", "Enter")
    page.wait_for_selector("text=/tokens\\/s/", timeout=60_000)
    return str(page.url).removeprefix(roost.url)


def take(page: Any, folder: Path, name: str) -> None:
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        page.wait_for_load_state("networkidle" if "chat" not in name else "load")
        page.wait_for_timeout(150)
        covered = [page.locator(selector) for selector in COVERED]
        page.screenshot(path=folder / f"{name}-{width}.png", mask=covered, animations="disabled", caret="hide")


def compare(folder: Path, other: Path) -> None:
    from PIL import Image, ImageChops

    names = sorted({path.name for place in (folder, other) for path in place.glob("*.png")})
    differing = 0
    for name in names:
        if not ((folder / name).exists() and (other / name).exists()):
            print(f"{name}: only in one of the two")
            continue
        pictures = [Image.open(place / name).convert("RGB") for place in (folder, other)]
        if pictures[0].size != pictures[1].size:
            print(f"{name}: {pictures[0].size} and {pictures[1].size}")
            continue
        box = ImageChops.difference(*pictures).getbbox()
        if box:
            differing += 1
            print(f"{name}: differs within {box}")
    print(f"{len(names)} pictures, {differing} differ")


if __name__ == "__main__":
    main()

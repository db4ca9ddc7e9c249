"""`roost serve`: the pages and the API on one port."""

from __future__ import annotations

import argparse
import threading
import webbrowser
from typing import Any

from webapp.cli.options import add_settings, settings_from
from webapp.errors import SettingsError
from webapp.i18n import phrase
from webapp.i18n.terminal import t, terminal_locale
from webapp.settings import SETTINGS, Settings, default_models_dir

FIRST = ("host", "port", "data_dir", "models_dir", "lan", "token", "model", "strategy", "state", "preset", "api_only")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = subparsers.add_parser("serve", help=t("cli.serve.about"))
    add_settings(parser, FIRST)
    parser.add_argument(
        "--no-browser", dest="open_browser", action="store_false", default=None, help=t("cli.serve.no_browser")
    )
    parser.add_argument("--config", metavar="FILE", help=t("cli.serve.config"))
    rest = parser.add_argument_group(t("cli.serve.further"))
    for name in SETTINGS:
        if name not in (*FIRST, "open_browser"):
            add_settings(rest, (name,))  # type: ignore[arg-type]
    return parser


def run(args: argparse.Namespace) -> int:
    from webapp.cli.logs import ServerLog
    from webapp.web.app import create_app
    from webapp.web.serve import serve

    settings = settings_from(args)
    check_folders(settings)
    log = ServerLog(settings)
    app = create_app(settings)
    log.keep(app.extensions["guard"].token)
    for notice in app.extensions["database"].notices:
        print(phrase(notice, terminal_locale()))
    try:
        serve(app, settings, on_ready=lambda url: _open_page(settings, url), on_stop=app.extensions["close"])
    finally:
        app.extensions["close"]()
    return 0


def check_folders(settings: Settings) -> None:
    """Says of each named folder that is not there; the first upload makes it. SettingsError for one that is a file."""
    named = [("models_dir", settings.models_dir)]
    named += [("extra_models_dirs", folder) for folder in settings.extra_models_dirs]
    for name, folder in named:
        if folder.is_file():
            raise SettingsError(name=name, value=str(folder), reason="it is a file; name the folder it is in")
        if not folder.exists() and folder != default_models_dir(settings.data_dir):
            print(t("cli.serve.no_folder", path=folder), flush=True)


def _open_page(settings: Settings, url: str) -> None:
    """In a thread: some browsers keep the call until they end."""
    if settings.open_browser:
        threading.Thread(target=webbrowser.open, args=(url,), name="browser", daemon=True).start()

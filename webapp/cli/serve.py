"""`roost serve`: the pages and the API on one port, and the server's log.

The log goes to the terminal and to a file of limited size in the data folder. Tokens are removed from all parts of a
record, and clients cannot fill the log by repeating the same warning.
"""

from __future__ import annotations

import argparse
import gc
import logging
import logging.handlers
import os
import re
import threading
import webbrowser
from collections import Counter
from io import TextIOWrapper

from webapp.cli.options import add_settings, settings_from
from webapp.errors import RoostError
from webapp.i18n import Text, say
from webapp.i18n.terminal import t, terminal_locale
from webapp.settings import SETTINGS, Settings, default_models_dir
from webapp.web.peer import RateLimit

PLACES = ("host", "port", "data_dir", "models_dir", "lan", "tls", "token")
FIRST = (*PLACES, "model", "strategy", "adapter", "state", "preset", "api_only")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, FIRST)
    parser.add_argument(
        "--no-browser", dest="open_browser", action="store_false", default=None, help=t("cli.serve.no_browser")
    )
    for name, about in (  # flags of RWKV-Runner's backend-python
        ("rwkv.cpp", t("cli.serve.rwkv_cpp")),
        ("webgpu", t("cli.serve.short", strategy="webgpu")),
    ):
        parser.add_argument(f"--{name}", dest="strategy", action="store_const", const=name, help=about)
    parser.add_argument("--config", metavar="FILE", help=t("cli.serve.config"))
    rest = parser.add_argument_group(t("cli.serve.further"))
    for name in SETTINGS:
        if name not in (*FIRST, "open_browser"):
            add_settings(rest, (name,))  # type: ignore[arg-type]


def run(args: argparse.Namespace) -> int:
    gc.disable()  # as in wsgi.py
    try:
        from webapp.web.app import create_app
        from webapp.web.serve import serve
    finally:
        gc.enable()
    gc.freeze()

    settings = settings_from(args)
    check_folders(settings)
    log = ServerLog(settings)
    app = create_app(settings)
    log.keep(app.extensions["guard"].token)
    for notice in app.extensions["database"].notices:
        print(say(notice, terminal_locale()))
    try:
        serve(app, settings, on_ready=lambda url: _open_page(settings, url), on_stop=app.extensions["close"])
    finally:
        app.extensions["close"]()
    return 0


def check_folders(settings: Settings) -> None:
    """Prints each given folder that does not exist; the first upload creates it. Raises ``settings_invalid`` if it is a
    file."""
    named = [("models_dir", settings.models_dir)]
    named += [("extra_models_dirs", folder) for folder in settings.extra_models_dirs]
    for name, folder in named:
        if folder.is_file():
            raise RoostError(
                "settings_invalid", name=name, value=str(folder), reason=Text("reason.cli.file_instead_of_folder")
            )
        if not folder.exists() and folder != default_models_dir(settings.data_dir):
            print(t("cli.serve.no_folder", path=folder), flush=True)


def _open_page(settings: Settings, url: str) -> None:
    """Uses a thread, because some browsers return only when they are closed."""
    if settings.open_browser:
        threading.Thread(target=webbrowser.open, args=(url,), name="browser", daemon=True).start()


log = logging.getLogger(__name__)
LOG_NAME = "roost.log"
OLDER_FILES = 3
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
SECRET = re.compile(
    r"(\b(?:token|secret|key|password|roost_\w+)=|\bBearer\s+|\bx-api-key['\"]?\s*[:=]\s*['\"]?)[^\s&'\",;]+",
    re.IGNORECASE,
)
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
HIDDEN = "…"
WARNINGS_AT_ONCE = 10
WARNINGS_PER_S = 1 / 60


class SafeFormatter(logging.Formatter):
    """Hides the known ``secrets``, and whatever looks like a token."""

    def __init__(self, *secrets: str) -> None:
        super().__init__(FORMAT)
        self.secrets = set(filter(None, secrets))

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self.secrets:
            text = text.replace(secret, HIDDEN)
        return SECRET.sub(rf"\g<1>{HIDDEN}", text)


class Repetitions(logging.Filter):
    """Lets ten warnings from one line of code pass, then one per minute, with the number of those left out."""

    def __init__(self) -> None:
        super().__init__()
        self._limit = RateLimit(WARNINGS_PER_S, WARNINGS_AT_ONCE)
        self._left_out: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        decided: bool | None = getattr(record, "is_logged", None)  # the other handler may have asked already
        if decided is None:
            decided = record.is_logged = self._decide(record)
        return decided

    def _decide(self, record: logging.LogRecord) -> bool:
        place = f"{record.pathname}:{record.lineno}"
        if not self._limit.allows(place):
            self._left_out[place] += 1
            return False
        left_out = self._left_out.pop(place, 0)
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out} more like this)", None
        return True


class LogFile(logging.handlers.RotatingFileHandler):
    """Readable only by its owner."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, FLAGS, 0o600)
        return open(descriptor, "a", encoding="utf-8")


class ServerLog:
    """The root logger's handlers: standard error from the start, and the file after :meth:`keep`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._formatter, self._repetitions = SafeFormatter(settings.token), Repetitions()
        logging.getLogger().setLevel(settings.log_level.upper())
        self._add(logging.StreamHandler())

    def keep(self, *secrets: str) -> None:
        """Call it once the data folder exists and is locked. Also hides ``secrets`` from now on."""
        self._formatter.secrets.update(filter(None, secrets))
        if not self._settings.log_file_bytes:
            return
        path = self._settings.data_dir / LOG_NAME
        try:
            file = LogFile(path, maxBytes=self._settings.log_file_bytes, backupCount=OLDER_FILES)
        except OSError as exc:
            log.warning("No log is kept in %s: %s", path, exc.strerror)
        else:
            self._add(file)

    def _add(self, handler: logging.Handler) -> None:
        handler.addFilter(self._repetitions)
        handler.setFormatter(self._formatter)
        logging.getLogger().addHandler(handler)

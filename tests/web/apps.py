"""Apps with the engine in a thread of the test's own process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from flask import Flask

from tests.manager.thread_engine import start_engine_in_thread
from webapp.manager.manager import ModelManager
from webapp.settings import Settings
from webapp.web.app import create_app


@contextlib.contextmanager
def open_app(settings: Settings) -> Iterator[Flask]:
    """Closes the app at the end."""
    app = create_app(settings, ModelManager(settings, start_engine_in_thread))
    try:
        yield app
    finally:
        app.extensions["close"]()

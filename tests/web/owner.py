"""Guards and owners' sessions for tests, most of which are not about permissions."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient

from webapp.services.access import OwnerProof
from webapp.settings import Settings
from webapp.storage.credentials import ApiTokens, Sessions
from webapp.storage.database import Database
from webapp.storage.people import People
from webapp.web.guard import Guard


def install_guard(app: Flask, settings: Settings) -> Guard:
    """The real guard, on an app with a few routes, which use names of endpoints in :mod:`webapp.web.roles`."""
    folder = Path(tempfile.mkdtemp(prefix="roost-guard-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    proof = OwnerProof(folder)
    proof.prepare()
    database = Database(folder / "roost.db")
    return Guard(app, settings, Sessions(database), proof, People(database), ApiTokens(database))


def owner_cookie(app: Flask, port: int | str) -> tuple[str, str]:
    """(name, value) of a cookie with a new owner's session, for a server at ``port``."""
    return f"roost_session_{port}", app.extensions["sessions"].begin("owner", "a test")


def owner_client(app: Flask) -> FlaskClient:
    """A client with the owner's session, at http://127.0.0.1 (port 80)."""
    client = app.test_client()
    client.set_cookie(*owner_cookie(app, 80), domain="127.0.0.1")
    return client

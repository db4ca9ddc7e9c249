"""Creates the Flask application; it starts no thread and loads no model before a request needs them."""

from __future__ import annotations

import contextlib
import logging
import mimetypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from flask import Blueprint, Flask, Response, jsonify
from jinja2 import Environment, FileSystemBytecodeCache
from jinja2.bccache import Bucket
from werkzeug.routing import Rule

from webapp import __version__
from webapp.errors import StorageError
from webapp.i18n import Text
from webapp.manager.manager import ModelManager
from webapp.resources import cache_dir, resource_dir
from webapp.services.access import OwnerProof
from webapp.services.batch import BatchRuns
from webapp.services.bench.measurements import Measurements
from webapp.services.bench.tool_bench import ToolBench
from webapp.services.certificates import Certificates
from webapp.services.chat.turns import ChatTurns
from webapp.services.conversion import Conversions
from webapp.services.downloads.downloads import Downloads
from webapp.services.generation.completions import Completions
from webapp.services.jobs import Jobs
from webapp.services.library.model_files import ModelFiles
from webapp.services.limits import PersonQuota
from webapp.services.notebook import Notebooks
from webapp.services.presets.presets import Presets
from webapp.services.states import Prefixes, StateLibrary
from webapp.services.tools import McpServers
from webapp.settings import DATABASE_NAME, Settings
from webapp.storage.batches import BatchStore
from webapp.storage.credentials import ApiTokens, Sessions
from webapp.storage.database import Database
from webapp.storage.notebooks import NotebookStore
from webapp.storage.people import People
from webapp.web import (
    batch,
    compose,
    conversion,
    error_answers,
    jobs,
    login,
    measure,
    notebook,
    people,
    prompts,
    shared,
    status,
)
from webapp.web import settings as settings_page
from webapp.web.api import calls as api_calls
from webapp.web.api import docs
from webapp.web.chat import routes as chat_routes
from webapp.web.chat.commands import answer_handshake
from webapp.web.guard import Guard
from webapp.web.kit import page
from webapp.web.models import routes as model_routes
from webapp.web.presets import pages as preset_pages
from webapp.web.states import pages as states_pages
from webapp.web.tools import pages as tools_pages

log = logging.getLogger(__name__)
mimetypes.add_type("application/manifest+json", ".webmanifest")
PAGES: tuple[tuple[Blueprint, str, str], ...] = (
    (chat_routes.blueprint, "nav.chat", "message-square"),
    (notebook.blueprint, "nav.notebook", "notebook-pen"),
    (batch.blueprint, "", ""),
    (compose.blueprint, "nav.compose", "music"),
    (preset_pages.blueprint, "nav.presets", "sliders-horizontal"),
    (prompts.prompts, "", ""),
    (prompts.personas, "", ""),
    (model_routes.blueprint, "nav.models", "boxes"),
    (conversion.blueprint, "", ""),
    (jobs.blueprint, "", ""),
    (states_pages.blueprint, "nav.states", "layers"),
    (tools_pages.blueprint, "nav.tools", "wrench"),
    (measure.blueprint, "nav.measure", "gauge"),
    (docs.blueprint, "api.nav", "braces"),
    (status.blueprint, "", ""),
    (people.blueprint, "", ""),
    (settings_page.blueprint, "", ""),
    (shared.blueprint, "", ""),
    (login.trust, "", ""),
)
"""The blueprint of each page area; for those in the navigation rail also text key and icon."""
API_ONLY = ("docs", "status", "trust")
"""Blueprints that are also served without the other pages."""


def create_app(settings: Settings, manager: ModelManager | None = None) -> Flask:
    """An independent app: its database, manager and running turns are in ``app.extensions``.

    ``app.extensions["close"]()`` ends its turns, its engine process and its database; it may be called twice.
    """
    app = Flask(
        "webapp",
        template_folder=str(resource_dir("templates")),
        static_folder=str(resource_dir("static")),
    )
    app.url_rule_class = LateRule
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.bytecode_cache = app.jinja_env.bytecode_cache or KeptTemplates.in_cache_dir()
    app.extensions["settings"] = settings
    if settings.has_tls:
        app.extensions["certificates"] = Certificates(settings)
    open_services(app, settings, manager or ModelManager(settings))
    page.install(app, settings)
    Guard(app, settings, *(app.extensions[name] for name in ("sessions", "owner_proof", "people", "api_tokens")))
    page.PackedStatic(app)
    error_answers.install(app)
    served = [row for row in PAGES if not settings.api_only or row[0].name in API_ONLY]
    for blueprint, _, _ in served:
        app.register_blueprint(blueprint)
    app.extensions["rail"] = [(key, icon, f"{blueprint.name}.index") for blueprint, key, icon in served if key]
    app.add_url_rule("/health", view_func=health)
    api_calls.install(app, settings)
    if not settings.api_only:
        app.add_url_rule("/ws/chat", "chat_socket", answer_handshake, websocket=True)
    return app


class KeptTemplates(FileSystemBytecodeCache):
    """Compiled templates in the user's cache (2 MB): compiling takes half the time of the first page, and a second of
    CPU time for all. The checksum of a cached template covers its path, the Jinja version and its source after
    our extensions; another Roost of this user replaces it."""

    @classmethod
    def in_cache_dir(cls) -> KeptTemplates | None:
        """None if the folder cannot be created, or if others may write to it, whose code would run here; templates are
        then compiled at each start."""
        folder = cache_dir() / "templates"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
        except (OSError, RuntimeError):  # RuntimeError: the user has no home
            return None
        is_own = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
        return cls(str(folder)) if is_own else None

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        return super().get_cache_key(name)

    def get_bucket(self, environment: Environment, name: str, filename: str | None, source: str) -> Bucket:
        read = environment.preprocess(source, name, filename)
        jinja = getattr(jinja2, "__version__", "")  # not for ever, its authors say
        compiled_for = f"{filename} {jinja} {environment.trim_blocks} {environment.lstrip_blocks}"
        return super().get_bucket(environment, name, filename, f"{compiled_for}\n{read}")

    def load_bytecode(self, bucket: Bucket) -> None:
        try:
            super().load_bytecode(bucket)
        except Exception:  # a torn file is replaced
            bucket.reset()

    def dump_bytecode(self, bucket: Bucket) -> None:
        with contextlib.suppress(OSError):  # a full disk, a read-only folder
            super().dump_bytecode(bucket)


class LateRule(Rule):
    """A route whose two functions for building URLs are compiled at first use: all took a fifth of the start."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        name, compile_now = "_build_unknown" if append_unknown else "_build", super()._compile_builder

        def build(rule: Rule, *given: Any, **values: Any) -> tuple[str, str]:
            built = compile_now(append_unknown).__get__(rule, None)
            setattr(rule, name, built)  # from now on
            found: tuple[str, str] = built(*given, **values)
            return found

        return build


def open_services(app: Flask, settings: Settings, manager: ModelManager) -> None:
    """Creates database, manager and turns, and the function that closes them."""
    database = Database(database_path(settings))
    proof = OwnerProof(settings.data_dir)
    proof.prepare()
    app.extensions.update(sessions=Sessions(database), people=People(database), owner_proof=proof)
    quota = PersonQuota(database, app.extensions["people"], settings)
    manager.limit_clients(quota)
    app.extensions.update(api_tokens=ApiTokens(database), quota=quota)
    presets = Presets(manager, database, settings)
    presets.begin()
    servers = McpServers(database, settings)
    turns = ChatTurns(manager, database, settings, presets, servers)
    database.watch_content()
    jobs = Jobs(settings.data_dir / "jobs.json")
    files = ModelFiles(manager, jobs)
    downloads = Downloads(manager.library, jobs, settings)
    conversions = Conversions(manager.library, jobs)
    states = StateLibrary(manager, jobs)
    bench = ToolBench(manager, database, jobs)
    app.extensions.update(model_manager=manager, model_files=files, conversions=conversions, states=states)
    app.extensions.update(prefixes=Prefixes(states))
    app.extensions.update(jobs=jobs, downloads=downloads)
    app.extensions.update(database=database, presets=presets, chat_turns=turns, mcp_servers=servers)
    measurements = Measurements(manager, database, jobs, settings)
    app.extensions.update(tool_bench=bench, measurements=measurements)
    completions = Completions(manager, presets)
    notebooks = Notebooks(manager, presets, NotebookStore(database), completions)
    batches = BatchRuns(manager, presets, completions, BatchStore(database), jobs, settings.max_sequences)
    app.extensions.update(completions=completions, notebooks=notebooks, batches=batches)

    def close() -> None:
        turns.close()
        jobs.stop_all()
        servers.close()
        manager.close()
        quota.store()
        jobs.close()
        downloads.close()
        database.close()

    app.extensions["close"] = close


def database_path(settings: Settings) -> str:
    try:
        make_data_dir(settings.data_dir)
    except OSError as exc:
        raise StorageError(
            reason=Text("reason.common.path_and_error", path=str(settings.data_dir), error=exc.strerror)
        ) from exc
    return str(settings.database_path)


def make_data_dir(folder: Path) -> None:
    """Creates the data folder, readable only by its owner. Restricts an existing folder if it contains only Roost's
    files; if the system does not allow that, as on a mounted volume, it stays unchanged."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    is_ours = (folder / DATABASE_NAME).exists() or not any(folder.iterdir())
    if os.name == "posix" and is_ours and folder.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):
            folder.chmod(0o700)


def health() -> Response:
    """Responds as soon as pages are served, whether or not a model is loaded."""
    return jsonify(status="ok", version=__version__)

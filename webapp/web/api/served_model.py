"""Which model a request gets: the one that is loaded or chosen, whatever it is called, unless a setting differs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from flask import current_app

from webapp.errors import LoopbackOnly, ModelNotFound, ModelNotServed
from webapp.manager.library import ModelEntry
from webapp.manager.model_manager import ModelManager
from webapp.settings import Settings
from webapp.web.api.answering import the_record, the_settings
from webapp.web.guard import is_from_here


def the_manager() -> ModelManager:
    manager: ModelManager = current_app.extensions["model_manager"]
    return manager


def check_loopback() -> None:
    """What changes the model for everyone, or ends the server, is asked for on this machine only."""
    if not is_from_here():
        raise LoopbackOnly()


def served_model(asked: str | None) -> str:
    """The name of the model that answers. It is loaded first where requests may choose; else ModelNotFound or
    ModelNotServed for a name that may not be taken as any."""
    manager, settings = the_manager(), the_settings()
    served = manager.status().model
    if asked is None and settings.api_strict_models:
        raise ModelNotFound(name="without a name", param="model")
    if asked and not is_name_of(asked, served):
        served = other_model(manager, settings, asked, served)
    the_record().model = served
    return served


def other_model(manager: ModelManager, settings: Settings, asked: str, served: str) -> str:
    known = find_entry(manager, asked)
    if known is None:
        if settings.api_strict_models or not served:
            raise ModelNotFound(name=asked, param="model")
        return served  # clients have "gpt-4o" built in
    if not settings.api_switch_models:
        raise ModelNotServed(name=asked, served=served, param="model")
    manager.load(model=known.name)
    return known.name


def find_entry(manager: ModelManager, asked: str) -> ModelEntry | None:
    return next((entry for entry in manager.library.list() if is_name_of(asked, entry.name)), None)


def is_name_of(asked: str, name: str) -> bool:
    """With or without folder and ending, and with Ollama's ":latest"."""
    path = PurePosixPath(name)
    return asked.removesuffix(":latest") in (name, path.name, path.stem, str(path.with_suffix("")))


@dataclass(frozen=True)
class ServedEntry:
    """A model a client may name, for the lists."""

    name: str
    entry: ModelEntry | None
    is_loaded: bool


def served_models() -> list[ServedEntry]:
    """The one that answers; all of the library where requests may choose."""
    manager = the_manager()
    status = manager.status()
    is_loaded = status.phase in ("ready", "answering")
    entries = manager.library.list()
    if the_settings().api_switch_models:
        good = [entry for entry in entries if entry.inspection is not None and entry.inspection.config is not None]
        return [ServedEntry(entry.name, entry, is_loaded and is_name_of(status.model, entry.name)) for entry in good]
    if not status.model:
        return []
    entry = next((entry for entry in entries if str(entry.path) == status.model_path), None)
    return [ServedEntry(status.model, entry, is_loaded)]

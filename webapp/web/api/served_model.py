"""Which model a request gets: the one that is loaded or chosen, whatever it is called, unless a setting differs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flask import current_app, request

from webapp.errors import ModelNotFound, ModelNotServed
from webapp.manager.library import ModelEntry, ModelFile
from webapp.manager.model_manager import ModelManager
from webapp.services.strategy.on_load import strategy_on_load
from webapp.settings import Settings
from webapp.web.api.answering import DISCONNECTED, ClientGone, the_record, the_settings
from webapp.web.api.calls import ModelTurns


def the_manager() -> ModelManager:
    manager: ModelManager = current_app.extensions["model_manager"]
    return manager


def served_model(asked: str | None) -> str:
    """The name of the model that answers. Where requests may choose, its turn is waited for and it is loaded; else
    ModelNotFound or ModelNotServed for a name that may not be taken as any."""
    manager, settings = the_manager(), the_settings()
    served = manager.status().model
    if asked is None and settings.api_strict_models:
        raise ModelNotFound(name="without a name", param="model")
    if asked and not is_name_of(asked, served):
        served = other_model(manager, settings, asked, served)
    if settings.api_switch_models and served:
        take_turn(served)
    the_record().model = served
    return served


def take_turn(model: str) -> None:
    """Until the call ends. ClientGone when nobody waits any more."""
    turns: ModelTurns = current_app.extensions["api_model_turns"]
    record = the_record()
    if record.may_wait:
        turns.enter(model, check_client)
    else:
        turns.enter_at_once(model)
    record.at_end.append(turns.leave)
    manager = the_manager()
    if manager.status().model != model:
        strategy = strategy_on_load(manager.library, model, manager.status().strategy)
        manager.load(model=model, strategy=strategy)


def check_client() -> None:
    if request.environ.get(DISCONNECTED, lambda: False)():
        the_record().is_gone = True
        raise ClientGone


def other_model(manager: ModelManager, settings: Settings, asked: str, served: str) -> str:
    known = known_name(manager, asked)
    if known is None:
        if settings.api_strict_models or not served:
            raise ModelNotFound(name=asked, param="model")
        return served  # clients have "gpt-4o" built in
    if not settings.api_switch_models:
        raise ModelNotServed(name=asked, served=served, param="model")
    return known


def known_name(manager: ModelManager, asked: str) -> str | None:
    """The model of the library that is called so. Walks through no folder unless one changed."""

    def name_in(files: list[ModelFile]) -> str | None:
        return next((file.name for file in files if is_name_of(asked, file.name)), None)

    return name_in(manager.library.known_files(lambda files: name_in(files) is not None))


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
    library = manager.library
    if the_settings().api_switch_models:
        entries = [library.entry_at(file.path) for file in library.known_files()]
        good = [entry for entry in entries if entry.inspection is not None and entry.inspection.config is not None]
        return [ServedEntry(entry.name, entry, is_loaded and is_name_of(status.model, entry.name)) for entry in good]
    if not status.model:
        return []
    entry = library.entry_at(Path(status.model_path))
    return [ServedEntry(status.model, entry, is_loaded)]

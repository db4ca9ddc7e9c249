"""The models that can be loaded, with what is known about each without loading it."""

from __future__ import annotations

from collections.abc import Callable
from os.path import normpath

from webapp.errors import ModelDoesNotFit, RoostError, error_from_dict
from webapp.i18n import translate_error
from webapp.manager.library import ModelEntry
from webapp.manager.manager import ModelManager
from webapp.manager.status import ModelStatus
from webapp.services.library.disk_space import size_text
from webapp.settings import Settings
from webapp.web.figures import parameters_text
from webapp.web.status.contexts import ModelChoice, ModelMenu

LOADED = ("ready", "answering")


def menu_context(
    manager: ModelManager, settings: Settings, t: Callable[..., str], locale: str, refusal: RoostError | None = None
) -> ModelMenu:
    """``refusal`` is why a command of this menu was not even begun."""
    status = manager.status()
    entries = sorted(manager.library.list(), key=lambda entry: entry.error is not None)
    told = status.error or status.notice
    error = refusal or (error_from_dict(told) if told else None)
    message, hint = translate_error(error, locale) if error else ("", "")
    return ModelMenu(
        models=tuple(_choice(entry, status, t, locale) for entry in entries if _is_listed(entry)),
        chosen=status.model,
        can_load=status.phase in ("empty", "failed"),
        can_unload=status.phase in LOADED,
        can_cancel=status.phase == "loading",
        models_dir=str(settings.models_dir),
        is_changing=status.phase in ("loading", "unloading"),
        error_message=message,
        error_hint=hint,
        can_load_anyway=isinstance(error, ModelDoesNotFit),
    )


def _is_listed(entry: ModelEntry) -> bool:
    return entry.inspection is None or entry.inspection.kind in ("model", "music")


def _choice(entry: ModelEntry, status: ModelStatus, t: Callable[..., str], locale: str) -> ModelChoice:
    is_loaded = status.phase in LOADED and normpath(status.model_path) == normpath(entry.path)
    if entry.error is not None:
        named = error_from_dict({**entry.error.to_dict(), "params": {**entry.error.params, "path": entry.name}})
        return ModelChoice(entry.name, entry.name, translate_error(named, locale)[0], False, False)
    return ModelChoice(entry.name, entry.name, facts(entry, t), is_loaded, True)


def facts(entry: ModelEntry, t: Callable[..., str]) -> str:
    """Such as "RWKV-7 · 191M parameters · 382 MB"."""
    found = entry.inspection
    parts = [f"RWKV-{found.config.architecture}"] if found and found.config else []
    if found and found.parameters:
        parts.append(parameters_text(found, t))
    parts.append(size_text(entry.size_bytes).replace(" ", "\u00a0"))
    return " · ".join(parts)

"""What the models pages work with: the library, the manager, the reader's language. One a request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from os.path import normpath
from typing import Any

from flask import current_app

from webapp.errors import RoostError, error_from_dict
from webapp.i18n import translate_error
from webapp.manager.library import ModelEntry, ModelLibrary
from webapp.manager.model_manager import ModelManager
from webapp.manager.model_status import ModelStatus
from webapp.services.library.model_files import HOLDS_A_MODEL, ModelFiles
from webapp.services.strategy.hardware import Hardware, probe
from webapp.settings import Settings
from webapp.web.fragments import current_locale, translator


@dataclass(frozen=True)
class Desk:
    files: ModelFiles
    manager: ModelManager
    settings: Settings
    locale: str
    t: Callable[..., Any]

    @property
    def library(self) -> ModelLibrary:
        return self.files.library

    @cached_property
    def status(self) -> ModelStatus:
        """One moment for a whole page, so that no two parts of it disagree."""
        return self.manager.status()

    @cached_property
    def hardware(self) -> Hardware:
        return probe(self.library.models_dir)

    @cached_property
    def engine_bytes(self) -> int:
        """What the model that is loaded now would give back first."""
        return self.manager.engine_memory_bytes()

    def phase_of(self, entry: ModelEntry) -> str:
        """ "", loading or loaded."""
        status = self.status
        if status.phase not in HOLDS_A_MODEL or normpath(status.model_path) != normpath(entry.path):
            return ""
        return "loading" if status.phase in ("loading", "unloading") else "loaded"

    def said(self, error: RoostError, name: str = "") -> tuple[str, str]:
        """(sentence, way out); with ``name`` in place of a path on this server's disk."""
        if name and "path" in error.params:
            error = error_from_dict({**error.to_dict(), "params": {**error.params, "path": name}})
        return translate_error(error, self.locale)


def the_desk() -> Desk:
    parts = current_app.extensions
    locale = current_locale()
    return Desk(parts["model_files"], parts["model_manager"], parts["settings"], locale, translator(locale))


def html_id(name: str) -> str:
    """Of a file: stable, unique, and nothing a file's name could break out of."""
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12]

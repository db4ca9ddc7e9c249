"""What the states pages work with: the library, the manager, the reader's language. One a request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flask import current_app, url_for

from webapp.errors import RoostError, error_from_dict
from webapp.i18n import translate_error
from webapp.manager.model_manager import ModelManager
from webapp.manager.model_status import ModelStatus
from webapp.services.states.library import StateLibrary
from webapp.web.fragments import current_locale, translator
from webapp.weights.inspection import Inspection


@dataclass(frozen=True)
class Desk:
    states: StateLibrary
    locale: str
    t: Callable[..., Any]

    @property
    def manager(self) -> ModelManager:
        return self.states.manager

    @cached_property
    def status(self) -> ModelStatus:
        """One moment for a whole page, so that no two parts of it disagree."""
        return self.manager.status()

    @cached_property
    def model(self) -> Inspection | None:
        """The chosen model's file; None when there is none that could be chosen."""
        try:
            return self.manager.model_info()
        except RoostError:
            return None

    def said(self, error: RoostError, name: str = "") -> tuple[str, str]:
        """(sentence, way out); with ``name`` in place of a path on this server's disk."""
        if name and "path" in error.params:
            error = error_from_dict({**error.to_dict(), "params": {**error.params, "path": name}})
        return translate_error(error, self.locale)

    def model_url(self, name: str) -> str:
        """ "" while there is no page of models."""
        return url_for("models.details", name=name) if "models.details" in current_app.view_functions else ""


def the_desk() -> Desk:
    locale = current_locale()
    return Desk(current_app.extensions["states"], locale, translator(locale))


def html_id(name: str) -> str:
    """Of a file: stable, unique, and nothing a file's name could break out of."""
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12]

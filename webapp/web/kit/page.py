"""The context of one page request: the services, the reader's language, and the small things every page shows.

:func:`current_page` gives a view its :class:`PageContext`; the same one for the whole request, so that two parts of a
page cannot disagree about the model's status.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from flask import Flask, current_app, g, request, url_for

from webapp.errors import RoostError, error_from_dict, sentences
from webapp.i18n import phrase, translate_error
from webapp.manager.manager import ModelManager
from webapp.manager.status import ModelStatus
from webapp.services.strategy.hardware import Hardware, probe
from webapp.settings import Settings
from webapp.storage.tools import ToolStore
from webapp.web.fragments import current_locale, translator
from webapp.weights.inspection import Inspection

ABOUT_CHARS = 1000


@dataclass(frozen=True)
class Toast:
    """``_toast.html``. ``undo`` is the command that takes the action back, "" for none; ``code`` that of the error."""

    id: str
    text: str
    hint: str = ""
    undo: str = ""
    is_error: bool = False
    code: str = ""


@dataclass(frozen=True)
class Choice:
    """An option of a select or a group of radio buttons."""

    value: str
    label: str
    is_disabled: bool = False
    is_chosen: bool = False


@dataclass(frozen=True)
class FormField:
    """What the macros of ``_controls.html`` want to know of a control. ``default`` None: it has no reset dot."""

    name: str
    label: str
    help: str = ""
    error: str = ""
    is_changed: bool = False
    default: str | None = None
    needs_reload: bool = False


class PageContext:
    """Services by their names in ``app.extensions``, and what one reader sees of them. ``t`` translates a key."""

    def __init__(self, app: Flask, locale: str) -> None:
        self.locale = locale
        self.t = translator(locale)
        self._services = app.extensions

    @property
    def manager(self) -> ModelManager:
        return self.service("model_manager")  # type: ignore[no-any-return]

    @property
    def settings(self) -> Settings:
        return self.service("settings")  # type: ignore[no-any-return]

    @cached_property
    def tools(self) -> ToolStore:
        return ToolStore(self.service("database"))

    def service(self, name: str) -> Any:
        """One of ``app.extensions``, such as "states" or "presets"."""
        return self._services[name]

    @cached_property
    def status(self) -> ModelStatus:
        """The model's status at one moment."""
        return self.manager.status()

    @cached_property
    def model(self) -> Inspection | None:
        """The chosen model's file; None when no model is chosen or it cannot be read."""
        try:
            return self.manager.model_info()
        except RoostError:
            return None

    @cached_property
    def hardware(self) -> Hardware:
        return probe(self.settings.models_dir)

    @cached_property
    def engine_bytes(self) -> int:
        """What the model that is loaded now would give back first."""
        return self.manager.engine_memory_bytes()

    def explain(self, error: RoostError, name: str = "") -> tuple[str, str]:
        """(sentence, way out) in the reader's language; ``name`` replaces a path on this server's disk."""
        if name and "path" in error.params:
            error = error_from_dict({**error.to_dict(), "params": {**error.params, "path": name}})
        return translate_error(error, self.locale)

    def sentences(self, error: RoostError) -> str:
        """Sentence and way out as one text."""
        return sentences(*self.explain(error))

    def reason(self, error: RoostError) -> str:
        """Only what is wrong, to stand beside the field it is wrong with."""
        return str(phrase(error.params.get("reason", ""), self.locale))

    def error_toast(self, error: RoostError, name: str = "") -> Toast:
        return Toast("refused", *self.explain(error, name), is_error=True, code=error.code)

    def done_toast(self, prefix: str, known: Collection[str], undo: str = "") -> tuple[Toast, ...]:
        """What ``?said=`` tells after a redirect: the text ``<prefix>.<said>`` about ``?about=``; none for an
        unknown ``said``."""
        said, about = request.args.get("said", ""), request.args.get("about", "")[:ABOUT_CHARS]
        return (Toast("done", self.t(f"{prefix}.{said}", name=about), undo=undo),) if said in known else ()

    def model_url(self, name: str) -> str:
        return url_for("models.details", name=name)


def current_page() -> PageContext:
    """The context of the request that is being answered."""
    if "page" not in g:
        g.page = fresh_page()
    found: PageContext = g.page
    return found


def fresh_page() -> PageContext:
    """A new one, to draw a page after an action that changed or failed."""
    g.page = PageContext(current_app._get_current_object(), current_locale())  # type: ignore[attr-defined]
    found: PageContext = g.page
    return found


def html_id(name: str) -> str:
    """An id for a file's row: stable, unique, safe in an attribute."""
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12]

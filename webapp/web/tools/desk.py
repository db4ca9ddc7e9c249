"""What the Tools pages work with. One a request."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from flask import current_app

from webapp.chat.tool_dialects import ToolDialect, default_dialect
from webapp.errors import RoostError, sentences
from webapp.i18n import phrase, translate_error
from webapp.manager.model_manager import ModelManager
from webapp.services.generation.structure import dialect_of
from webapp.settings import Settings
from webapp.storage.tools import ToolStore
from webapp.web.fragments import current_locale, translator


@dataclass(frozen=True)
class Desk:
    tools: ToolStore
    manager: ModelManager
    settings: Settings
    locale: str
    t: Callable[..., Any]

    @property
    def hosts(self) -> Collection[str]:
        return self.settings.tool_hosts

    def said(self, error: RoostError) -> str:
        """Sentence and way out, in the reader's language."""
        return sentences(*translate_error(error, self.locale))

    def reason(self, error: RoostError) -> str:
        """What is wrong, alone: beside the field it is wrong with."""
        return str(phrase(error.params.get("reason", ""), self.locale))

    def dialect(self, name: str) -> ToolDialect:
        """The one named, else what fits the chosen model."""
        try:
            return dialect_of(name, self.manager.model_info())
        except RoostError:
            return default_dialect("")

    def token_count(self, text: str) -> int | None:
        """None where the chosen model's vocabulary is not known."""
        try:
            return len(self.manager.tokenizer().encode(text))
        except RoostError:
            return None


def the_desk() -> Desk:
    locale = current_locale()
    parts = current_app.extensions
    return Desk(ToolStore(parts["database"]), parts["model_manager"], parts["settings"], locale, translator(locale))

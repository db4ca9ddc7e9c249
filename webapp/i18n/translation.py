"""Keys to sentences, from the JSON catalogues."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from webapp.errors import Phrase, RoostError, fill
from webapp.i18n.locale_choice import DEFAULT_LOCALE, LOCALES

CATALOGUE_DIR = Path(__file__).parent / "catalogue"


class Catalogue:
    """All texts of all locales under dotted keys; read once, never changed."""

    def __init__(self, texts: dict[str, dict[str, str]]) -> None:
        self.texts = texts

    @classmethod
    def load(cls, folder: Path = CATALOGUE_DIR) -> Catalogue:
        """Reads ``<folder>/<locale>/*.json``; a key that two files define raises ValueError."""
        return cls({locale: _read_locale(folder / locale) for locale in LOCALES})

    def find(self, key: str, locale: str) -> str | None:
        return self.texts.get(locale, {}).get(key)

    def translate(self, key: str, locale: str, params: dict[str, Any]) -> str:
        """The filled text, from English where ``locale`` has none, the key itself where nobody has."""
        for candidate in _plural_keys(key, locale, params.get("count")):
            for source in (locale, DEFAULT_LOCALE):
                text = self.find(candidate, source)
                if text is not None:
                    return fill(text, params)
        return key


def _plural_keys(key: str, locale: str, count: Any) -> list[str]:
    """With a ``count`` the text may stand under ``key.one`` and ``key.other``; Chinese has only the latter."""
    if count is None:
        return [key]
    forms = [f"{key}.one", f"{key}.other"] if count == 1 and locale == "en" else [f"{key}.other"]
    return [*forms, key]


def _read_locale(folder: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        for key, text in flatten(json.loads(path.read_text(encoding="utf-8"))):
            if key in texts:
                raise ValueError(f"{path}: {key} is defined already")
            texts[key] = text
    return texts


def flatten(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


@functools.lru_cache(maxsize=1)
def catalogue() -> Catalogue:
    """The one catalogue of the process, read at first use."""
    return Catalogue.load()


def translate(key: str, locale: str, **params: Any) -> str:
    """The text of ``key``; with ``count`` the singular or plural form. A missing key comes back as it is."""
    return catalogue().translate(key, locale, params)


def translate_error(error: RoostError, locale: str) -> tuple[str, str]:
    """(sentence, way out) in the reader's language; English where the catalogue has no words for the code."""
    params = {name: _in_words(name, error.params, locale) for name in error.params}
    message = catalogue().find(f"error.{error.code}.message", locale) or error.message_text
    hint = catalogue().find(f"error.{error.code}.hint", locale) or error.hint_text
    return fill(message, params), fill(hint, params)


def _in_words(name: str, params: dict[str, Any], locale: str) -> Any:
    """A parameter ``reason`` may come with a ``reason_key``: the catalogue's text of that, filled with the rest."""
    text = catalogue().find(str(params.get(f"{name}_key")), locale)
    return fill(text, params) if text else phrase(params[name], locale)


def phrase(text: Any, locale: str) -> Any:
    """A reason in ``locale``: a Phrase by its template, a fixed English sentence by itself, as far as ``phrases.json``
    has them; anything else unchanged."""
    if isinstance(text, Phrase):
        template = catalogue().find(f"phrase.{text.template}", locale)
        values = {name: phrase(value, locale) for name, value in text.values.items()}
        return fill(template or text.template, values)
    if not isinstance(text, str):
        return text
    return catalogue().find(f"phrase.{text}", locale) or text

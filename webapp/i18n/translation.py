"""Chooses a reader's language, and translates keys to sentences from the JSON catalogues."""

from __future__ import annotations

import errno
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CATALOGUE_DIR = Path(__file__).parent / "catalogue"
LOCALES = {"en": "English", "zh": "中文"}
"""In the order of the switch on the page: code and the language's own name."""
DEFAULT_LOCALE = "en"
LOCALE_COOKIE = "roost_lang"


def choose_locale(
    query: str | None = None,
    cookie: str | None = None,
    accept_language: str | None = None,
    setting: str = "auto",
) -> str:
    """The first of: ``?lang=``, the reader's earlier choice, the setting, the browser's languages, English."""
    for wanted in (query, cookie, setting):
        if wanted in LOCALES:
            return str(wanted)
    for tag in accepted_languages(accept_language or ""):
        locale = tag.partition("-")[0]
        if locale in LOCALES:
            return locale
    return DEFAULT_LOCALE


def accepted_languages(header: str) -> list[str]:
    """The tags of an Accept-Language header (RFC 9110, 12.5.4), in order of preference; invalid parts are left out."""
    found: list[tuple[float, str]] = []
    for part in header[:1000].split(","):
        tag, _, parameter = part.strip().lower().partition(";")
        weight = _weight(parameter)
        if tag and weight > 0:
            found.append((weight, tag.strip()))
    return [tag for _, tag in sorted(found, key=lambda pair: -pair[0])]


def _weight(parameter: str) -> float:
    name, _, value = parameter.strip().partition("=")
    if not name:
        return 1.0
    try:
        return float(value) if name.strip() == "q" else 0.0
    except ValueError:
        return 0.0


class Text:
    """A sentence, or a part of one, that is not translated yet: ``Text("reason.too_long", limit=9)``.

    Reasons in errors are of this type; they are translated when they are shown. Values are texts, numbers or other
    Texts. ``str`` returns the English text, for logs, programs and the model.
    """

    __slots__ = ("key", "params")

    def __init__(self, key: str, /, **params: Any) -> None:
        self.key = key
        self.params = params

    def __str__(self) -> str:
        return translate(self.key, DEFAULT_LOCALE, **self.params)

    def __repr__(self) -> str:
        return f"Text({self.key!r}, **{self.params!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and (self.key, self.params) == (other.key, other.params)

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> Any:
        return (text_from_plain, (self.to_plain(),))

    def to_plain(self) -> dict[str, Any]:
        """``{"text": key, "params": {...}}``, all JSON."""
        return {"text": self.key, "params": {name: plain(value) for name, value in self.params.items()}}


def plain(value: Any) -> Any:
    """``value`` as JSON: a Text as its dict, other types than text and number as ``str``."""
    if isinstance(value, Text):
        return value.to_plain()
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def text_from_plain(value: Any) -> Any:
    """The inverse of :func:`plain`."""
    if isinstance(value, dict) and "text" in value:
        return Text(value["text"], **{name: text_from_plain(each) for name, each in value["params"].items()})
    return value


class Catalogue:
    """All texts of all locales under dotted keys; read once and not changed."""

    def __init__(self, texts: dict[str, dict[str, str]]) -> None:
        self.texts = texts

    @classmethod
    def load(cls, folder: Path = CATALOGUE_DIR) -> Catalogue:
        """Reads ``<folder>/<locale>/*.json``. Raises ValueError if two files define the same key."""
        return cls({locale: _read_locale(folder / locale) for locale in LOCALES})

    def find(self, key: str, locale: str) -> str | None:
        return self.texts.get(locale, {}).get(key)

    def translate(self, key: str, locale: str, params: Mapping[str, Any]) -> str:
        """The text with its values. If ``locale`` does not have the key, in English; the key itself if English does not
        have it."""
        values = {name: say(value, locale) for name, value in params.items()}
        for candidate in _plural_keys(key, locale, params.get("count")):
            for source in (locale, DEFAULT_LOCALE):
                text = self.find(candidate, source)
                if text is not None:
                    return fill(text, values)
        return key


def _plural_keys(key: str, locale: str, count: Any) -> list[str]:
    """With a ``count``, the text can have the forms ``key.one`` and ``key.other``; Chinese has only the latter."""
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
    """The catalogue of the process, read at first use."""
    return Catalogue.load()


def translate(key: str, locale: str, /, **params: Any) -> str:
    """The text of ``key``; with ``count``, the singular or plural form. For a missing key, the key."""
    return catalogue().translate(key, locale, params)


class Blank(dict[str, Any]):
    """Gives ``?`` for a missing value."""

    def __missing__(self, key: str) -> str:
        return "?"


def fill(template: str, params: Mapping[str, Any]) -> str:
    """``template.format``, without an exception for a missing value."""
    return template.format_map(Blank(params))


def say(value: Any, locale: str) -> Any:
    """A Text in ``locale``; anything else unchanged."""
    if isinstance(value, Text):
        return catalogue().translate(value.key, locale, value.params)
    return value


def system_reason(error: OSError) -> Text | str:
    """The reason of an OSError; the system's own text if the catalogues have none."""
    key = f"system.{errno.errorcode.get(error.errno or 0, '').lower()}"
    return Text(key) if catalogue().find(key, DEFAULT_LOCALE) else error.strerror or str(error)


def sentences(message: str, hint: str) -> str:
    """Sentence and way out in one line. Adds a full stop if the sentence lacks it (a reason from elsewhere may)."""
    if message.endswith(("。", "！", "？")):
        return message + hint
    if message.endswith((".", "!", "?", "…")) or not message or not hint:
        return f"{message} {hint}".strip()
    is_chinese = any("\u4e00" <= char <= "\u9fff" for char in hint)
    return f"{message}。{hint}" if is_chinese else f"{message}. {hint}"


def size_text(size_bytes: float) -> str:
    """Such as "5.9 GB": powers of 1000, as disks and download pages use them; the same in every language."""
    if size_bytes < 1000:
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        if size_bytes < 999.5:
            return f"{size_bytes:.3g} {unit}" if size_bytes < 100 else f"{size_bytes:.0f} {unit}"
    return f"{size_bytes / 1000:.3g} TB"

"""Which language a reader gets."""

from __future__ import annotations

# In the order of the switch on the page: code and the language's own name.
LOCALES = {"en": "English", "zh": "中文"}
DEFAULT_LOCALE = "en"
LOCALE_COOKIE = "roost_lang"


def choose_locale(
    query: str | None = None,
    cookie: str | None = None,
    accept_language: str | None = None,
    setting: str = "auto",
) -> str:
    """The first of: ``?lang=``, the reader's earlier choice, a fixed setting, the browser's wish, English."""
    for wanted in (query, cookie, setting):
        if wanted in LOCALES:
            return str(wanted)
    for tag in accepted_languages(accept_language or ""):
        locale = tag.partition("-")[0]
        if locale in LOCALES:
            return locale
    return DEFAULT_LOCALE


def accepted_languages(header: str) -> list[str]:
    """The tags of an Accept-Language header (RFC 9110, 12.5.4), most wanted first; unreadable parts are left out."""
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

"""Every text for people, in English and Chinese, and the choice of a reader's language. Imports no other package.

    catalogue/<locale>/<area>.json   nested keys, "{name}" for parameters; all files of a locale are merged
    translation                      choose_locale, Text (a key with its values), translate(key, locale, **params)
    terminal                         t(key, **params) in the language of the terminal; not for pages

A page area has one file in each language. Errors have ``errors.json``, the reasons inside them ``reasons.json``.
"""

from webapp.i18n.translation import (
    DEFAULT_LOCALE,
    LOCALES,
    Text,
    choose_locale,
    plain,
    say,
    sentences,
    size_text,
    system_reason,
    text_from_plain,
    translate,
)

__all__ = [
    "DEFAULT_LOCALE",
    "LOCALES",
    "Text",
    "choose_locale",
    "plain",
    "say",
    "sentences",
    "size_text",
    "system_reason",
    "text_from_plain",
    "translate",
]

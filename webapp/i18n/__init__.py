"""Every text a person reads, in English and Chinese, and which of the two a reader gets. It imports no other room.

    catalogue/<locale>/<area>.json   nested keys, "{name}" for parameters; all files of a locale are merged
    translation                      Text (a key with its values), translate(key, locale, **params)
    locale_choice                    choose_locale(query, cookie, header, setting)
    terminal                         t(key, **params) in the language of the terminal; not for pages

A page area has one file in each language; errors have ``errors.json``.
"""

from webapp.i18n.locale_choice import DEFAULT_LOCALE, LOCALES, choose_locale
from webapp.i18n.phrase import Phrase, phrase_from_dict
from webapp.i18n.translation import Text, fill, phrase, sentences, translate

__all__ = [
    "DEFAULT_LOCALE",
    "LOCALES",
    "Phrase",
    "Text",
    "choose_locale",
    "fill",
    "phrase",
    "phrase_from_dict",
    "sentences",
    "translate",
]

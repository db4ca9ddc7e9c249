"""The words of the pages in English and Chinese, and which of the two a reader gets.

    catalogue/<locale>/<area>.json   nested or dotted keys, "{name}" for parameters; all files of a locale are merged
    translation                      translate(key, locale, **params), translate_error(error, locale), phrase(...)
    locale_choice                    choose_locale(query, cookie, header, setting)
    terminal                         t(key, **params) in the language of the terminal; not for pages

An area's page adds its own file under both locales. English texts of errors live in :mod:`webapp.errors` only.
"""

from webapp.i18n.locale_choice import DEFAULT_LOCALE, LOCALES, choose_locale
from webapp.i18n.translation import phrase, translate, translate_error

__all__ = ["DEFAULT_LOCALE", "LOCALES", "choose_locale", "phrase", "translate", "translate_error"]

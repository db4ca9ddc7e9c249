"""Roost's texts by key or code: a test that uses these is independent of the wording."""

import re
from html import unescape
from typing import Any

from webapp.errors import ROWS, error_from_dict, translate_error
from webapp.i18n import translate
from webapp.i18n.translation import catalogue


def text(key: str, locale: str = "en", **params: Any) -> str:
    """The catalogue's text with its parameters; fails for a missing key."""
    found = translate(key, locale, **params)
    assert found != key, f"the catalogue has no {key}"
    return found


def says(page: str, key: str, **params: Any) -> bool:
    """Whether a page, or a command's output, contains that text."""
    return text(key, **params) in unescape(page)


def error_text(code: str, locale: str = "en", **params: Any) -> str:
    """The sentence of that error with ``params``, without the hint."""
    assert code in ROWS, f"no error has the code {code}"
    return translate_error(error_from_dict({"code": code, "params": params}), locale)[0]


def is_refused(page: str, code: str) -> bool:
    """Whether a page reports that an action was refused with that error."""
    return f'data-code="{code}"' in page


def pattern(key: str, locale: str = "en", **params: Any) -> str:
    """A regular expression for that text: a missing value becomes a group with its name."""
    held = {
        name: f"\0{name}\0" for name in re.findall(r"{(\w+)", catalogue().find(key, locale) or "") if name not in params
    }
    words = re.escape(text(key, locale, **{**held, **params}))
    return re.sub(r"\\?\0(\w+)\\?\0", r"(?P<\1>.+?)", words)

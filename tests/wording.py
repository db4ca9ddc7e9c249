"""What Roost says, by key or code: a test that asks for these holds when the words change."""

import re
from html import unescape
from typing import Any

from webapp.errors import ROWS, error_from_dict, translate_error
from webapp.i18n import translate
from webapp.i18n.translation import catalogue


def text(key: str, locale: str = "en", **params: Any) -> str:
    """The catalogue's text, filled; fails for a key it does not have."""
    found = translate(key, locale, **params)
    assert found != key, f"the catalogue has no {key}"
    return found


def says(page: str, key: str, **params: Any) -> bool:
    """Whether a page, or a command's output, has that text."""
    return text(key, **params) in unescape(page)


def error_text(code: str, locale: str = "en", **params: Any) -> str:
    """The sentence of that error about ``params``, without the way out."""
    assert code in ROWS, f"no error has the code {code}"
    return translate_error(error_from_dict({"code": code, "params": params}), locale)[0]


def is_refused(page: str, code: str) -> bool:
    """Whether a page says that an action was refused with that error."""
    return f'data-code="{code}"' in page


def pattern(key: str, locale: str = "en", **params: Any) -> str:
    """A regular expression of that text: a value that is not given is a group of its name."""
    held = {
        name: f"\0{name}\0" for name in re.findall(r"{(\w+)", catalogue().find(key, locale) or "") if name not in params
    }
    words = re.escape(text(key, locale, **{**held, **params}))
    return re.sub(r"\\?\0(\w+)\\?\0", r"(?P<\1>.+?)", words)

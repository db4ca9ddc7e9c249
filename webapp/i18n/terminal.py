"""Texts for the terminal, in the user's language."""

from __future__ import annotations

import locale
import os
import sys
from typing import Any

from webapp.i18n.translation import DEFAULT_LOCALE, translate

VARIABLES = ("ROOST_LANG", "LC_ALL", "LC_MESSAGES", "LANG")
CHINESE = ("zh", "chinese")  # zh_CN.UTF-8; Windows says "Chinese (Simplified)_China"


def terminal_locale() -> str:
    """``ROOST_LANG``, otherwise the system's language; English if terminal or pipe cannot show Chinese characters."""
    wanted = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), None) or _system_locale()
    return "zh" if wanted.lower().startswith(CHINESE) and _has_chinese_characters() else DEFAULT_LOCALE


def t(key: str, **params: Any) -> str:
    """The text of ``key`` for the terminal."""
    return translate(key, terminal_locale(), **params)


def _system_locale() -> str:
    try:
        return locale.getlocale()[0] or ""
    except ValueError:  # a name that Python cannot parse
        return ""


def _has_chinese_characters() -> bool:
    try:
        for stream in (sys.stdout, sys.stderr):
            "中文".encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True

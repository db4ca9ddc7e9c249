"""A block of code as HTML: highlighted, with its language and a copy button above it."""

from __future__ import annotations

import functools
import re

from markupsafe import escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

MAX_HIGHLIGHTED = 20_000  # characters: about 30 ms of pygments; longer code is shown plain
LANGUAGE = re.compile(r"[A-Za-z0-9+#._-]{1,30}")
FORMATTER = HtmlFormatter(nowrap=True)  # class names, no style attributes


def render_code(code: str, info: str, copy_label: str, highlight_limit: int | None = None) -> str:
    """``info`` is what follows the opening fence; its first word is the language if it looks like one.

    The head is made of phrasing elements, because it stands inside ``pre``; a listener on the page answers clicks on
    ``.code-copy`` with the text of the ``code`` beside it.
    """
    found = LANGUAGE.match(info.strip())
    language = found[0] if found else ""
    css_class = f' class="language-{language}"' if language else ""
    return (
        f'<pre><span class="code-head"><span class="code-language">{language}</span>'
        f'<button type="button" class="code-copy">{escape(copy_label)}</button></span>'
        f"<code{css_class}>{highlighted(code, language, highlight_limit or MAX_HIGHLIGHTED)}</code></pre>\n"
    )


def highlighted(code: str, language: str, limit: int) -> str:
    lexer = find_lexer(language.lower()) if language and len(code) <= limit else None
    return str(highlight(code, lexer, FORMATTER)) if lexer else str(escape(code))


@functools.lru_cache(maxsize=64)
def find_lexer(language: str) -> Lexer | None:
    """None for a language pygments does not know. stripnl off: a block may begin with an empty line."""
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None

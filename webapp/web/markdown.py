"""Markdown from a model, a document or a tool, as HTML that is safe to put into a page.

markdown-it escapes raw HTML, pygments colours code, and last of all nh3 keeps an allow-list of elements, attributes,
classes and link schemes. That order matters: nothing touches the HTML after the sanitiser. A content policy alone
would not do, since it does not stop htmx attributes. The browser test of the hostile inputs is
``tests/web/test_markdown_browser.py``.
"""

from __future__ import annotations

import re

import nh3
from markdown_it import MarkdownIt
from markupsafe import escape

from webapp.web.markdown_rules import estimated_us, install_rules

COPY_LABEL = "Copy"
MAX_RENDER_US = 3_000_000  # beyond it (about a million characters) a text is shown as it is
BLOCK_TAGS = set("p hr h1 h2 h3 h4 h5 h6 pre blockquote ul ol li table thead tbody tr th td".split())  # noqa: SIM905
INLINE_TAGS = {"a", "br", "strong", "em", "s", "code", "span", "button"}
LINK_REL = "noopener noreferrer nofollow"
ATTRIBUTES = {
    "a": {"href", "title", "target"},
    "button": {"type", "class"},
    "ol": {"start"},
    **{tag: {"class"} for tag in ("code", "span", "li", "th", "td")},
}
ALLOWED_VALUES = {
    ("a", "href"): re.compile(r"(?:https?://|mailto:)[^\s]+", re.IGNORECASE),  # no relative links into our own pages
    ("a", "rel"): re.compile(LINK_REL),  # set by nh3 itself, and the filter sees it too
    ("a", "title"): re.compile(r".*", re.DOTALL),
    ("a", "target"): re.compile(r"_blank"),
    ("button", "type"): re.compile(r"button"),
    ("button", "class"): re.compile(r"code-copy"),
    ("code", "class"): re.compile(r"language-[A-Za-z0-9+#._-]{1,30}"),
    ("li", "class"): re.compile(r"task"),
    ("ol", "start"): re.compile(r"\d{1,9}"),
    ("span", "class"): re.compile(r"code-head|code-language|image|[a-z][a-z0-9]{0,2}(?: [a-z][a-z0-9]{0,2})?"),
    ("td", "class"): re.compile(r"ta-(?:left|center|right)"),
    ("th", "class"): re.compile(r"ta-(?:left|center|right)"),
}


def keep_attribute(tag: str, name: str, value: str) -> str | None:
    pattern = ALLOWED_VALUES.get((tag, name))
    return value if pattern and pattern.fullmatch(value) else None


CLEANER = nh3.Cleaner(
    tags=BLOCK_TAGS | INLINE_TAGS,
    attributes=ATTRIBUTES,
    attribute_filter=keep_attribute,
    url_schemes={"http", "https", "mailto"},
    link_rel=LINK_REL,
)


def make_parser() -> MarkdownIt:
    """Nesting is bounded at 20 by this preset; a line break in the text is one on the page, as people chat."""
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    install_rules(parser)
    return parser


PARSER = make_parser()


def render_markdown(text: str, copy_label: str = COPY_LABEL) -> str:
    """Safe HTML of a whole text. An empty ``copy_label`` leaves the label to the style sheet."""
    if estimated_us(text) > MAX_RENDER_US:
        return render_plain(text)
    return sanitised(PARSER.render(text, {"copy_label": copy_label}))


def render_plain(text: str) -> str:
    """The text as it is, for what would take too long to render. Escaped whole, it needs no sanitiser."""
    return f"<p>{str(escape(text)).replace(chr(10), '<br>')}</p>" if text.strip() else ""


def sanitised(html: str) -> str:
    return CLEANER.clean(html)

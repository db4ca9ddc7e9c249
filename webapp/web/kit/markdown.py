"""Converts Markdown from a model, a document or a tool to safe HTML for a page; complete, or while the text grows.

markdown-it escapes raw HTML, pygments colours code, and finally nh3 keeps only an allow-list of elements, attributes,
classes and link schemes. This order matters: nothing changes the HTML after the sanitiser. A content security policy
alone is not enough, because it does not stop htmx attributes. The browser test with hostile inputs is
``tests/web/test_markdown_browser.py``.

Differences from CommonMark: no images (they would tell another host about the conversation), links open in a new tab,
URLs without brackets become links, task lists, alignment as classes (a strict policy refuses style attributes), code
blocks with a head; formulas, emphasis in Chinese and footnotes (:mod:`.markdown_rules`); and limits on
the cost of a paragraph or table, because a model or document can contain a hundred thousand brackets.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, table
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markupsafe import escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from webapp.web.kit import markdown_rules as rules

MAX_HIGHLIGHTED = 20_000  # characters: about 30 ms of pygments; longer code is not coloured
LANGUAGE = re.compile(r"[A-Za-z0-9+#._-]{1,30}")
PREVIEWED = ("html", "svg", "xhtml", "mermaid")
PREVIEW = '<button type="button" class="code-preview"></button>'
"""Opens a block's content in its own frame (``static/js/preview.js``)."""
FORMATTER = HtmlFormatter(nowrap=True)  # class names, no style attributes


def render_code(code: str, info: str, copy_label: str, highlight_limit: int | None = None) -> str:
    """``info`` is the text after the opening fence; its first word is the language if it looks like one.

    The head uses phrasing elements, because it is inside ``pre``. Listeners on the page handle clicks on ``.code-copy``
    and ``.code-preview`` with the text of the ``code`` next to them.
    """
    found = LANGUAGE.match(info.strip())
    language = found[0] if found else ""
    css_class = f' class="language-{language}"' if language else ""
    return (
        f'<pre><span class="code-head"><span class="code-language">{language}</span>'
        f"{PREVIEW if language.lower() in PREVIEWED else ''}"
        f'<button type="button" class="code-copy">{escape(copy_label)}</button></span>'
        f"<code{css_class}>{highlighted(code, language, highlight_limit or MAX_HIGHLIGHTED)}</code></pre>\n"
    )


def highlighted(code: str, language: str, limit: int) -> str:
    lexer = find_lexer(language.lower()) if language and len(code) <= limit else None
    return with_turns(str(highlight(code, lexer, FORMATTER)) if lexer else str(escape(code)))


TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""Characters that change the text direction, so that code looks different from what runs (CVE-2021-42574)."""


def with_turns(html: str) -> str:
    """Wraps each in an element that limits its effect and that the style sheet makes visible."""
    return TURNS.sub(r'<span class="bc">\g<0></span>', html)


@functools.lru_cache(maxsize=64)
def find_lexer(language: str) -> Lexer | None:
    """None for a language unknown to pygments. stripnl is off: a block may begin with an empty line."""
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


MAX_INLINE_US = 30_000
MAX_TABLE_COLUMNS = 100
TASKS = {"[ ] ": "☐ ", "[x] ": "☑ ", "[X] ": "☑ "}
BARE_LINK = re.compile(r"https?://[!#-&(-;=?-_a-~]+")  # ASCII but for white space, quotes, <, > and backtick
LINK_END = ".,;:!?*_~|"


def estimated_us(text: str) -> int:
    """Estimated cost of parsing and rendering ``text``, in microseconds.

    Measured on 2 cores at 2 GHz with markdown-it-py 4.3: brackets 30-60 us each (every one looks for its partner),
    a table's cell 40, half a formula 60, other marks about 12, a line 30, a character 2 (pygments and the sanitiser).
    """
    marks = sum(text.count(mark) for mark in "*_~`<&\\]!")
    heavy = 50 * text.count("[") + 40 * text.count("|") + 60 * text.count("$")
    return 2 * len(text) + heavy + 12 * marks + 30 * text.count("\n")


def install_rules(md: MarkdownIt) -> None:
    rules.install(md)
    md.core.ruler.at("inline", parse_inline_within_limit(md))
    md.core.ruler.push("bare_links", link_bare_addresses)
    md.core.ruler.push("links", open_links_in_new_tab)
    md.core.ruler.push("other_hosts", name_other_hosts)
    md.core.ruler.push("tasks", mark_tasks)
    md.core.ruler.push("alignment", turn_alignment_to_classes)
    md.block.ruler.at("table", table_within_limit, {"alt": ["paragraph", "reference"]})
    md.add_render_rule("fence", render_fence)
    md.add_render_rule("code_block", render_fence)
    md.add_render_rule("code_inline", render_code_inline)
    md.add_render_rule("image", render_image)


def parse_inline_within_limit(md: MarkdownIt) -> Callable[[StateCore], None]:
    """CommonMark's inline step; a paragraph that would take too long stays plain text."""

    def parse_inline(state: StateCore) -> None:
        for token in state.tokens:
            if token.type != "inline":
                continue
            if estimated_us(token.content) > MAX_INLINE_US:
                token.children = [Token("text", "", 0, content=token.content)]
            else:
                token.children = token.children or []
                rules.parse_inline(md, token.content, state.env, token.children)

    return parse_inline


def table_within_limit(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """CommonMark's table rule, without tables of thousands of columns: short rows are filled with empty cells."""
    if start + 1 < end and state.getLines(start + 1, start + 2, 0, False).count("|") > MAX_TABLE_COLUMNS:
        return False
    return table(state, start, end, silent)


def link_bare_addresses(state: StateCore) -> None:
    for token in state.tokens:
        is_candidate = token.type == "inline" and token.children and "http" in token.content
        if is_candidate and estimated_us(token.content) <= MAX_INLINE_US:
            token.children = with_links(token.children or [])


def with_links(tokens: list[Token]) -> list[Token]:
    """``tokens`` with URLs in the text as links, except inside links."""
    result: list[Token] = []
    depth = 0
    for token in tokens:
        depth += {"link_open": 1, "link_close": -1}.get(token.type, 0)
        if token.type == "text" and depth == 0:
            result += split_at_links(token)
        else:
            result.append(token)
    return result


def split_at_links(token: Token) -> list[Token]:
    text, position, result = token.content, 0, []
    for match in BARE_LINK.finditer(text):
        address = trimmed(match[0])
        result.append(Token("text", "", 0, content=text[position : match.start()]))
        result.append(Token("link_open", "a", 1, attrs={"href": address}))
        result.append(Token("text", "", 0, content=address))
        result.append(Token("link_close", "a", -1))
        position = match.start() + len(address)
    return [*result, Token("text", "", 0, content=text[position:])] if result else [token]


def trimmed(address: str) -> str:
    """Removes the sentence's punctuation, and a bracket that was opened before the URL."""
    address = address.rstrip(LINK_END)
    while address.endswith(")") and address.count(")") > address.count("("):
        address = address[:-1].rstrip(LINK_END)
    return address


def open_links_in_new_tab(state: StateCore) -> None:
    for token in state.tokens:
        for child in token.children or []:
            if child.type == "link_open":
                child.attrs["target"] = "_blank"


SHOWN_ADDRESS = re.compile(r"(?:https?://(?:www\.)?|(?<![a-z0-9.])www\.)([^\s/?#:]+)", re.IGNORECASE)
BEHIND_ADDRESS = ".,;!)]'\"。，；！？）】》」』”’"
"""Punctuation after a URL that does not belong to its host."""


def name_other_hosts(state: StateCore) -> None:
    """If a link shows one URL and leads to another, adds the name of the real host; also for look-alike names."""
    for token in state.tokens:
        if any(child.type == "link_open" for child in token.children or []):
            token.children = with_hosts(token.children or [])


def with_hosts(tokens: list[Token]) -> list[Token]:
    result: list[Token] = []
    host, text = "", ""
    for token in tokens:
        result.append(token)
        if token.type == "link_open":
            host, text = host_of(str(token.attrs.get("href", ""))), ""
        elif token.type == "link_close":
            shown = SHOWN_ADDRESS.search(text)
            if shown and host and shown[1].rstrip(BEHIND_ADDRESS).lower() != host.rstrip("."):
                result.append(Token("text", "", 0, content=f" ({host})"))
        else:
            text += token.content
    return result


def host_of(address: str) -> str:
    """In lower case, without "www."; "" if there is no host."""
    try:
        return (urlsplit(address).hostname or "").removeprefix("www.")
    except ValueError:
        return ""


def mark_tasks(state: StateCore) -> None:
    """``- [ ] thing`` shows a box as text, because an answer has nothing to tick."""
    for item, _, inline in zip(state.tokens, state.tokens[1:], state.tokens[2:], strict=False):
        if item.type != "list_item_open" or inline.type != "inline" or not inline.children:
            continue
        first = inline.children[0]
        for mark, box in TASKS.items():
            if first.type == "text" and first.content.startswith(mark):
                first.content = box + first.content[len(mark) :]
                item.attrs["class"] = "task"


def turn_alignment_to_classes(state: StateCore) -> None:
    for token in state.tokens:
        if token.type in ("th_open", "td_open"):
            style = str(token.attrs.pop("style", ""))
            if style:
                token.attrs["class"] = "ta-" + style.partition(":")[2].strip()


def render_fence(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    return render_code(token.content, token.info, str(env.get("copy_label", "")), env.get("highlight_limit"))


def render_code_inline(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    return f"<code>{with_turns(str(escape(tokens[index].content)))}</code>"


def render_image(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    """Shows only the description; fetches nothing."""
    return f'<span class="image">🖼 {escape(tokens[index].content)}</span>'


COPY_LABEL = "Copy"
MAX_RENDER_US = 3_000_000  # beyond it (about a million characters) a text is shown unrendered
BLOCK_TAGS = set("p hr h1 h2 h3 h4 h5 h6 pre blockquote ul ol li table thead tbody tr th td".split())  # noqa: SIM905
INLINE_TAGS = {"a", "br", "strong", "em", "s", "code", "span", "button", "sub", "sup", "kbd", "mark"}
LINK_REL = "noopener noreferrer nofollow"
ATTRIBUTES = {
    "a": {"href", "title", "target"},
    "button": {"type", "class"},
    "ol": {"start"},
    "span": {"class", "tabindex"},
    **{tag: {"class"} for tag in ("code", "p", "li", "th", "td")},
    **rules.MATH_ATTRIBUTES,
}
ALLOWED_VALUES = {
    ("a", "href"): re.compile(r"(?:https?://|mailto:)[^\s]+", re.IGNORECASE),  # no relative links to our own pages
    ("a", "rel"): re.compile(LINK_REL),  # set by nh3 itself, and the filter sees it too
    ("a", "title"): re.compile(r".*", re.DOTALL),
    ("a", "target"): re.compile(r"_blank"),
    ("button", "type"): re.compile(r"button"),
    ("button", "class"): re.compile(r"code-copy|code-preview"),
    ("code", "class"): re.compile(r"language-[A-Za-z0-9+#._-]{1,30}|formula-source"),
    ("p", "class"): re.compile(r"footnote"),
    ("math", "data-tex"): re.compile(r".*", re.DOTALL),
    ("li", "class"): re.compile(r"task"),
    ("ol", "start"): re.compile(r"\d{1,9}"),
    ("span", "class"): re.compile(r"code-head|code-language|image|formula|[a-z][a-z0-9]{0,2}(?: [a-z][a-z0-9]{0,2})?"),
    ("span", "tabindex"): re.compile(r"0"),
    ("td", "class"): re.compile(r"ta-(?:left|center|right)"),
    ("th", "class"): re.compile(r"ta-(?:left|center|right)"),
}


def keep_attribute(tag: str, name: str, value: str) -> str | None:
    pattern = ALLOWED_VALUES.get((tag, name)) or (rules.MATH_VALUE if tag in rules.MATH_TAGS else None)
    return value if pattern and pattern.fullmatch(value) else None


CLEANER = nh3.Cleaner(
    tags=BLOCK_TAGS | INLINE_TAGS | rules.MATH_TAGS,
    attributes=ATTRIBUTES,
    attribute_filter=keep_attribute,
    url_schemes={"http", "https", "mailto"},
    link_rel=LINK_REL,
)


def make_parser() -> MarkdownIt:
    """This preset limits nesting to 20; a line break in the text is a line break on the page, as usual in chats."""
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
    """The unchanged text, if rendering would take too long. It is completely escaped and needs no sanitiser."""
    return f"<p>{str(escape(text)).replace(chr(10), '<br>')}</p>" if text.strip() else ""


def sanitised(html: str) -> str:
    return CLEANER.clean(html)


MAX_UPDATE_US = 40_000  # above it an update may append plain text to the last rendering of the tail, until the block
MAX_EAGER_US = 150_000  # seems to have ended, or (always, above this) until the tail has grown by a quarter: together
GROWTH = 1.25  # all renderings of a block stay linear in its length
MAX_TAIL_US = 250_000  # above it an open block is plain text until the stream is finished
OPEN_CODE_HIGHLIGHTED = 8_000  # characters; longer code gets its colours when its block ends


class Rendered(NamedTuple):
    """HTML of the blocks that are final now, and of the open one."""

    final: str
    tail: str


class MarkdownStream:
    """A growing Markdown text: renders finished blocks once, and only the open block again.

        stream.feed("some text")
        final, tail = stream.update()     # append final to what is shown, replace the tail
        final, tail = stream.finish()     # the rest; tail is empty

    The cost of an update does not depend on the text's length. The joined final parts equal a rendering of the whole,
    with one exception: a reference link (``[text][name]``) that is defined in another block. Then ``uses_references``
    is True, and the whole must be rendered once at the end.
    """

    def __init__(self, copy_label: str = COPY_LABEL) -> None:
        self.uses_references = False
        self._copy_label = copy_label
        self._open_text = ""  # the text that is not final
        self._pending: list[str] = []
        self._last_length = 0  # of the open text at its last rendering
        self._last_tail = ""

    def feed(self, text: str) -> None:
        self._pending.append(text)

    def update(self, is_last: bool = False) -> Rendered:
        """With ``is_last`` it is the same as :meth:`finish`."""
        if is_last:
            return self.finish()
        before, new = self._open_text, "".join(self._pending)
        self._open_text += new
        self._pending.clear()
        if self._last_length == len(before) and (tail := with_words(self._last_tail, before, new)):
            self._last_length, self._last_tail = len(self._open_text), tail
            return Rendered("", tail)
        if self._is_costly():
            return Rendered("", self._last_tail + render_plain(self._open_text[self._last_length :]))
        return self._render()

    def finish(self) -> Rendered:
        text = self._open_text + "".join(self._pending)
        self._open_text, self._last_length, self._last_tail = "", 0, ""
        self._pending.clear()
        if estimated_us(text) > MAX_RENDER_US:
            return Rendered(render_plain(text), "")
        return Rendered(self._html(self._parse(text)), "")

    def _is_costly(self) -> bool:
        cost = update_us(self._open_text)
        if cost <= MAX_UPDATE_US:
            return False
        has_grown = len(self._open_text) > GROWTH * self._last_length
        may_have_ended = cost <= MAX_EAGER_US and has_block_end(self._open_text[max(0, self._last_length - 1) :])
        return cost > MAX_TAIL_US or not (has_grown or may_have_ended)

    def _render(self) -> Rendered:
        tokens = self._parse(self._open_text)
        split, line = settled(tokens, self._open_text.count("\n"))
        final = self._html(tokens[:split])
        self._open_text = after_line(self._open_text, line)
        self._last_length = len(self._open_text)
        self._last_tail = self._html(tokens[split:], OPEN_CODE_HIGHLIGHTED)
        return Rendered(final, self._last_tail)

    def _parse(self, text: str) -> list[Token]:
        env: dict[str, Any] = {}
        tokens = PARSER.parse(text, env)
        self.uses_references = self.uses_references or bool(env.get("references"))
        return tokens

    def _html(self, tokens: list[Token], highlight_limit: int | None = None) -> str:
        env = {"copy_label": self._copy_label, "highlight_limit": highlight_limit}
        html = PARSER.renderer.render(tokens, PARSER.options, env)
        return sanitised(html) if html else ""


def update_us(text: str) -> int:
    """Estimated cost of rendering the open text; in code, marks cost nothing and only the beginning is coloured."""
    if text.lstrip().startswith(("```", "~~~")):
        return len(text) // 4 + 3 * text.count("\n") + 2 * min(len(text), OPEN_CODE_HIGHLIGHTED)
    return estimated_us(text)


WORDS = re.compile(r"(?:[^\W_]|[ ,.:;!?'()\-–—…‘’“”、，。：；！？（）「」《》])*")
LETTER = re.compile(r"[^\W\d_]")
TEXT_END = re.compile(r"(?<=[^\s>])(?:</(?:p|li|ul|ol|blockquote|h[1-6])>\n?)+\Z")


def with_words(tail: str, before: str, new: str) -> str:
    """``tail``, the HTML of ``before``, with ``new`` added to its last line; "" if more than that may change.

    Most of a growing text is words in a paragraph or a list: they are not marks, and a line with a letter cannot begin
    another construct any more. A URL, a bracket or an entity in the line may continue; a mark at its end depends on the
    text after it; a bracket or quote may end the target or title of a link that began on an earlier line.
    """
    line = before[before.rfind("\n") + 1 :]
    shown, end = line.rstrip(), TEXT_END.search(tail)
    if end is None or not WORDS.fullmatch(new) or not LETTER.search(line):
        return ""
    if shown[-1] in "\\#*_~" or any(mark in line for mark in "]/&"):
        return ""
    if "]" in before and any(mark in new for mark in ")'\""):
        return ""
    added = (line[len(shown) :] + new).rstrip()
    return f"{tail[: end.start()]}{escape(added)}{end[0]}"


def has_block_end(text: str) -> bool:
    return any(end in text for end in ("\n\n", "\n```", "\n~~~"))


def settled(tokens: list[Token], complete_lines: int) -> tuple[int, int]:
    """(index, line) of the last block that begins with a complete line: everything before it is final.

    A block that begins in the incomplete line does not count: ``2`` after a list is a paragraph until ``. b`` makes it
    the list's next item. Nor does a formula whose last line is incomplete: it may still be part of a paragraph.
    """
    index, line = 0, 0
    for position, token in enumerate(tokens):
        if token.level > 0 or token.nesting < 0 or not token.map or token.map[0] >= complete_lines:
            continue
        is_open = token.type == "formula_block" and token.map[1] > complete_lines
        if not is_open and token.type != "formula_pending":
            index, line = position, token.map[0]
    return index, line


def after_line(text: str, line: int) -> str:
    position = 0
    for _ in range(line):
        position = text.index("\n", position) + 1
    return text[position:]

"""What our Markdown does differently from CommonMark, as rules for markdown-it.

No images (they would tell another host what was said), links that open in a new tab, addresses without brackets as
links, task lists, alignment as classes (a strict policy refuses style attributes), code blocks with a head; and limits
on what a paragraph or table may cost, as a model or a document can emit a hundred thousand brackets.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, table
from markdown_it.rules_core import StateCore
from markdown_it.token import Token
from markupsafe import escape

from webapp.web.code_block import render_code

MAX_INLINE_US = 30_000
MAX_TABLE_COLUMNS = 100
TASKS = {"[ ] ": "☐ ", "[x] ": "☑ ", "[X] ": "☑ "}
BARE_LINK = re.compile(r"https?://[!#-&(-;=?-_a-~]+")  # ASCII but for white space, quotes, <, > and backtick
LINK_END = ".,;:!?*_~|"


def estimated_us(text: str) -> int:
    """About what parsing and rendering ``text`` costs, in microseconds.

    Measured on 2 cores at 2 GHz with markdown-it-py 4.3: brackets 30-60 us each (every one looks for its partner),
    a table's cell 40, other marks about 12, a line 30, a character 2 (pygments and the sanitiser).
    """
    marks = sum(text.count(mark) for mark in "*_~`<&\\]!")
    return 2 * len(text) + 50 * text.count("[") + 40 * text.count("|") + 12 * marks + 30 * text.count("\n")


def install_rules(md: MarkdownIt) -> None:
    md.core.ruler.at("inline", parse_inline_within_limit(md))
    md.core.ruler.push("bare_links", link_bare_addresses)
    md.core.ruler.push("links", open_links_in_new_tab)
    md.core.ruler.push("tasks", mark_tasks)
    md.core.ruler.push("alignment", turn_alignment_to_classes)
    md.block.ruler.at("table", table_within_limit, {"alt": ["paragraph", "reference"]})
    md.add_render_rule("fence", render_fence)
    md.add_render_rule("code_block", render_fence)
    md.add_render_rule("image", render_image)


def parse_inline_within_limit(md: MarkdownIt) -> Callable[[StateCore], None]:
    """CommonMark's inline step, which leaves a paragraph that would take too long as plain text."""

    def parse_inline(state: StateCore) -> None:
        for token in state.tokens:
            if token.type != "inline":
                continue
            if estimated_us(token.content) > MAX_INLINE_US:
                token.children = [Token("text", "", 0, content=token.content)]
            else:
                token.children = token.children or []
                md.inline.parse(token.content, md, state.env, token.children)

    return parse_inline


def table_within_limit(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """CommonMark's table rule, but no tables of thousands of columns: short rows are filled up with empty cells."""
    if start + 1 < end and state.getLines(start + 1, start + 2, 0, False).count("|") > MAX_TABLE_COLUMNS:
        return False
    return table(state, start, end, silent)


def link_bare_addresses(state: StateCore) -> None:
    for token in state.tokens:
        is_candidate = token.type == "inline" and token.children and "http" in token.content
        if is_candidate and estimated_us(token.content) <= MAX_INLINE_US:
            token.children = with_links(token.children or [])


def with_links(tokens: list[Token]) -> list[Token]:
    """``tokens`` with addresses in the text as links, but not inside a link."""
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
    """Without the sentence's punctuation, and without a bracket that was opened before the address."""
    address = address.rstrip(LINK_END)
    while address.endswith(")") and address.count(")") > address.count("("):
        address = address[:-1].rstrip(LINK_END)
    return address


def open_links_in_new_tab(state: StateCore) -> None:
    for token in state.tokens:
        for child in token.children or []:
            if child.type == "link_open":
                child.attrs["target"] = "_blank"


def mark_tasks(state: StateCore) -> None:
    """``- [ ] thing`` shows a box; it is text, as there is nothing to tick in an answer."""
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


def render_image(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    """Its description only; nothing is fetched."""
    return f'<span class="image">🖼 {escape(tokens[index].content)}</span>'

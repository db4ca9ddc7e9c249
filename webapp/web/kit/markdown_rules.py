"""Markdown beyond CommonMark: emphasis next to Chinese punctuation, footnotes, sub- and superscript, ``<br>``.

No rule looks ahead to another block, so that a growing text renders like the complete one: a footnote stays where it
was written, and its mark is not a link.
"""

from __future__ import annotations

import io
import re
import types
import unicodedata
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import isMdAsciiPunct, isPunctChar, isWhiteSpace
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Scanned
from markdown_it.token import Token
from markupsafe import escape

from webapp.web.kit.formulas import match_line


def install(md: MarkdownIt) -> None:
    md.inline.ruler.before("strikethrough", "script", script)
    md.inline.ruler.before("emphasis", "own_name", own_name)
    md.inline.ruler.before("link", "footnote_mark", footnote_mark)
    md.inline.ruler.before("html_inline", "known_html", known_html)
    md.block.ruler.before("reference", "footnote", footnote, {"alt": ["paragraph", "reference"]})
    md.add_render_rule("script", render_script)


# emphasis


class CjkState(StateInline):
    """Where emphasis begins and ends, following the CJK-friendly amendments to CommonMark
    (github.com/tats-u/markdown-cjk-friendly): ``**中文：**后面`` and ``**“引号”**文字`` are strong, because Chinese has
    no spaces to distinguish opening from closing marks. ``2*3*4`` is not emphasis."""

    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:
        scanned = super().scanDelims(start, canSplitWord)
        end = start + scanned.length
        before = self.src[start - 1] if start > 0 else " "
        after = self.src[end] if end < self.posMax else " "
        if scanned.length == 1 and before.isdigit() and after.isdigit():
            return Scanned(False, False, 1)  # 2*3*4
        if (scanned.can_open and scanned.can_close) or not (is_cjk(before) or is_cjk(after)):
            return scanned
        opens = not is_space(after) and (is_cjk(after) or not is_punctuation(after) or may_stand_beside(before))
        closes = not is_space(before) and (is_cjk(before) or not is_punctuation(before) or may_stand_beside(after))
        if canSplitWord:
            return Scanned(opens, closes, scanned.length)
        can_open = opens and (not closes or may_stand_beside(before))
        return Scanned(can_open, closes and (not opens or may_stand_beside(after)), scanned.length)


def is_cjk(char: str) -> bool:
    """Wide characters except emoji; checks ASCII first, as the most frequent case."""
    return char > "\u1100" and unicodedata.east_asian_width(char) in "WFH" and unicodedata.category(char) != "So"


def is_space(char: str) -> bool:
    return isWhiteSpace(ord(char))


def is_punctuation(char: str) -> bool:
    return isMdAsciiPunct(ord(char)) or isPunctChar(char)


def may_stand_beside(char: str) -> bool:
    return is_cjk(char) or is_space(char) or is_punctuation(char)


KINDS: tuple[type, ...] = (object, type, int, float, str, list, dict, set, property, BaseException, io.StringIO)
KINDS += (types.FunctionType, types.ModuleType, types.MethodType, types.CodeType, types.CoroutineType)
ELSEWHERE = """
main file all version author future slots path cached builtins import getattr missing match_args post_init set_name get
set delete call bytes matmul enter exit aenter aexit copy deepcopy pycache proto dirname filename typename global device
host shared syncthreads attribute"""
OWN_NAMES = {name for kind in KINDS for name in dir(kind)} | {f"__{name}__" for name in ELSEWHERE.split()}
OWN_NAME = re.compile(r"__[a-z]+(?:_[a-z]+)*__(?!\w)", re.ASCII)


def own_name(state: StateInline, silent: bool) -> bool:
    """``__init__`` and other names in programming languages are not bold."""
    found = OWN_NAME.match(state.src, state.pos, state.posMax) if state.src[state.pos] == "_" else None
    before = state.src[max(0, state.pos - 1) : state.pos]
    if not found or found[0] not in OWN_NAMES or (before.isascii() and before.isalnum()):
        return False
    if not silent:
        state.pending += found[0]
    state.pos = found.end()
    return True


def parse_inline(md: MarkdownIt, text: str, env: Any, tokens: list[Token]) -> None:
    """As ``md.inline.parse``, with :class:`CjkState`."""
    state = CjkState(text, md, env, tokens)
    md.inline.tokenize(state)
    for rule in md.inline.ruler2.getRules(""):
        rule(state)


# sub- and superscript, <br>

SCRIPT = re.compile(r"~(\d{1,3}|[a-z])~(?!~)|\^([+-]?\d{1,3}[+-]?|[a-z]{1,2}|[+-])\^")
KNOWN_HTML = re.compile(r"<br ?/?>|<(sub|sup|kbd|mark)>([^<>\n]{1,200})</\1>", re.IGNORECASE)


def script(state: StateInline, silent: bool) -> bool:
    """``H~2~O`` and ``x^2^``: only short, and only after a letter or bracket: ``5~10`` and ``20~30`` are ranges."""
    start = state.pos
    found = SCRIPT.match(state.src, start, state.posMax) if state.src[start] in "~^" else None
    before = state.src[start - 1] if start else ""
    if not found or not before.isascii() or not (before.isalpha() or before == ")" or (found[2] and before.isdigit())):
        return False
    if not silent:
        token = state.push("script", "sub" if found[1] else "sup", 0)
        token.content = found[1] or found[2]
    state.pos = found.end()
    return True


def known_html(state: StateInline, silent: bool) -> bool:
    """A few elements without attributes, with only text in them; all other HTML is shown as source."""
    found = KNOWN_HTML.match(state.src, state.pos, state.posMax) if state.src[state.pos] == "<" else None
    if not found:
        return False
    if not silent and found[1]:
        token = state.push("script", found[1].lower(), 0)
        token.content = found[2]
    elif not silent:
        state.push("hardbreak", "br", 0)
    state.pos = found.end()
    return True


def render_script(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    return f"<{token.tag}>{escape(token.content)}</{token.tag}>"


# footnotes

LABEL = r"\[\^(\d{1,3}|(?:note|fn|ref|footnote)[-_]?\w{0,10})\]"
MARK = re.compile(LABEL + r"(?!\()")
DEFINITION = re.compile(LABEL + r":[ \t]*")


def footnote_mark(state: StateInline, silent: bool) -> bool:
    """``[^1]``. Numbers and a few words only: ``[^abc]`` may be a regular expression."""
    found = MARK.match(state.src, state.pos, state.posMax) if state.src[state.pos] == "[" else None
    if not found:
        return False
    if not silent:
        token = state.push("script", "sup", 0)
        token.content = found[1]
    state.pos = found.end()
    return True


def footnote(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """``[^1]: text``, with the following lines up to an empty line or the next footnote."""
    found = match_line(DEFINITION, state, start)
    if not found:
        return False
    if silent:
        return True
    line = start + 1
    terminators = state.md.block.ruler.getRules("paragraph")
    while line < end and not state.isEmpty(line) and state.sCount[line] >= state.blkIndent:
        if any(rule(state, line, end, True) for rule in terminators):
            break
        line += 1
    state.line = line
    opening = state.push("paragraph_open", "p", 1)
    opening.map, opening.attrs = [start, line], {"class": "footnote"}
    mark = f"[^{found[1]}] "
    text = state.getLines(start, line, state.blkIndent, False).strip()
    inline = state.push("inline", "", 0)
    inline.map, inline.content, inline.children = [start, line], mark + text[len(found[0].rstrip()) :].strip(), []
    state.push("paragraph_close", "p", -1)
    return True

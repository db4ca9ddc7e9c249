r"""Markdown beyond CommonMark: emphasis in Chinese, footnotes, sub- and superscript, ``<br>``, and formulas.

No rule looks ahead to another block, so that a growing text renders like the complete one: a footnote stays where it
was written, and its mark is not a link.

Formulas are ``$…$``, ``\(…\)`` in a line; ``$$…$$``, ``\[…\]`` and ``\begin{align}…\end{align}`` as blocks, over
several lines. A dollar sign is a price unless it closes like a formula (:func:`is_formula`). An unreadable formula is
shown as source. math-core makes MathML Core, which browsers render without a script. Of 78 formulas from models it can
read 74 (77 after :func:`as_read`; not ``\ce``). latex2mathml 3.81 rendered ``aligned`` and ``gathered`` wrong without
an error. temml 0.13 can also read 77, but is 168 kB of script that would change a page after it is shown.

math-core recurses one level for each command or brace, with about 1.3 kB of stack each, and a stack overflow ends the
process. So it runs in a thread with a stack that a formula of MAX_CHARS cannot fill (``tests/web/test_formulas.py``).
"""

from __future__ import annotations

import functools
import io
import logging
import re
import threading
import types
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.common.utils import isMdAsciiPunct, isPunctChar, isWhiteSpace
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Scanned
from markdown_it.token import Token
from markupsafe import escape


def install(md: MarkdownIt) -> None:
    md.inline.ruler.before("escape", "formula", formula_in_line)
    md.block.ruler.before(
        "fence", "formula_block", formula_block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    md.add_render_rule("formula", render_formula)
    md.add_render_rule("formula_block", render_formula)
    md.add_render_rule("formula_pending", render_pending)
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
        opens = not is_space(after) and (is_cjk(after) or not is_punctuation(after) or may_flank(before))
        closes = not is_space(before) and (is_cjk(before) or not is_punctuation(before) or may_flank(after))
        if canSplitWord:
            return Scanned(opens, closes, scanned.length)
        can_open = opens and (not closes or may_flank(before))
        return Scanned(can_open, closes and (not opens or may_flank(after)), scanned.length)


def is_cjk(char: str) -> bool:
    """Wide characters except emoji; checks ASCII first, as the most frequent case."""
    return char > "\u1100" and unicodedata.east_asian_width(char) in "WFH" and unicodedata.category(char) != "So"


def is_space(char: str) -> bool:
    return isWhiteSpace(ord(char))


def is_punctuation(char: str) -> bool:
    return isMdAsciiPunct(ord(char)) or isPunctChar(char)


def may_flank(char: str) -> bool:
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


# formulas in a text

log = logging.getLogger(__name__)
MAX_CHARS = 8000
STACK_BYTES = 64 * 2**20
MAX_LINES = 60
MAX_EXPANSIONS = 100

ENVIRONMENT = re.compile(
    r"\\begin\{((?:equation|align|aligned|gather|gathered|multline|split|cases|[bpvBV]?matrix)\*?)\}"
)
BLOCK_OPENING = re.compile(rf"\$\$(?!\$)|\\\[|{ENVIRONMENT.pattern}")
SIGNS = re.compile(r"[\\^_={}]")
PRICE = re.compile(r"\d.*(?:[\s(][A-Za-z]{2}|[\u3000-\u9fff\uff00-\uffef])", re.DOTALL)


def formula_in_line(state: StateInline, silent: bool) -> bool:
    src, start = state.src, state.pos
    opening = src[start : start + 2]
    if opening in (r"\(", r"\["):
        closing = r"\)" if opening == r"\(" else r"\]"
    elif opening == "$$":
        closing = "$$"
    elif src[start] == "$":
        opening = closing = "$"
    else:
        return False
    first = start + len(opening)
    end = closing_place(src, closing, first, min(state.posMax, first + MAX_CHARS))
    if end < 0:
        return False
    tex, after = src[first:end], end + len(closing)
    before = src[start - 1] if start else ""
    if opening == "$" and not is_formula(tex, before, src[after : after + 1]):
        return False
    if not tex.strip() or "\n\n" in tex or (opening == r"\[" and tex.strip().isdigit()):
        return False
    if not silent:
        token = state.push("formula", "math", 0)
        token.content, token.markup = tex, src[start:after]
        token.meta["is_block"] = opening in ("$$", r"\[")
    state.pos = after
    return True


def closing_place(text: str, closing: str, start: int, end: int) -> int:
    """The position of the first ``closing`` that is not escaped; -1 if there is none."""
    place = text.find(closing, start, end)
    while place > start and closing[0] == "$" and text[place - 1] == "\\":
        place = text.find(closing, place + 1, end)
    return place


def is_formula(tex: str, before: str, after: str) -> bool:
    """Whether ``$tex$`` is a formula; otherwise the first dollar sign is a price, a shell variable or similar."""
    if is_word(before) or before == "$" or is_word(after) or after == "$" or "`" in tex:
        return False
    if has_space_at_an_end(tex):
        return has_space_at_an_end(tex[:1]) and has_space_at_an_end(tex[-1:]) and bool(SIGNS.search(tex))
    return bool(SIGNS.search(tex)) or not PRICE.match(tex)


def is_word(char: str) -> bool:
    return char.isascii() and char.isalnum()


def has_space_at_an_end(text: str) -> bool:
    return text != text.strip()


def match_line(opening: re.Pattern[str], state: StateBlock, line: int) -> re.Match[str] | None:
    """Matches the beginning of a block's line; None for a line of code."""
    if state.is_code_block(line):
        return None
    return opening.match(state.src, state.bMarks[line] + state.tShift[line], state.eMarks[line])


def formula_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula on its own lines. An unclosed one in the last lines of the text is "pending": a stream must not treat
    the text above it as finished, because all may turn out to be one paragraph."""
    found = match_line(BLOCK_OPENING, state, start)
    if not found:
        return False
    closing = rf"\end{{{found[1]}}}" if found[1] else r"\]" if found[0] == r"\[" else "$$"
    lines = [state.src[found.end() : state.eMarks[start]]]
    may_have_gaps = not lines[0].strip()  # the opening is alone on its line
    line = start
    while True:
        at = closing_place(lines[-1], closing, 0, len(lines[-1]))
        if at >= 0:
            if lines[-1][at + len(closing) :].strip():
                return False
            lines[-1] = lines[-1][:at]
            break
        line += 1
        if line >= end:
            break
        is_empty = state.isEmpty(line)
        if (is_empty and not may_have_gaps) or line - start >= MAX_LINES:
            return False
        text = state.getLines(line, line + 1, state.blkIndent, False)
        if (state.sCount[line] < state.blkIndent and not is_empty) or text.lstrip().startswith(("```", "~~~")):
            return False
        lines.append(text)
    if silent:
        return True
    is_pending = line >= end
    state.line = end if is_pending else line + 1
    token = state.push("formula_pending" if is_pending else "formula_block", "math", 0)
    token.map = [start, state.line]
    token.markup = state.getLines(start, state.line, state.blkIndent, False)
    tex = "\n".join(lines)
    token.content = f"{found[0]}{tex}{closing}" if found[1] else tex
    token.meta["is_block"] = True
    return True


def render_formula(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    is_block = token.meta["is_block"]
    mathml = as_mathml(token.content.strip(), is_block)
    source = escape(token.markup.strip())
    if not mathml:
        html = f'<code class="formula-source">{source}</code>'
        return f"<p>{html}</p>\n" if token.type == "formula_block" else html
    html = mathml.replace("<math", f'<math data-tex="{source}"', 1)
    if not is_block:
        return html
    html = f'<span class="formula" tabindex="0">{html}</span>'
    return f"<p>{html}</p>\n" if token.type == "formula_block" else html


def render_pending(self: Any, tokens: list[Token], index: int, options: Any, env: Any) -> str:
    return f'<p><code class="formula-source">{escape(tokens[index].markup.strip())}</code></p>\n'


# TeX to MathML

MATH_TAGS = {
    "math", "mrow", "mi", "mo", "mn", "mtext", "mspace", "mfrac", "msqrt", "mroot", "menclose", "mpadded", "mphantom",
    "mstyle", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mmultiscripts", "mprescripts", "mtable",
    "mtr", "mtd",
}  # fmt: skip
MATH_NAMES = {
    "display", "displaystyle", "scriptlevel", "mathvariant", "mathcolor", "linethickness", "width", "height", "depth",
    "form", "lspace", "rspace", "minsize", "maxsize", "stretchy", "movablelimits", "accent", "accentunder",
}  # fmt: skip
MATH_ATTRIBUTES = {tag: MATH_NAMES | {"notation", "class"} for tag in MATH_TAGS}
MATH_ATTRIBUTES["math"] = MATH_ATTRIBUTES["math"] | {"data-tex"}
MATH_VALUE = re.compile(r"[-#.\w% ]{0,60}", re.ASCII)

MACROS = {
    "substack": r"\begin{array}{c}#1\end{array}",
    "abs": r"\left|#1\right|",
    "norm": r"\left\|#1\right\|",
    "pmb": r"\boldsymbol{#1}",
}
REWRITTEN = [
    (re.compile(r"\\(begin|end)\{(?:align|split|eqnarray)\*?\}"), r"\\\1{aligned}"),
    (re.compile(r"\\(begin|end)\{(?:gather|multline)\*?\}"), r"\\\1{gathered}"),
    (re.compile(r"\\(?:begin|end)\{equation\*?\}|\\label\{[^{}]*\}|\\(?:nonumber|notag|hfill)(?![A-Za-z])"), ""),
    (re.compile(r"\\(begin|end)\{smallmatrix\}"), r"\\\1{matrix}"),
    (re.compile(r"\\tag\*?\{([^{}]*)\}"), r"\\qquad\\text{(\1)}"),
]
DEFINES = re.compile(r"\\(?:re)?newcommand|\\providecommand|\\[egx]?def(?![A-Za-z])|\\let(?![A-Za-z])")
STYLES = {
    "text-align: left": "m-left",
    "text-align: right": "m-right",
    "padding-left: 0": "m-joined-left",
    "padding-right: 0": "m-joined-right",
    "padding-left:1em": "m-apart",
    "border-right": "m-line-right",
    "border-left": "m-line-left",
    "border-top": "m-line-top",
    "border-bottom": "m-line-bottom",
}
STYLE = re.compile(r' style="([^"]*)"')
BOLD_AND_ITALIC = re.compile(r"(</?)([bi])>")
COLOR = re.compile(r"color:\s*(#[0-9A-Fa-f]{3,8})")


@functools.lru_cache(maxsize=1024)
def as_mathml(tex: str, is_block: bool) -> str:
    """ "" for unreadable TeX. Equation numbers are left out, because each block would begin at 1."""
    if len(tex) > MAX_CHARS or DEFINES.search(tex):
        return ""
    try:
        return with_classes(_reader().submit(_read, as_read(tex), is_block).result())
    except ImportError:
        log.warning("math-core is not installed: formulas are shown as their source")
        return ""


def as_read(tex: str) -> str:
    for pattern, replacement in REWRITTEN:
        tex = pattern.sub(replacement, tex)
    return tex


def with_classes(mathml: str) -> str:
    """Our content policy refuses style attributes, and our sanitiser allows no other names for bold and italic text."""

    def replaced(found: re.Match[str]) -> str:
        color = COLOR.search(found[1])
        if color:
            return f' mathcolor="{color[1]}"'
        names = [name for style, name in STYLES.items() if style in found[1]]
        return f' class="{" ".join(names)}"' if names else ""

    mathml = STYLE.sub(replaced, mathml)
    return BOLD_AND_ITALIC.sub(lambda found: f"{found[1]}{'strong' if found[2] == 'b' else 'em'}>", mathml)


def _read(tex: str, is_block: bool) -> str:
    from math_core import LatexError

    try:
        return _converter().convert_with_local_state(tex, displaystyle=is_block)
    except LatexError:
        return ""
    except BaseException as exc:  # a Rust panic is not an Exception
        log.warning("math-core failed on a formula of %d characters: %r", len(tex), exc)
        return ""


@functools.cache
def _converter() -> Any:
    from math_core import LatexToMathML

    return LatexToMathML(
        macros=MACROS, fancy_error=False, allow_unreliable_rendering=True, max_expansions=MAX_EXPANSIONS
    )


@functools.cache
def _reader() -> ThreadPoolExecutor:
    """The thread with the large stack (address space; memory only as far as it is used)."""
    before = threading.stack_size(STACK_BYTES)
    try:
        reader = ThreadPoolExecutor(1, "formulas")
        reader.submit(int).result()  # starts the thread
    finally:
        threading.stack_size(before)
    return reader

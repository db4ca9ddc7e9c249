"""A model's output as HTML: correct, safe, and within a time limit."""

import html.parser
import time

import pytest

from tests.web.hostile_markdown import HOSTILE
from webapp.web.kit.markdown import BLOCK_TAGS, INLINE_TAGS, MAX_INLINE_US, estimated_us, render_markdown, render_plain
from webapp.web.kit.markdown_rules import MATH_ATTRIBUTES, MATH_TAGS

COPY = '<button type="button" class="code-copy">Copy</button>'
REL = 'target="_blank" rel="noopener noreferrer nofollow"'


def rendered(text):
    return render_markdown(text).strip()


@pytest.mark.parametrize(
    "text, html",
    [
        ("# A *b*", "<h1>A <em>b</em></h1>"),
        ("a\nb", "<p>a<br>\nb</p>"),
        ("~~a~~ **b** `c<d`", "<p><s>a</s> <strong>b</strong> <code>c&lt;d</code></p>"),
        ("3. a", '<ol start="3">\n<li>a</li>\n</ol>'),
        ("- [ ] a\n- [x] b", '<ul>\n<li class="task">☐ a</li>\n<li class="task">☑ b</li>\n</ul>'),
        ("[x](https://a.b/c 't')", f'<p><a href="https://a.b/c" title="t" {REL}>x</a></p>'),
        ("<b>x</b>", "<p>&lt;b&gt;x&lt;/b&gt;</p>"),
        ("![a *b*](http://x.y/z.png)", '<p><span class="image">🖼 a *b*</span></p>'),
        ("**中文：**后面", "<p><strong>中文：</strong>后面</p>"),
        ("前**“引号”**文字", "<p>前<strong>“引号”</strong>文字</p>"),
        ("__中文：__后面 ~~删。~~后", "<p><strong>中文：</strong>后面 <s>删。</s>后</p>"),
        ("__init__ or __main__.py, __name__", "<p>__init__ or __main__.py, __name__</p>"),
        ("__init__中 __bold__ ___init___", "<p>__init__中 <strong>bold</strong> <em><strong>init</strong></em></p>"),
        ("a **b**c **d.**e", "<p>a <strong>b</strong>c **d.**e</p>"),
        ("2*3*4 = 24", "<p>2*3*4 = 24</p>"),
        ("H~2~O x^2^ 10^-3^", "<p>H<sub>2</sub>O x<sup>2</sup> 10<sup>-3</sup></p>"),
        ("5~10 和 20~30，~5~", "<p>5~10 和 20~30，~5~</p>"),
        ("H<sub>2</sub>O<br>a<BR/>b", "<p>H<sub>2</sub>O<br>\na<br>\nb</p>"),
        ("<sub onclick=x>a</sub>", "<p>&lt;sub onclick=x&gt;a&lt;/sub&gt;</p>"),
        (
            "a[^1] [^abc]\n\n[^1]: *b*\nc",
            '<p>a<sup>1</sup> [^abc]</p>\n<p class="footnote"><sup>1</sup> <em>b</em><br>\nc</p>',
        ),
        ("", ""),
    ],
)
def test_markdown(text, html):
    assert rendered(text) == html


def test_a_table_has_its_alignment_as_classes():
    html = rendered("|a|b|c|\n|-|:-:|-:|\n|1|2|3|")
    assert '<td>1</td>\n<td class="ta-center">2</td>\n<td class="ta-right">3</td>' in html and "style" not in html


def test_code_has_a_head_with_language_and_copy_button():
    html = rendered('```python title="x"\nx = 1\n```')
    assert html.startswith(f'<pre><span class="code-head"><span class="code-language">python</span>{COPY}</span>')
    assert '<code class="language-python"><span class="n">x</span>' in html


@pytest.mark.parametrize("info", ["", "no-such-language", "<b>"])
def test_code_without_known_language_is_plain(info):
    assert f"{COPY}</span><code" in rendered(f"```{info}\na < b\n```") and "a &lt; b\n</code>" in rendered(
        "```\na < b\n```"
    )


def test_code_keeps_its_empty_lines_and_its_end():
    assert rendered("```python\n\n\nx\n```").count("\n") == 3


def test_the_copy_button_is_labelled_and_the_label_escaped():
    assert ">复制<" in render_markdown("```\nx\n```", copy_label="复制")
    assert "<i>" not in render_markdown("```\nx\n```", copy_label="<i>")


@pytest.mark.parametrize(
    "text, address",
    [
        ("see https://a.b/c_d_e?f=g&h=1.", "https://a.b/c_d_e?f=g&amp;h=1"),
        ("(https://a.b/c)", "https://a.b/c"),
        ("https://a.b/c_(d), e", "https://a.b/c_(d)"),
        ("见https://a.b/c。好", "https://a.b/c"),
        ("<https://a.b>", "https://a.b"),
    ],
)
def test_bare_addresses_are_links(text, address):
    assert f'<a href="{address}" {REL}>{address}</a>' in rendered(text)


@pytest.mark.parametrize("text", ["`https://a.b`", "```\nhttps://a.b\n```", "xhttp", "ftp://a.b"])
def test_what_is_no_bare_address(text):
    assert "<a " not in rendered(text)


@pytest.mark.parametrize(
    "text, host",
    [
        ("[https://bank.example](https://evil.example/login)", "evil.example"),
        ("[**https://bank.example/a**](https://bank.example.evil.example)", "bank.example.evil.example"),
        ("[www.bank.example](https://bank.example@evil.example)", "evil.example"),
        ("[https://b\u0430nk.example](https://b\u0430nk.example)", "xn--bnk-6cd.example"),
        ("[https://bank.example\u202e](https://evil.example)", "evil.example"),
        ("[Sign in at **https://bank.example**](https://evil.example)", "evil.example"),
        ("[登录www.bank.example](https://evil.example)", "evil.example"),
    ],
)
def test_a_link_that_shows_another_address_names_where_it_leads(text, host):
    assert f"</a> ({host})</p>" in rendered(text)


@pytest.mark.parametrize(
    "text",
    [
        "[https://a.b/c](https://www.a.b/d)",
        "[www.a.b](http://a.b)",
        "[The docs (https://a.b), again.](https://a.b)",
        "[文档：https://a.b。](https://a.b)",
        "[awww.c, https://](https://a.b)",
        "[node.js](https://nodejs.org)",
        "https://A.b/c",
        "[http](https://a.b)",
        "[x](https://[)",
    ],
)
def test_a_link_that_hides_nothing_stays_as_it_is(text):
    assert rendered(text).endswith(("</a></p>", "[x](https://[)</p>"))


@pytest.mark.parametrize("text", ["`a\u202eb`", "```python\na = 1 # \u202eb\n```", "```\n\u202eb\n```", "    \u202eb"])
def test_what_turns_the_direction_of_code_is_closed_in(text):
    assert '<span class="bc">\u202e</span>' in rendered(text)


def test_a_link_inside_a_link_text_stays_one_link():
    assert rendered("[https://a.b](https://c.d)").count("<a ") == 1


class Checker(html.parser.HTMLParser):
    """Collects every element and attribute that is not on the list, independently of the sanitiser."""

    allowed = frozenset(("href", "title", "target", "rel", "class", "start", "type", "tabindex"))

    def __init__(self):
        super().__init__()
        self.bad = []

    def handle_starttag(self, tag, attrs):
        if tag not in BLOCK_TAGS | INLINE_TAGS | MATH_TAGS:
            self.bad.append(tag)
        for name, value in attrs:
            if tag in MATH_TAGS and name in MATH_ATTRIBUTES[tag]:
                continue
            is_bad_link = name == "href" and not (value or "").lower().startswith(("http://", "https://", "mailto:"))
            if name not in self.allowed or is_bad_link or (name == "type" and value != "button"):
                self.bad.append((tag, name, value))

    def handle_comment(self, data):
        self.bad.append(("comment", data))

    handle_decl = handle_pi = handle_comment


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("render", [render_markdown, render_plain])
def test_nothing_hostile_survives(render, text):
    checker = Checker()
    checker.feed(render(text))
    checker.close()
    assert checker.bad == []


def test_there_are_as_many_hostile_inputs_as_were_collected():
    assert len(HOSTILE) >= 150


N = 100_000
COSTLY = {
    "stars": "*" * N, "underscores": "_" * N, "brackets": "[" * N, "backticks": "`" * N, "images": "![[](" * (N // 5),
    "emphasis": "a**b" * (N // 4), "mixed": "*_" * (N // 2), "quotes": "> " * (N // 2) + "a",
    "lists": "- " * (N // 2) + "a", "angles": "<" * N, "ampersands": "&" * N, "one line": "word " * (N * 2),
    "wide table": "|" + "a|" * 3000 + "\n|" + "-|" * 3000 + "\n" + "|a\n" * 3000, "lines": "a\n" * (N // 2),
    "links": "[a](b)" * (N // 6), "addresses": "https://a.b/c " * (N // 14), "tildes": "~~a" * (N // 3),
    "definitions": "".join(f"[a{number}]: b\n" for number in range(5000)), "million lines": "\n" * 1_000_000,
    "dollars": "$" * N, "formulas": "$x_1$ " * (N // 6), "open formulas": "$$\n" * (N // 3),
    "parentheses": "\\(" * (N // 2),
    "open blocks": "\\[ a\n" * (N // 5), "footnotes": "[^1]: a\n" * (N // 8), "marks": "[^1]" * (N // 4),
    "scripts": "a^2^" * (N // 4),
    "breaks": "<br>" * (N // 4), "环": "**中：**" * (N // 6), "fences": "$$\n\n" * (N // 4),
    "million": "a b\n\n" * 250_000, **{f"million {mark}": mark * 1_000_000 for mark in "[*|$>-`\\<"},
    "steps": "\n".join("  " * depth + "- a" for depth in range(1500)), "ticks": "a".join("`" * n for n in range(900)),
    "quotes in quotes": "\n".join(">" * depth + " a" for depth in range(900)), "entities": "&#x5b;" * (N // 6),
    "pipes": "|a" * 40 + "\n" + "|-" * 40 + "\n" + ("|`*" * 40 + "\n") * 400, "titles": '[a](b "' * (N // 7),
    "long link": "[" + "a" * N + "](https://a.b/" + "c" * N + ")", "bidi": "`\u202e`" * (N // 3),
}  # fmt: skip


@pytest.mark.parametrize("name", COSTLY)
def test_no_input_takes_long(name):
    """Most take milliseconds, the worst about a second. CPU time of this process, with a margin for a busy machine."""
    start = time.process_time()
    render_markdown(COSTLY[name])
    assert time.process_time() - start < 6


def test_a_costly_paragraph_is_plain_text_and_the_others_are_not():
    html = rendered("*a*\n\n" + "[*" * 2000 + "\n\n*b*")
    assert "<em>a</em>" in html and "<em>b</em>" in html and "[*" * 2000 in html
    assert estimated_us("[*" * 2000) > MAX_INLINE_US > estimated_us("an **ordinary** [paragraph](https://a.b) " * 50)


def test_deep_nesting_is_flattened():
    assert rendered("> " * 500 + "a").count("<blockquote>") <= 20

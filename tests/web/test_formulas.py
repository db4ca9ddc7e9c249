"""Formulas: which text is one, and that parsing one never harms the server."""

import re
import time

import pytest

from tests.web.markdown_texts import FORMULAS
from webapp.web.kit import markdown_rules
from webapp.web.kit.markdown import render_markdown
from webapp.web.kit.markdown_rules import MAX_CHARS, as_mathml


def sources(text):
    """The sources of the rendered formulas."""
    return re.findall(r'data-tex="([^"]*)"', render_markdown(text))


@pytest.mark.parametrize("tex", FORMULAS)
def test_a_formula_is_read(tex):
    assert as_mathml(tex, True).startswith("<math")
    assert 'data-tex="' in render_markdown(f"$${tex}$$")


@pytest.mark.parametrize(
    "text, found",
    [
        ("a $x$ b", ["$x$"]),
        ("$a$，$b$和$c$。", ["$a$", "$b$", "$c$"]),
        (r"\(a_1\) and \[b_2\]", [r"\(a_1\)", r"\[b_2\]"]),
        ("$$x$$ and $$y$$ more", ["$$x$$", "$$y$$"]),
        ("text:\n$$\na\n- b\n+ c\n$$\nmore", ["$$\na\n- b\n+ c\n$$"]),
        ("\\[\n\na\n\n\\]", ["\\[\n\na\n\n\\]"]),
        ("\\begin{align}\na &= b\n\\end{align}", ["\\begin{align}\na &amp;= b\n\\end{align}"]),
        ("- item\n  $$\n  x\n  $$", ["$$\nx\n$$"]),
        ("**$x = 2$** and *$y$*", ["$x = 2$", "$y$"]),
        ("$ x^2 $", ["$ x^2 $"]),
        ("$2ab$ and $5$", ["$2ab$", "$5$"]),
        ("| $a$ |\n|---|\n| $b$ |", ["$a$", "$b$"]),
    ],
)
def test_what_is_a_formula(text, found):
    assert sources(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "costs $5 and $10",
        "from $5-$10, or 5$ (maybe) to 6$",
        "$5 (or 6$)",
        "价格$5，而他有10$。",
        "从$10涨到$20",
        "**$5**–**$10**",
        "US$5 and US$6",
        "$HOME and $PATH",
        "echo $a$b",
        r"\$5 and \$6",
        "`$x$`",
        "```\n$$\nx\n$$\n```",
        "    $$x$$",
        r"see \[1\]",
        "$$$",
        "$$",
        "$$ unclosed\n\nparagraph",
    ],
)
def test_what_is_none(text):
    assert sources(text) == []


def test_a_price_keeps_its_words():
    assert render_markdown("costs $5 and $10.") == "<p>costs $5 and $10.</p>\n"


def test_what_cannot_be_read_shows_its_source():
    html = render_markdown(r"a $\nosuchthing{x}$ b")
    assert r'<code class="formula-source">$\nosuchthing{x}$</code>' in html


def test_definitions_are_not_followed():
    assert as_mathml(r"\newcommand{\a}{\a\a}\a", False) == "" and as_mathml(r"\def\a{\a\a}\a", False) == ""


def test_no_style_attribute_is_left_for_the_policy_to_refuse():
    html = render_markdown("\n\n".join(f"$${tex}$$" for tex in FORMULAS))
    assert " style=" not in html and 'class="m-right' in html and 'mathcolor="#FF0000"' in html


def test_without_the_library_the_source_is_shown(monkeypatch):
    def missing(tex, is_block):
        raise ImportError

    as_mathml.cache_clear()
    monkeypatch.setattr(markdown_rules, "_read", missing)
    assert '<code class="formula-source">$x$</code>' in render_markdown("$x$")
    as_mathml.cache_clear()


N = MAX_CHARS
DEEP = {
    "braces": "{" * (N // 2) + "}" * (N // 2), "open": "{" * N, "roots": r"\sqrt" * (N // 5),
    "hats": r"\hat" * (N // 4),
    "fractions": r"\frac{" * (N // 12) + "1" + "}{2}" * (N // 12), "powers": "x^{" * (N // 4) + "}" * (N // 4),
    "brackets": r"\left(" * (N // 13) + r"\right)" * (N // 13), "not": r"\not" * (N // 4), "primes": "'" * N,
    "tables": r"\begin{matrix}" * (N // 28) + r"\end{matrix}" * (N // 28), "rows": r"\\" * (N // 2), "cells": "&" * N,
    "options": r"\sqrt[" * (N // 8) + "]x" * (N // 8), "colours": r"\color{red}" * (N // 11),
    "text": r"\text{" * (N // 6),
    "choose": "{" * (N // 4) + r"\choose" + "}" * (N // 4),
    "columns": r"\begin{array}{" + "c|" * (N // 3) + r"}x\end{array}",
}  # fmt: skip


@pytest.mark.parametrize("name", DEEP)
def test_no_formula_fills_the_stack_or_takes_long(name):
    """Otherwise the process would crash: math-core recurses in Rust."""
    began = time.process_time()
    as_mathml(DEEP[name][:N], True)
    assert time.process_time() - began < 5
    assert as_mathml("x", False) == "<math><mi>x</mi></math>"


def test_a_formula_that_is_too_long_is_left_alone():
    assert as_mathml("x" * (MAX_CHARS + 1), False) == ""

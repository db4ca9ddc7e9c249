"""A growing text: finished blocks are rendered once, the open one again, and the final HTML is the same."""

import random

import pytest

from tests.web.markdown_texts import TEXTS
from webapp.web.kit import markdown
from webapp.web.kit.markdown import MarkdownStream, render_markdown

TEXT = """# Title

A paragraph with **bold**, `code` and a [link](https://a.b).
Second line.

1. one

2. two
   - nested *x*

   more of two

10. ten

- a
- b

* other list

```python
def f(x):

    return "``` not the end"
```

> quote
> more

| a | b |
|---|--:|
| 1 | 2 |

Setext
------

    indented

    code

***

- [x] done

Last with https://a.b/c, the end.
"""


def streamed(text, cuts, stream=None):
    stream = stream or MarkdownStream()
    finals, position = [], 0
    for cut in [*cuts, len(text)]:
        stream.feed(text[position:cut])
        final, tail = stream.update()
        finals.append(final)
        position = cut
    final, tail = stream.finish()
    assert tail == ""
    return "".join([*finals, final])


@pytest.mark.parametrize("seed", range(40))
def test_however_it_is_cut_the_joined_html_is_that_of_the_whole(seed):
    chance = random.Random(seed)
    cuts = sorted(chance.sample(range(1, len(TEXT)), chance.choice([3, 30, 300])))
    assert streamed(TEXT, cuts) == render_markdown(TEXT)


def test_character_by_character():
    assert streamed(TEXT, range(1, len(TEXT))) == render_markdown(TEXT)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize("step", [1, 2, 7])
def test_texts_as_models_write_them_end_in_the_same_html(text, step):
    stream = MarkdownStream()
    html = streamed(text, range(step, len(text), step), stream)
    assert stream.uses_references or html == render_markdown(text)


def test_a_formula_that_is_open_leaves_what_is_above_it_open():
    stream = MarkdownStream()
    stream.feed("text\n$$\nx\n")
    assert stream.update().final == ""
    stream.feed("$$\nmore\n")
    assert stream.update().final.startswith("<p>text</p>")


def test_what_is_shown_at_any_moment_is_all_of_the_text():
    stream, finals = MarkdownStream(), ""
    for word in TEXT.split(" "):
        stream.feed(word + " ")
        final, tail = stream.update()
        finals += final
        last = word.split()[-1].strip("*`|.#-") if word.split() else ""
        assert not last.isalpha() or last in finals + tail


def test_only_the_open_block_is_rendered_again(monkeypatch):
    sizes = []
    original = MarkdownStream._parse
    monkeypatch.setattr(MarkdownStream, "_parse", lambda self, text: sizes.append(len(text)) or original(self, text))
    paragraph = "Some words of a paragraph, **bold** too.\n\n"
    streamed(paragraph * 200, range(20, len(paragraph) * 200, 20))
    assert max(sizes) < 3 * len(paragraph)


@pytest.mark.parametrize(
    ("before", "new"),
    [
        ("A heron", "s wade"),
        ("A heron ", "wades "),
        ("一只苍鹭", "，站在河里。"),
        ("# Herons", " wade"),
        ("- one\n- tw", "o, not three"),
        ("1. one\n   - a", "nd b"),
        ("> said", " (he)"),
        ("**bo", "ld"),
        ("Bonjour\u202f", "!"),
        ("一\u3000", "二"),
    ],
)
def test_words_are_added_to_the_open_line_without_reading_it_again(before, new, monkeypatch):
    stream, whole = MarkdownStream(), MarkdownStream()
    whole.feed(before + new)
    stream.feed(before)
    assert stream.update().tail
    expected = whole.update().tail
    monkeypatch.delattr(MarkdownStream, "_parse")
    stream.feed(new)
    assert stream.update() == ("", expected)


@pytest.mark.parametrize(
    ("before", "new"),
    [
        ("1", ". one"),
        ("-", " one"),
        ("See https://a.b", ".c"),
        ("See https://", "a"),
        ("_so_", "so"),
        ("[a](mailto", ":b)"),
        ("x &am", "p; y"),
        ("a\n", "b"),
        ("```\nx", " y"),
        ("", "word"),
        ("two  ", "\nlines"),
        ("a \\", ", b"),
        ("so \\", "(x"),
        ("## Issue #", "1"),
        ("*a**", "b"),
        ("[a](\nhttp:b", ")"),
        ("[a](http:b\n'c", "')"),
        ("[a]: http:b\n'c", "'"),
    ],
)
def test_what_may_change_more_than_the_open_line_is_rendered_again(before, new):
    stream, whole = MarkdownStream(), MarkdownStream()
    whole.feed(before + new)
    stream.feed(before)
    stream.update()
    stream.feed(new)
    assert stream.update() == whole.update()


def test_update_with_is_last_finishes():
    stream = MarkdownStream()
    stream.feed("*a*")
    assert stream.update(True) == ("<p><em>a</em></p>\n", "")


def test_an_empty_stream():
    stream = MarkdownStream()
    assert stream.update() == ("", "") and stream.finish() == ("", "")


def test_a_reference_defined_late_asks_for_the_whole():
    stream = MarkdownStream()
    html = streamed("See [this][a].\n\nMore.\n\n[a]: https://a.b\n", range(1, 50, 5), stream)
    assert stream.uses_references and "<a " not in html
    plain = MarkdownStream()
    streamed(TEXT, [100], plain)
    assert not plain.uses_references


def test_an_open_code_block_has_its_head_and_colours():
    stream = MarkdownStream("Kopieren")
    stream.feed("```python\nx = 'a")
    final, tail = stream.update()
    assert final == "" and "Kopieren" in tail and '<span class="n">x</span>' in tail


def test_a_long_open_code_block_gets_its_colours_at_the_end():
    code = "```python\n" + "x = 1\n" * 2000
    stream = MarkdownStream()
    stream.feed(code)
    assert '<span class="n">' not in stream.update().tail
    stream.feed("```\n\nnext\n")
    assert '<span class="n">' in stream.update().final


def test_a_costly_open_block_shows_new_text_plain_until_it_pays_to_render():
    stream = MarkdownStream()
    items = "".join(f"- **item** {number}\n" for number in range(1000))
    stream.feed(items)
    assert stream.update().tail.count("<li>") == 1000
    stream.feed("- new *one*\n")
    tail = stream.update().tail
    assert tail.count("<li>") == 1000 and tail.endswith("<p>- new *one*<br></p>")
    assert stream.finish().final.count("<li>") == 1001


def test_after_a_costly_block_the_next_is_rendered_at_once():
    stream = MarkdownStream()
    stream.feed("".join(f"- **item** {number}\n" for number in range(1000)))
    stream.update()
    stream.feed("\nAnd *then* more.\n")
    final, tail = stream.update()
    assert final.count("<li>") == 1000 and "<em>then</em>" in tail


@pytest.mark.parametrize("pattern", ["- a **b**\n", "[*", "word ", "<&", "a\n", "|a|b|\n|-|-|\n", "```\nx\n", "> - "])
def test_all_updates_of_a_long_text_together_stay_linear(pattern, monkeypatch):
    """Counts parsed characters; rendering the open block at every update would parse a hundred times the text."""
    parsed = []
    original = MarkdownStream._parse
    monkeypatch.setattr(MarkdownStream, "_parse", lambda self, text: parsed.append(len(text)) or original(self, text))
    text = pattern * (30_000 // len(pattern))
    streamed(text, range(300, len(text), 300))
    assert sum(parsed) < 25 * len(text)


def test_the_estimate_for_code_ignores_marks():
    code = "x[0] * y[1]\n" * 100
    assert markdown.update_us(f"```\n{code}") < markdown.update_us(code)

"""Code, tables and formulas in messages: their buttons, and what is copied."""

import pytest

from tests.browser.acting import ANSWER, ask, expect, send, until, until_true, wait_done, wait_ready
from tests.wording import text

TEXT = """Look:

```python
print("a line that is far longer than the column of the page is wide, so that it has to be scrolled or be wrapped")
```

| 名称 | Price, old | Formula |
|---|--:|---|
| a<br>b | -5 | $x^2$ |
| =1+1 | "q" | +1 % |

Then $E = mc^2$ holds, and

$$
a_1 = \\frac{1}{2}
$$

is next.
"""


@pytest.fixture
def page(own_roost, visit, says):
    says(TEXT)
    page = visit(own_roost.url, permissions=["clipboard-read", "clipboard-write"])
    ask(page)
    return page


def clipboard(page, selector):
    """The clipboard after a press on that button."""
    page.evaluate("navigator.clipboard.writeText('')")
    page.click(selector)
    until(page, "navigator.clipboard.readText()")
    return page.evaluate("navigator.clipboard.readText()")  # at once: a copy comes whole


def test_code_is_wrapped_and_saved(page):
    width = "document.querySelector('.answer pre').scrollWidth - document.querySelector('.answer pre').clientWidth"
    until(page, f"{width} > 0")
    page.click(f"{ANSWER} .code-wrap")
    until(page, f"{width} <= 0")
    expect(page, f"{ANSWER} .code-wrap").to_have_attribute("aria-pressed", "true")
    with page.expect_download() as download:
        page.click(f"{ANSWER} .code-save")
    assert download.value.suggested_filename == "code.py"
    assert download.value.path().read_text(encoding="utf-8").startswith('print("a line')


def test_a_table_is_copied_as_csv_that_no_spreadsheet_runs(page):
    page.hover(f"{ANSWER} table")
    csv = clipboard(page, f"{ANSWER} .table-csv")
    assert csv == '名称,"Price, old",Formula\r\n"a\nb",-5,$x^2$\r\n\'=1+1,"""q""",+1 %'


def test_a_selection_is_copied_with_the_source_of_its_formulas(page):
    prose = "document.querySelector('.answer [data-channel=content]')"
    page.evaluate("navigator.clipboard.writeText('')")
    page.evaluate(f"getSelection().selectAllChildren({prose})")
    page.evaluate("document.execCommand('copy')")
    until(page, "navigator.clipboard.readText()")
    copied = page.evaluate("navigator.clipboard.readText()")  # at once: a copy comes whole
    assert "Wrap" not in copied and "Then $E = mc^2$ holds, and" in copied and "$$\na_1 = \\frac{1}{2}\n$$" in copied


def test_the_answer_is_copied_as_it_was_written(page):
    page.hover(ANSWER)
    assert clipboard(page, f"{ANSWER} [data-copy]") == TEXT.strip()


def test_a_question_shows_its_code_and_lists_and_is_copied_and_edited_as_typed(own_roost, visit, says):
    says("Yes.")
    page = visit(own_roost.url, permissions=["clipboard-read", "clipboard-write"])
    question = "Why?\n\n```js\nlet a = 1;\n```\n\n- one\n- **two**"
    wait_ready(page)
    send(page, question)
    page.wait_for_selector(".user pre .kd, .user pre .kr, .user pre code span")
    expect(page, ".user li").to_have_count(2)
    expect(page, ".user li strong").to_have_text("two")
    wait_done(page)
    page.hover(".user")
    assert clipboard(page, ".user [data-copy]") == question
    page.click(".user [data-edit]")
    expect(page, ".edit textarea").to_have_value(question)


def test_words_alone_are_shown_as_they_were_typed(own_roost, visit, says):
    says("Yes.")
    page = visit(own_roost.url)
    ask(page, "one\n    two   <b>three</b> * four")
    expect(page, ".bubble").to_have_js_property("textContent", "one\n    two   <b>three</b> * four")


def test_mermaid_is_rendered_in_the_frame_on_request(own_roost, visit, says):
    hostile = 'A["<img src=x onerror=parent.pwned=1>"]'
    says(f"```mermaid\ngraph TD\n  {hostile} --> B[写代码]\n```\n\n```mermaid\nnonsense {{{{\n```\n")
    page = visit(own_roost.url)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.expected += ["policy", "Refused", "violates", "Content Security Policy", "ERR_"]
    ask(page)
    assert not [url for url in asked if "mermaid" in url]
    for place in (0, 1):
        page.click(f"{ANSWER} .code-preview >> nth={place}")
    until_true(page, lambda: len(page.frames) == 3)
    drawn, failed = page.frames[1:]
    drawn.wait_for_selector("svg >> text=写代码")
    failed.wait_for_selector("pre")
    expect(failed, "pre").to_contain_text(text("chat.preview.failed"))
    assert page.evaluate("window.pwned === undefined")  # at once: both frames have drawn
    assert len([url for url in asked if "mermaid" in url]) == 1

"""Code, tables and formulas in messages: what can be done with them, and what is copied."""

import pytest

from tests.browser.acting import ANSWER, ask, until_true
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
    page.click(selector)
    page.wait_for_selector(f"{selector}[data-said]")
    return page.evaluate("navigator.clipboard.readText()")


def test_code_is_wrapped_and_saved(page):
    width = "document.querySelector('.answer pre').scrollWidth - document.querySelector('.answer pre').clientWidth"
    assert page.evaluate(width) > 0
    page.click(f"{ANSWER} .code-wrap")
    assert page.evaluate(width) <= 0 and page.get_attribute(f"{ANSWER} .code-wrap", "aria-pressed") == "true"
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
    page.evaluate(f"getSelection().selectAllChildren({prose})")
    page.evaluate("document.execCommand('copy')")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert "Wrap" not in copied and "Then $E = mc^2$ holds, and" in copied and "$$\na_1 = \\frac{1}{2}\n$$" in copied


def test_the_answer_is_copied_as_it_was_written(page):
    page.hover(ANSWER)
    assert clipboard(page, f"{ANSWER} [data-copy]") == TEXT.strip()


def test_a_question_shows_its_code_and_lists_and_is_copied_and_edited_as_typed(own_roost, visit, says):
    says("Yes.")
    page = visit(own_roost.url, permissions=["clipboard-read", "clipboard-write"])
    question = "Why?\n\n```js\nlet a = 1;\n```\n\n- one\n- **two**"
    page.wait_for_selector("body.is-live")
    page.fill("#prompt", question)
    page.press("#prompt", "Enter")
    page.wait_for_selector(".user pre .kd, .user pre .kr, .user pre code span")
    assert page.locator(".user li").count() == 2 and page.inner_text(".user li strong") == "two"
    page.wait_for_selector(f"{ANSWER}:not(.is-streaming)")
    page.hover(".user")
    assert clipboard(page, ".user [data-copy]") == question
    page.click(".user [data-edit]")
    assert page.input_value(".edit textarea") == question


def test_words_alone_are_shown_as_they_were_typed(own_roost, visit, says):
    says("Yes.")
    page = visit(own_roost.url)
    ask(page, "one\n    two   <b>three</b> * four")
    assert page.text_content(".bubble") == "one\n    two   <b>three</b> * four"


def test_mermaid_is_drawn_in_the_frame_when_asked_for(own_roost, visit, says):
    hostile = 'A["<img src=x onerror=parent.pwned=1>"]'
    says(f"```mermaid\ngraph TD\n  {hostile} --> B[写代码]\n```\n\n```mermaid\nnonsense {{{{\n```\n")
    page = visit(own_roost.url)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.expected += ["policy", "Refused", "violates", "Content Security Policy", "ERR_"]
    ask(page)
    assert not [url for url in asked if "mermaid" in url]
    for button in page.query_selector_all(f"{ANSWER} .code-preview"):
        button.click()
    until_true(page, lambda: len(page.frames) == 3)
    drawn, failed = page.frames[1:]
    drawn.wait_for_selector("svg >> text=写代码")
    failed.wait_for_selector("pre")
    assert text("chat.preview.failed") in failed.inner_text("pre") and page.evaluate("window.pwned === undefined")
    assert len([url for url in asked if "mermaid" in url]) == 1

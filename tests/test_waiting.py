"""A wait that timed out is run once more, a wrong value never, as pyproject.toml tells pytest-rerunfailures. And tests
wait for the content of a page."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = """
import pytest
from tests.waiting import wait_until

asked = []

def second(name):
    asked.append(name)
    return asked.count(name) > 1

def times_out():
    if not second("timeout"):
        raise TimeoutError("timed out")

def test_wait():
    is_second = second("wait")
    wait_until(lambda: is_second, timeout_s=0)

def test_timeout():
    times_out()

def test_wrong():
    assert second("wrong"), "a Timeout: of nothing"

def test_wrong_after_a_timeout():
    try:
        times_out()
        raise TimeoutError
    except TimeoutError:
        assert second("wrong after")
"""


def test_only_a_wait_that_ran_out_is_tried_again(tmp_path):
    (tmp_path / "test_sample.py").write_text(TESTS)
    options = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path), "-n", "0"]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment)
    assert re.search(r"\n2 failed, 2 passed, 2 rerun in ", done.stdout), done.stdout + done.stderr
    assert re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.M) == ["test_wrong", "test_wrong_after_a_timeout"]
    assert re.findall(r"^RERUN \S+::(\w+)", done.stdout, re.M) == ["test_wait", "test_timeout"]


READS = r"\.count\(\)|\.(evaluate|inner_|text_content|input_value|get_attribute|is_[a-z]+|title|bounding_box)\w*\("
"""Calls that return a page's state at this moment."""
READS += r"|\.(all_inner_texts|all_text_contents|query_selector|content)\w*\(|\bpage\.url\b"
"""More of these calls, and a name."""


def reads(code, names=()):
    return re.search("|".join([READS, *(rf"\b{name}\b" for name in names)]), ast.unparse(code))


def at_once(source):
    """Lines that sleep, or assert a page's state at that moment, also through a variable or a function; except lines
    with ``# at once: WHY``."""
    tree, lines, found = ast.parse(source), source.splitlines(), {}
    marked = {number for number, line in enumerate(lines, 1) if re.search("# at once: .", line)}

    def walk(node, kind):
        nodes = [one for one in ast.walk(node) if isinstance(one, kind)]
        return [one for one in nodes if marked.isdisjoint(range(one.lineno, one.end_lineno + 1))]

    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    readers = {function.name for function in functions if any(map(reads, walk(function, ast.Return)))}
    for function in functions:
        targets = [target for one in walk(function, ast.Assign) if reads(one.value) for target in one.targets]
        names = readers | {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        looks = [one for one in walk(function, ast.Assert) if reads(one.test, names)]
        sleeps = [one for one in walk(function, ast.Call) if ast.unparse(one.func).endswith(".wait_for_timeout")]
        found |= {one.lineno: lines[one.lineno - 1].strip() for one in (*looks, *sleeps)}
    return found


def test_no_browser_test_asserts_a_pages_content_without_waiting():
    """The page may be late: use ``expect`` or ``until`` of tests/browser/acting.py."""
    walks = sorted((ROOT / "tests" / "browser").glob("test_*.py"))
    found = {path.name: at_once(path.read_text(encoding="utf-8")) for path in walks}
    assert walks
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_look_at_once_is_found_in_each_of_its_forms():
    for line in (
        "assert page.locator('.card').count() == 0",
        "assert not page.is_visible('#stop') and 1",
        "assert page.url.endswith('/')",
        "text = page.inner_text('.a').strip()\n    assert text == 'b'",
        "assert titles(page) == []",
        "page.wait_for_timeout(300)",
    ):
        source = f"def titles(page):\n    return page.all_inner_texts()\ndef test(page):\n    {line}"
        assert len(at_once(source)) == 1, line
        assert not at_once(f"{source}  # at once: the server has answered"), line
    assert not at_once("def test(page):\n    assert [1].count(1) == 1\n    expect(page, '.card').to_have_count(0)")

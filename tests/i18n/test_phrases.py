"""What an error says in its reason is said in the reader's language too, and no reason is forgotten."""

import argparse
import ast
import errno
import inspect
import json
import os
import pickle
import sys
from pathlib import Path

import pytest

from tests.errors import raises_code
from tests.i18n.test_catalogue import placeholders
from webapp.errors import ToolInvalid, WeightsError, error_from_dict, translate_error
from webapp.i18n import Phrase, phrase
from webapp.i18n.translation import catalogue
from webapp.storage.database import Database

WEBAPP = Path(__file__).resolve().parents[2] / "webapp"
SAID_BY_SQLITE = (
    "database or disk is full",
    "database is locked",
    "attempt to write a readonly database",
    "disk I/O error",
    "unable to open database file",
    "database disk image is malformed",
    "file is not a database",
)


def code():
    for path in sorted(WEBAPP.rglob("*.py")):
        yield path.relative_to(WEBAPP).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def templates():
    """(file, template) of every Phrase made anywhere; None where it is no literal."""
    for path, tree in code():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Phrase":
                literal = node.args[0] if node.args else None
                yield path, literal.value if isinstance(literal, ast.Constant) else None


def chinese():
    texts = catalogue().texts["zh"]
    return {key.removeprefix("phrase."): text for key, text in texts.items() if key.startswith("phrase.")}


@pytest.fixture
def in_chinese(monkeypatch):
    def put(template, text):
        monkeypatch.setitem(catalogue().texts["zh"], f"phrase.{template}", text)

    return put


def test_a_phrase_is_its_english_text():
    reason = Phrase("it has {found} characters", found=9)
    assert reason == "it has 9 characters" and isinstance(reason, str)
    assert WeightsError(path="x", reason=reason).message == "x cannot be used: it has 9 characters"


def test_a_phrase_is_translated_with_its_values(in_chinese):
    in_chinese("it has {found} at {place}", "{place}有 {found}")
    in_chinese("the end", "末尾")
    error = WeightsError(path="x", reason=Phrase("it has {found} at {place}", found="{9}", place=Phrase("the end")))
    assert (
        "末尾有 {9}" in translate_error(error, "zh")[0] and "it has {9} at the end" in translate_error(error, "en")[0]
    )


def test_a_phrase_without_chinese_words_stays_english():
    assert phrase(Phrase("nobody says {this}", this="so"), "zh") == "nobody says so"


@pytest.mark.parametrize("way", [lambda error: json.loads(json.dumps(error.to_dict())), lambda error: error.to_dict()])
def test_a_phrase_goes_with_its_error_where_it_is_kept(in_chinese, way):
    in_chinese("it names {what}", "它提到 {what}")
    in_chinese("a {thing}", "某{thing}")
    told = way(WeightsError(path="x", reason=Phrase("it names {what}", what=Phrase("a {thing}", thing="b"))))
    assert "它提到 某b" in translate_error(error_from_dict(told), "zh")[0]


def test_a_phrase_survives_a_pickle():
    error = pickle.loads(pickle.dumps(ToolInvalid(field="x", reason=Phrase("it has {found}", found=3))))
    assert error.params["reason"].template == "it has {found}"
    assert pickle.loads(pickle.dumps(Phrase("a {b}", b=1))).values == {"b": 1}


def test_every_phrase_has_chinese_words_with_its_placeholders():
    known = chinese()
    for path, template in templates():
        if path == "i18n/phrase.py":
            continue
        assert template is not None, f"{path}: a Phrase is made of a literal, or its translation cannot be found"
        assert template in known, f"{path}: phrases.json lacks {template!r}"
        assert placeholders(known[template]) == placeholders(template), template


@pytest.mark.skipif(sys.platform != "linux", reason="other systems word their errors otherwise")
def test_what_the_system_refuses_is_said_in_chinese():
    error = WeightsError("file_unreadable", path="x", reason=os.strerror(errno.EACCES))
    assert "没有权限" in translate_error(error, "zh")[0]


def test_what_sqlite_refuses_is_said_in_chinese(tmp_path):
    assert [reason for reason in SAID_BY_SQLITE if reason not in chinese()] == []
    with raises_code("database_broken") as broken:
        path = tmp_path / "roost.db"
        path.write_text("no database at all, but longer than a header of one" * 20)
        Database(path)
    assert "它不是数据库文件" in translate_error(broken.value, "zh")[0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems word their errors otherwise")
def test_no_chinese_words_are_for_a_phrase_that_is_gone():
    said = {node.value for _, tree in code() for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    said |= {os.strerror(number) for number in errno.errorcode}  # given as a reason where the system refuses
    said |= set(SAID_BY_SQLITE)
    own_words = ast.walk(ast.parse(inspect.getsource(argparse)))  # the terminal's help and mistakes
    said |= {node.value for node in own_words if isinstance(node, ast.Constant)}
    assert [english for english in chinese() if english not in said] == []


ENGLISH = (
    "backends/fake.py",  # for tests
    "backends/rwkv_pip/backend.py",  # what torch says
    "engine/llm_engine.py",  # what only a bug could ask for
    "errors.py",
    "services/generation/",  # programs ask; the pages check before they do
    "training/",
    "web/api/",
    "web/app.py",
    "web/socket/",
)
"""Where reasons are made that no reader sees, or that come from elsewhere."""


def reasons():
    """(place, node) of what every error of the pages is given as its reason or way out."""
    for path, tree in code():
        if path.startswith(ENGLISH):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in ("reason", "way_out"):
                yield f"{path}:{node.value.lineno}", node.value
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("reason", "way_out"):
                yield f"{path}:{node.lineno}", node.value
            elif isinstance(node, ast.Call) and name_of(node.func) in ("_Damaged", "_damaged", "_cut_off"):
                yield f"{path}:{node.lineno}", node.args[-1]


def name_of(function):
    return getattr(function, "id", getattr(function, "attr", ""))


def test_no_reason_on_a_page_is_english_alone():
    known = chinese()
    for place, node in reasons():
        assert not isinstance(node, ast.JoinedStr), f"{place}: words with values are a Phrase"
        if isinstance(node, ast.Constant) and node.value:
            assert node.value in known, f"{place}: phrases*.json lacks {node.value!r}"

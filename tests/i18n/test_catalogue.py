"""English and Chinese have the same keys; every key that is used exists, and every key is used."""

import argparse
import ast
import errno
import functools
import inspect
import json
import os
import pickle
import re
import string

import pytest

from tests.sources import MODULES, ROOT, nodes_of
from webapp.cli.parser import ARGPARSE
from webapp.errors import ROWS, RequestError, RoostError, WeightsError, error_from_dict, translate_error
from webapp.i18n import LOCALES, Text, plain, say, system_reason, text_from_plain, translate
from webapp.i18n.translation import CATALOGUE_DIR, Catalogue, catalogue
from webapp.settings import SETTINGS
from webapp.storage.backups import SAID_BY_SQLITE
from webapp.storage.database import Database

KEY = re.compile(r"[a-z_0-9]+(?:\.[a-z_0-9]+)+")
QUOTED = re.compile(r"""["']([\w.]+)(?=["'])""")
ASKED = re.compile(r"""\bt\(\s*["']([a-z_0-9]+(?:\.[a-z_0-9]+)+)["']""")


@functools.cache
def texts_of(folder, ending):
    return {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).rglob(f"*{ending}"))}


def placeholders(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def asked_for():
    """(place, key) of each literal key in a call of ``t`` or Text."""
    for path, text in texts_of("templates", ".html").items():
        yield from ((path.relative_to(ROOT).as_posix(), key) for key in ASKED.findall(text))
    for path in MODULES:
        for node in nodes_of(path):
            if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                name, key = getattr(node.func, "id", getattr(node.func, "attr", "")), node.args[0].value
                if name in ("t", "Text", "translate") and isinstance(key, str) and KEY.fullmatch(key):
                    yield f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", key


def written():
    """Keys and patterns of keys anywhere in the code, the templates and the scripts."""
    keys, patterns = set(), set()
    for path in MODULES:
        for node in nodes_of(path):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                keys.add(node.value)
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "done_toast":
                patterns.add(re.escape(ast.literal_eval(node.args[0])) + r"\.\w+")
            elif isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else None for part in node.values]
                if re.search(r"[a-z]{3}", "".join(part or "" for part in parts)) and "." in "".join(
                    filter(None, parts)
                ):
                    patterns.add("".join(r"[\w.]+" if part is None else re.escape(part) for part in parts))
    for text in [*texts_of("templates", ".html").values(), *texts_of("static", ".js").values()]:
        keys |= set(QUOTED.findall(text))
    patterns |= {re.escape(key) + r"[\w.]+" for key in keys if key.endswith(".") and KEY.fullmatch(key + "x")}
    return keys, re.compile("|".join(sorted(patterns)))


@pytest.fixture
def in_chinese(monkeypatch):
    def put(key, english, chinese):
        monkeypatch.setitem(catalogue().texts["en"], key, english)
        monkeypatch.setitem(catalogue().texts["zh"], key, chinese)

    return put


def test_both_languages_have_the_same_keys():
    english, chinese = catalogue().texts["en"], catalogue().texts["zh"]
    no_singular = {key for key in english if key.endswith(".one") and key not in chinese}
    assert set(english) - no_singular == set(chinese)


def test_both_languages_have_the_same_files():
    areas = [{path.name for path in (CATALOGUE_DIR / locale).glob("*.json")} for locale in LOCALES]
    assert areas[0] == areas[1]


def test_placeholders_are_the_same_in_both_languages():
    english, chinese = catalogue().texts["en"], catalogue().texts["zh"]
    for key in chinese:
        assert placeholders(chinese[key]) == placeholders(english[key]), key


@pytest.mark.parametrize("locale", LOCALES)
def test_no_text_is_empty(locale):
    assert [key for key, text in catalogue().texts[locale].items() if not text.strip()] == []


def test_every_key_that_is_asked_for_exists():
    known = catalogue().texts["en"]
    assert [(place, key) for place, key in asked_for() if key not in known and f"{key}.other" not in known] == []


def test_every_text_is_asked_for():
    keys, patterns = written()
    unasked = []
    for key in catalogue().texts["en"]:
        forms = {key, key.removesuffix(".one"), key.removesuffix(".other")}
        if not forms & keys and not any(map(patterns.fullmatch, forms)):
            unasked.append(key)
    assert unasked == []


def test_every_error_has_a_sentence_and_a_way_out():
    texts = {key for key in catalogue().texts["en"] if key.startswith("error.")}
    assert texts == {f"error.{code}.{part}" for code in ROWS for part in ("message", "hint")}


def test_every_setting_has_its_help():
    assert {key for key in catalogue().texts["en"] if key.startswith("setting.")} == {f"setting.{n}" for n in SETTINGS}


def test_argparse_still_has_the_texts_we_translate():
    said = {node.value for node in ast.walk(ast.parse(inspect.getsource(argparse))) if isinstance(node, ast.Constant)}
    assert set(ARGPARSE) - said == set()
    known = {key for key in catalogue().texts["zh"] if key.startswith("cli.argparse.")}
    assert known == {f"cli.argparse.{name}" for name in ARGPARSE.values()}


def test_a_missing_key_shows_itself():
    assert translate("no.such.key", "zh") == "no.such.key"


def test_a_text_only_english_has_falls_back():
    texts = Catalogue({"en": {"a": "only {name}"}, "zh": {}})
    assert texts.translate("a", "zh", {"name": "here"}) == "only here"


def test_plurals():
    assert translate("unit.tokens", "en", count=1) == "1 token"
    assert translate("unit.tokens", "en", count=2) == "2 tokens"
    assert translate("unit.tokens", "zh", count=1) == "1 个 token"


def test_a_missing_parameter_does_not_raise():
    assert translate("reason.engine.one_of", "en") == "one of ?"


def test_two_files_may_not_define_one_key(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "en").mkdir(exist_ok=True)
        (tmp_path / "en" / f"{name}.json").write_text('{"x": {"y": "z"}}')
    with pytest.raises(ValueError, match=r"x\.y"):
        Catalogue.load(tmp_path)


def test_errors_are_said_in_the_readers_language():
    error = RequestError("sampling_invalid", name="top_p", value=3, allowed="0 - 1")
    assert translate_error(error, "en") == (error.message, error.hint)
    assert translate_error(error, "zh")[0] == "top_p 的值是 3，必须为 0 - 1。"


def test_braces_in_a_value_are_unchanged():
    assert "{evil}" in translate_error(RoostError(reason="{evil}"), "zh")[0]


def test_a_reason_is_translated_with_its_error_and_its_values(in_chinese):
    in_chinese("reason.test.found", "it has {found} at {place}", "{place}有 {found}")
    in_chinese("reason.test.end", "the end", "末尾")
    error = WeightsError(path="x", reason=Text("reason.test.found", found="{9}", place=Text("reason.test.end")))
    assert "末尾有 {9}" in translate_error(error, "zh")[0]
    assert "it has {9} at the end" in translate_error(error, "en")[0]
    again = error_from_dict(json.loads(json.dumps(error.to_dict())))
    assert translate_error(again, "zh") == translate_error(error, "zh")


def test_a_text_survives_a_pickle_and_json():
    text = Text("reason.test.found", found=3, place=Text("reason.test.end"))
    assert pickle.loads(pickle.dumps(text)) == text
    assert text_from_plain(json.loads(json.dumps(plain(text)))) == text


def test_what_is_no_text_is_said_as_it_is():
    assert say("it is so", "zh") == "it is so" and plain(None) is None and text_from_plain("it is so") == "it is so"


def test_what_the_system_refuses_is_said_in_the_readers_language():
    denied = OSError(errno.EACCES, os.strerror(errno.EACCES))
    assert system_reason(denied) == Text("system.eacces") and say(system_reason(denied), "zh") == "没有权限"
    assert system_reason(OSError("odd")) == "odd"
    names = {key.removeprefix("system.") for key in catalogue().texts["en"] if key.startswith("system.e")}
    assert names - {name.lower() for name in errno.errorcode.values()} == set()


def test_what_sqlite_refuses_is_said_in_the_readers_language(tmp_path):
    assert {key for key in catalogue().texts["en"] if key.startswith("system.sqlite")} == set(SAID_BY_SQLITE.values())
    path = tmp_path / "roost.db"
    path.write_text("no database at all, but longer than a header of one" * 20)
    with pytest.raises(RoostError) as broken:
        Database(path)
    assert broken.value.params["reason"] == Text("system.sqlite_not_a_database")

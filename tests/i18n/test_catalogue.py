"""English and Chinese say the same things, and nothing is missing from either."""

import re
import string
from pathlib import Path

import pytest

from webapp.errors import ROWS, RequestError, RoostError, translate_error
from webapp.i18n import LOCALES, phrase, translate
from webapp.i18n.translation import CATALOGUE_DIR, Catalogue, catalogue

ROOT = Path(__file__).resolve().parents[2]
T_CALL = re.compile(r"""\bt\(\s*["']([a-z_0-9]+(?:\.[a-z_0-9]+)+)["']""")


def placeholders(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def page_texts(locale):
    return {key: text for key, text in catalogue().texts[locale].items() if not key.startswith("phrase.")}


def test_both_languages_have_the_same_keys():
    english, chinese = page_texts("en"), page_texts("zh")
    no_singular = {key for key in english if key.endswith(".one") and key not in chinese}
    assert set(english) - no_singular == set(chinese)


def test_both_languages_have_the_same_files():
    areas = [{path.name for path in (CATALOGUE_DIR / locale).glob("*.json")} for locale in LOCALES]
    only_chinese = {name for name in areas[1] - areas[0] if not name.startswith("phrases")}
    assert only_chinese == set() and areas[0] <= areas[1]


def test_placeholders_are_the_same_in_both_languages():
    english, chinese = page_texts("en"), page_texts("zh")
    for key in chinese:
        assert placeholders(chinese[key]) == placeholders(english[key]), key


@pytest.mark.parametrize("locale", LOCALES)
def test_no_text_is_empty(locale):
    empty = [key for key, text in catalogue().texts[locale].items() if not text.strip()]
    assert empty == []


def test_every_error_has_a_sentence_and_a_way_out():
    texts = {key for key in catalogue().texts["en"] if key.startswith("error.")}
    assert texts == {f"error.{code}.{part}" for code in ROWS for part in ("message", "hint")}


def used_keys():
    for folder, pattern in (("templates", "*.html"), ("webapp", "*.py")):
        for path in sorted((ROOT / folder).rglob(pattern)):
            for key in T_CALL.findall(path.read_text(encoding="utf-8")):
                yield path.relative_to(ROOT).as_posix(), key


def test_every_key_a_template_asks_for_exists():
    known = catalogue().texts["en"]
    missing = [(path, key) for path, key in used_keys() if key not in known and f"{key}.other" not in known]
    assert missing == []


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
    assert translate("status.queued", "en") == "Waiting, place ?"


def test_errors_are_said_in_the_readers_language():
    error = RequestError("sampling_invalid", name="top_p", value=3, allowed="0 - 1")
    assert translate_error(error, "en") == (error.message, error.hint)
    assert translate_error(error, "zh")[0] == "top_p 的值是 3，必须为 0 - 1。"


def test_fixed_reasons_are_translated_too():
    known = next(key for key in catalogue().texts["zh"] if key.startswith("phrase."))
    english = known.removeprefix("phrase.")
    assert phrase(english, "zh") != english and phrase("anything else", "zh") == "anything else"
    assert phrase(english, "zh") in translate_error(RoostError("not_allowed", reason=english), "zh")[0]


def test_two_files_may_not_define_one_key(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "en").mkdir(exist_ok=True)
        (tmp_path / "en" / f"{name}.json").write_text('{"x": {"y": "z"}}')
    with pytest.raises(ValueError, match=r"x\.y"):
        Catalogue.load(tmp_path)


def test_braces_in_a_value_are_left_alone():
    assert "{evil}" in translate_error(RoostError(reason="{evil}"), "zh")[0]

"""?lang=, then the cookie, then a fixed setting, then the browser, then English."""

import pytest

from webapp.i18n.translation import accepted_languages, choose_locale


@pytest.mark.parametrize(
    "query, cookie, header, setting, locale",
    [
        (None, None, None, "auto", "en"),
        ("zh", "en", "en", "en", "zh"),
        (None, "zh", "en", "en", "zh"),
        (None, None, "en", "zh", "zh"),
        (None, None, "zh-CN,zh;q=0.9,en;q=0.8", "auto", "zh"),
        (None, None, "fr,en;q=0.3,zh;q=0.8", "auto", "zh"),
        (None, None, "fr-FR, fr", "auto", "en"),
        ("klingon", "<script>", "*", "auto", "en"),
    ],
)
def test_choice(query, cookie, header, setting, locale):
    assert choose_locale(query, cookie, header, setting) == locale


@pytest.mark.parametrize(
    "header, tags",
    [
        ("zh-TW;q=0.5, en", ["en", "zh-tw"]),
        ("en;q=0, zh", ["zh"]),
        ("zh;q=abc, en;x=1, , ;q=1", []),
        ("en," * 100_000, ["en"] * 333),
    ],
)
def test_header(header, tags):
    assert accepted_languages(header)[:333] == tags

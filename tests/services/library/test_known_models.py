"""The list of published models is whole, and its hints fit the machine."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from webapp.i18n import LOCALES, translate
from webapp.services.library.model_files import FAMILIES, USES, hint, known_models

GB = 10**9


@pytest.mark.parametrize("model", known_models(), ids=lambda model: model.file)
def test_a_row_is_whole(model):
    assert model.family in FAMILIES and set(model.good_for) <= set(USES) and model.good_for
    assert re.fullmatch(r"[\w.-]+\.pth", model.file) and f"ctx{model.context}" in model.file.replace(
        "ctx16k", "ctx16384"
    )
    assert datetime.date.fromisoformat(model.published).strftime("%Y%m%d") in model.file
    page = urlsplit(model.page)
    assert (page.scheme, page.hostname) == ("https", "huggingface.co") and page.path.count("/") == 2
    assert model.licence
    billions = float(model.parameters.removesuffix("B"))
    assert model.size_bytes == pytest.approx(2e9 * billions, rel=0.1) or billions <= 0.4


def test_names_are_unique_and_families_stand_together():
    models = known_models()
    assert len({model.file for model in models}) == len(models)
    order = [FAMILIES.index(model.family) for model in models]
    assert order == sorted(order)


@pytest.mark.parametrize("locale", LOCALES)
def test_families_and_uses_have_words(locale):
    for key in [*(f"models.family.{name}" for name in FAMILIES), *(f"models.good_for.{name}" for name in USES)]:
        assert translate(key, locale) != key


def test_hints_follow_the_machine():
    model = replace(known_models()[0], size_bytes=3 * GB)
    assert hint(model, 32 * GB, (8 * GB,)).strategy == "cuda fp16"
    assert hint(model, 32 * GB, (3 * GB,)).strategy == "cpu fp32"
    assert hint(model, 6 * GB).strategy == "cpu bf16"
    assert hint(model, 2 * GB).strategy == ""
    assert hint(model, 2 * GB).needed_bytes > 3 * GB

"""The list of published models is whole, and what it offers fits the machine."""

from __future__ import annotations

import datetime
import re
from urllib.parse import urlsplit

import pytest

from webapp.i18n import LOCALES, translate
from webapp.services.downloads.catalogue import FAMILIES, QUICK_BYTES, USES, best, find, fitting, known_models
from webapp.services.strategy.hardware import Gpu, Hardware

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
    assert model.licence or model.family == "states"
    assert re.fullmatch("[0-9a-f]{64}|", model.sha256) and re.fullmatch(r"\w+/[\w.-]+", model.repo)
    if model.family == "states":
        return
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


def machine(ram_gb, vram_gb=0, disk_gb=100):
    gpus = (Gpu(0, "a card", vram_gb * GB, vram_gb * GB, ""),) if vram_gb else ()
    return Hardware("a processor", 4, 8, ram_gb * GB, ram_gb * GB, gpus, disk_gb * GB)


@pytest.mark.parametrize("ram_gb", [4, 16, 64])
def test_the_best_is_a_current_one_that_fits_and_is_quick(ram_gb):
    found = best(machine(ram_gb))
    fit = fitting(found, machine(ram_gb))
    assert found.family == "g1" and fit.is_fitting and fit.needed_bytes <= QUICK_BYTES
    assert best(machine(ram_gb, disk_gb=0)) is None


def test_more_memory_never_means_a_smaller_model():
    sizes = [best(machine(gb)).size_bytes for gb in (1, 2, 4, 8, 64)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_a_model_is_found_by_its_name():
    assert find("RWKV7-G1K-1.5B-20260930-ctx25600").file == "rwkv7-g1k-1.5b-20260930-ctx25600.pth"
    assert find("nothing") is None

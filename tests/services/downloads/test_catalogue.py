"""The list of published models is complete, and the recommended ones fit the machine."""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.errors import raises_code
from tests.services.downloads.hub_server import HubServer
from webapp.i18n import LOCALES, translate
from webapp.manager.memory import Gpu
from webapp.services.downloads import catalogue
from webapp.services.downloads.catalogue import FAMILIES, QUICK_BYTES, USES, best, find, fitting, known_models
from webapp.services.downloads.downloads import Downloads
from webapp.services.strategy import Hardware
from webapp.settings import Settings

GB = 10**9


@pytest.mark.parametrize("model", known_models(), ids=lambda model: model.file)
def test_a_row_is_whole(model):
    assert model.family in FAMILIES and set(model.good_for) <= set(USES) and model.good_for
    if model.is_folder:
        assert re.fullmatch(r"[\w.-]+", model.file) and model.folder == ""
        assert any(other.is_twin_of(model) and not other.is_folder for other in known_models())
    else:
        context = f"ctx{model.context}"
        assert re.fullmatch(r"[\w.-]+\.pth", model.file) and context in model.file.replace("ctx16k", "ctx16384")
    assert datetime.date.fromisoformat(model.published).strftime("%Y%m%d") in model.file
    page = urlsplit(model.page)
    assert (page.scheme, page.hostname) == ("https", "huggingface.co") and page.path.count("/") == 2
    assert model.licence or model.family == "states"
    assert re.fullmatch("[0-9a-f]{64}|", model.sha256) and re.fullmatch(r"\w+/[\w.-]+", model.repo)
    if model.family == "states":
        return
    billions = float(model.parameters.removesuffix("B"))
    assert model.size_bytes == pytest.approx(2e9 * billions, rel=0.1) or billions <= 0.4


def test_names_are_unique_and_families_are_listed_together():
    models = known_models()
    assert len({model.file for model in models}) == len(models)
    order = [FAMILIES.index(model.family) for model in models]
    assert order == sorted(order)


@pytest.mark.parametrize("locale", LOCALES)
def test_families_and_uses_have_words(locale):
    for key in [*(f"models.family.{name}" for name in FAMILIES), *(f"models.good_for.{name}" for name in USES)]:
        assert translate(key, locale) != key


def machine(ram_gb, vram_gb=0):
    gpus = (Gpu(0, "a card", vram_gb * GB, vram_gb * GB),) if vram_gb else ()
    return Hardware("a processor", 4, 8, ram_gb * GB, ram_gb * GB, gpus)


@pytest.mark.parametrize("ram_gb", [4, 16, 64])
def test_the_best_is_a_current_one_that_fits_and_is_quick(ram_gb):
    found = best(machine(ram_gb), 100 * GB)
    fit = fitting(found, machine(ram_gb))
    assert found.family == "g1" and fit.is_fitting and fit.needed_bytes <= QUICK_BYTES
    assert best(machine(ram_gb), disk_free=0) is None


def test_more_memory_never_means_a_smaller_model():
    sizes = [best(machine(gb), 100 * GB).size_bytes for gb in (1, 2, 4, 8, 64)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_a_model_is_found_by_its_name():
    assert find("RWKV7-G1K-1.5B-20260930-ctx25600").file == "rwkv7-g1k-1.5b-20260930-ctx25600.pth"
    assert find("nothing") is None
    assert find("rwkv7-g1k-1.5b-20260930").is_folder


def test_of_a_file_and_a_folder_of_the_same_weights_the_file_is_best():
    found = best(machine(8), 100 * GB)
    twins = [model for model in known_models() if model.is_twin_of(found)]
    assert len(twins) == 2 and not found.is_folder
    assert all(fitting(twin, machine(8)).is_fitting for twin in twins)


# A newer list of published models


def listed(**changes: Any) -> bytes:
    row = {
        "file": "rwkv7-g1z-9b-20270101-ctx99.pth",
        "family": "g1",
        "parameters": "9B",
        "size_bytes": 18 * 10**9,
        "size_is_exact": True,
        "sha256": None,
        "good_for": ["chat"],
        "published": "2027-01-01",
        "context": 99,
        "licence": "Apache-2.0",
        "repo": "BlinkDL/rwkv7-g1",
        "architecture": "7",
        "layers": 32,
        "width": 4096,
    }
    return json.dumps([{**row, **changes}]).encode()


@pytest.fixture
def with_list(open_downloads: Any, hub: HubServer) -> Iterator[Any]:
    """with_list(content, its checksum) -> Downloads with a server that has this list."""

    def open_one(content: bytes, sha256: str | None = None) -> Downloads:
        hub.files["list.json"] = content
        pinned = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
        url = f"{hub.url}/x/resolve/main/list.json"
        found: Downloads = open_downloads(catalogue_url=url, catalogue_sha256=pinned)
        return found

    yield open_one
    catalogue.use_newer(Path("none"), "")


def test_a_newer_list_is_fetched_when_asked_and_kept(with_list: Any, open_downloads: Any, hub: HubServer) -> None:
    shipped = catalogue.known_models()
    downloads = with_list(listed())
    assert catalogue.known_models() == shipped and hub.requests == []
    downloads.refresh_catalogue()
    assert [model.parameters for model in catalogue.known_models()] == ["9B"]
    assert downloads.named("rwkv7-g1z-9b-20270101-ctx99").size_bytes == 18 * 10**9
    hub.requests.clear()
    with_list(listed())  # a restart
    assert len(catalogue.known_models()) == 1 and hub.requests == []
    open_downloads()  # the settings no longer contain it
    assert catalogue.known_models() == shipped


@pytest.mark.parametrize(
    ("content", "sha256", "expected"),
    [
        (listed(), "0" * 64, "download_wrong_hash"),
        (listed(), "", "download_link_invalid"),
        (b"<html>", None, "download_not_a_file"),
        (b"[]", None, "download_not_a_file"),
        (listed(file="../../x.pth"), None, "download_not_a_file"),
        (listed(file="a/../../x.pth"), None, "download_not_a_file"),
        (listed(file="../x", is_folder=True), None, "download_not_a_file"),
        (listed(file="a/..", is_folder=True), None, "download_not_a_file"),
        (listed(is_folder=1), None, "download_not_a_file"),
        (listed(repo="x"), None, "download_not_a_file"),
        (listed(width="4096"), None, "download_not_a_file"),
        (listed(good_for=["nothing"]), None, "download_not_a_file"),
        (listed(more=1), None, "download_not_a_file"),
    ],
)
def test_a_list_that_is_not_the_one_is_not_taken(
    with_list: Any, settings: Settings, content: bytes, sha256: str | None, expected: str
) -> None:
    shipped = catalogue.known_models()
    downloads = with_list(content, sha256)
    with raises_code(expected):
        downloads.refresh_catalogue()
    assert catalogue.known_models() == shipped and not (settings.data_dir / "catalogue.json").exists()


def test_a_list_that_was_changed_on_the_disk_is_not_believed(with_list: Any, settings: Settings) -> None:
    shipped = catalogue.known_models()
    with_list(listed()).refresh_catalogue()
    (settings.data_dir / "catalogue.json").write_bytes(listed(parameters="1B"))
    with_list(listed())
    assert catalogue.known_models() == shipped

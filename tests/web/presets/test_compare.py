"""The manual's tables, and that all of Roost's figures are real."""

import pytest

from webapp.engine.registry import kinds
from webapp.services.strategy import comparison


def test_every_kind_of_the_tables_is_one_of_the_builders():
    known = {row.kind.key for row in kinds()}
    data = comparison()
    assert {*(row["kind"] for row in (*data["memory"], *data["measured"])), *data["kinds"]} <= known
    assert len(data["memory"]) == 11 and len(data["kinds"]) == 5


def test_measured_figures_are_shown_with_their_command():
    assert comparison()["measured"]
    for row in comparison()["measured"]:
        assert row["peak_gb"] > 0 and row["size"] in comparison()["sizes"]
        assert row["machine"] and row["date"] and row["command"]


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_the_page_shows_the_manuals_figures(browser, locale):
    status, page = browser.get(f"/presets/compare?lang={locale}")
    assert status == 200
    for figure in ("6.6 GB", "21 GB", "12.4 GB", "28.5 GB", "14.8 GB", "10.4 GB", "1.2 GB", "★★★★★", "★★☆☆☆"):
        assert figure in page, figure
    assert "preset_page." not in page
    for figure in ("RWKV-4, 5, 6, 7", "Roost: 6.49 GB", "RWKV-7 1.53B", "fit_table"):
        assert figure in page.replace("Roost：", "Roost: "), figure

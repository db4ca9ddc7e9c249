"""docs/features.md: every claim about Roost has an existing test."""

import re

from tests.sources import ROOT

PAGE = ROOT / "docs" / "features.md"
TEST = re.compile(r"`([\w/]+)::(test_\w+)`")


def rows():
    """The cells of each row: feature, four peers, Roost."""
    lines = PAGE.read_text(encoding="utf-8").partition("## Page weight")[0].splitlines()
    split = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    return [cells for cells in split if cells[0] and cells[0] != "|"]


def test_every_yes_names_a_test_that_is_there_and_every_no_names_none():
    found = [cells for cells in rows() if len(cells) == 6]
    assert len(found) == len(rows()) > 50
    for feature, *_, roost in found:
        named = TEST.search(roost)
        assert (roost == "**no**") is (named is None), feature
        if named:
            text = (ROOT / "tests" / f"{named[1]}.py").read_text(encoding="utf-8")
            assert f"def {named[2]}(" in text, feature

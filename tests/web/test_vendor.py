"""Third-party scripts are the published files, unchanged, and each is documented."""

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).resolve().parents[2] / "static" / "vendor"


def table_rows():
    for line in (VENDOR / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 6 and len(cells[5]) == 64:
            yield cells


def test_every_script_has_the_hash_of_the_table():
    found = {cells[0]: cells[5] for cells in table_rows()}
    assert len(found) >= 2
    for name, sha256 in found.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == sha256, name


def test_nothing_is_here_without_a_row_and_a_licence():
    listed = {cells[0] for cells in table_rows()}
    licences = {path.name for path in VENDOR.glob("*.LICENSE")}
    assert {path.name for path in VENDOR.iterdir()} == listed | licences | {"README.md", ".gitattributes"}
    for cells in table_rows():
        assert any(licence in cells[4] for licence in licences), cells[0]


def test_no_script_names_another_host():
    """Except in mermaid's notices: it runs only in a frame without a network (tests/browser/test_preview.py)."""
    for path in VENDOR.glob("*.min.js"):
        text = path.read_text(encoding="utf-8")
        assert "https://" not in text and "sourceMappingURL" not in text, path.name


def test_every_file_that_a_style_sheet_names_is_there():
    folder = VENDOR.parent / "css"
    named = {name for path in folder.glob("*.css") for name in re.findall(r'url\("([^"]+)"', path.read_text("utf-8"))}
    assert "../vendor/roost-math.woff2" in named
    assert [name for name in named if not (folder / name).is_file()] == []

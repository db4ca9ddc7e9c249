"""`roost kernels` on machines with and without a compiler."""

from __future__ import annotations

import pytest

from webapp.backends import packed_file
from webapp.backends.native import building
from webapp.cli import main
from webapp.cli.kernels import make_ready


@pytest.fixture
def bare_machine(tmp_path, monkeypatch):
    """No library, no compiler. Returns the folder of its programs."""
    for name in (building.LIBRARY_VARIABLE, "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(building.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(building, "BUILT", tmp_path / "no wheel")
    monkeypatch.setattr(building.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def test_without_a_compiler_it_says_so_and_what_would_change_it(bare_machine, capsys):
    assert main(["kernels"]) == 0
    assert "ziglang" in capsys.readouterr().out
    assert main(["kernels", "build"]) == 2
    assert "ziglang" in capsys.readouterr().err


def test_what_measures_compiles_first_or_says_what_is_in_the_way(bare_machine, capsys):
    make_ready()
    assert "ziglang" in capsys.readouterr().err
    compiler = bare_machine / "g++"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such thing' >&2; exit 1\n")
    compiler.chmod(0o755)
    for is_tried in (True, False):  # once
        make_ready()
        told = capsys.readouterr()
        assert ("g++" in told.err.splitlines()[0]) is is_tried and "no such thing" in told.err and told.out == ""


def test_a_compiler_that_failed_is_tried_again_when_asked_to(bare_machine, capsys):
    compiler = bare_machine / "g++"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such thing' >&2; exit 1\n")
    compiler.chmod(0o755)
    for _ in range(2):
        assert main(["kernels", "build"]) == 2
        told = capsys.readouterr()
        assert "g++" in told.out and "no such thing" in told.err


def test_a_library_that_is_there_is_named(monkeypatch, tmp_path, capsys):
    library = tmp_path / "made.so"
    monkeypatch.setenv(building.LIBRARY_VARIABLE, str(library))
    assert main(["kernels"]) == 0
    assert str(library) in capsys.readouterr().out


def test_packed_files_are_counted_and_cleared(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(building.CACHE_VARIABLE, str(tmp_path))
    folder = packed_file.folder()
    folder.mkdir()
    (folder / f"a-b{packed_file.SUFFIX}").write_bytes(b"123456789")
    assert main(["kernels"]) == 0
    assert str(folder) in capsys.readouterr().out
    assert main(["kernels", "clear"]) == 0
    assert "9" in capsys.readouterr().out
    assert list(folder.iterdir()) == []

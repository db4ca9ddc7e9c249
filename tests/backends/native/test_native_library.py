"""Getting the library: with a compiler, without one, with a broken one."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from webapp.backends.native import building, library

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No library in the cache, no compiler on the path. Returns the path's folder."""
    for name in (building.LIBRARY_VARIABLE, "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(building.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(building, "BUILT", tmp_path / "no wheel")
    monkeypatch.setattr(building.importlib.util, "find_spec", lambda name: None)
    (programs := tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def test_without_a_compiler_it_says_what_would_change_that(empty_machine: Path) -> None:
    found = library.availability()
    assert not found.is_available and found.reason and "ziglang" in str(found.way_out)
    with pytest.raises(library.NativeUnavailable):
        building.build()


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for a compiler")
def test_a_compiler_that_fails_is_remembered_until_there_is_another(empty_machine: Path) -> None:
    _script(empty_machine / "g++", "echo 'x.cpp:1: error: no such thing' >&2; exit 1")
    assert library.availability().is_available
    with pytest.raises(library.NativeUnavailable) as failed:
        building.build()
    assert "no such thing" in str(failed.value.reason)
    found = library.availability()
    assert not found.is_available and "no such thing" in str(found.reason)
    assert not building.is_built()
    _script(empty_machine / "c++", "exit 1")
    assert library.availability().is_available


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for a compiler")
def test_a_library_that_breaks_when_tried_out_is_not_kept(empty_machine: Path) -> None:
    _script(empty_machine / "g++", 'while [ "$1" != "-o" ]; do shift; done; echo nonsense > "$2"')
    with pytest.raises(library.NativeUnavailable):
        building.build()
    assert not building.is_built() and not library.availability().is_available


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for a compiler")
def test_two_processes_that_want_it_at_once_get_one_library(tmp_path: Path) -> None:
    """Both wait for each other before they request it. The compiler logs its calls and returns the existing library."""
    calls, built = tmp_path / "calls", building.find_library()
    compiler = tmp_path / "compiler"
    _script(compiler, f'echo "$*" >> {calls}; while [ "$1" != "-o" ]; do shift; done; cp {built} "$2"')
    code = "from webapp.backends.native import library; print('here', flush=True); input(); print(library.load()._name)"
    cache = tmp_path / "cache"
    environment = {**os.environ, building.CACHE_VARIABLE: str(cache), "PYTHONPATH": str(ROOT), "CXX": str(compiler)}
    environment.pop(building.LIBRARY_VARIABLE, None)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    programs = [subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) for _ in range(2)]
    assert [program.stdout.readline() for program in programs] == ["here\n"] * 2
    for program in programs:
        program.stdin.write("\n")
        program.stdin.flush()
    answers = {program.communicate(timeout=600)[0] for program in programs}
    assert answers == {f"{cache / building.library_name()}\n"}
    assert [path.name for path in cache.iterdir() if "roost_native" in path.name] == [building.library_name()]
    assert len(calls.read_text().splitlines()) == len(list(building.SOURCES.glob("*.cpp"))) + 1


def test_a_wheels_library_needs_no_libcxx_and_a_dll_of_zig_is_no_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In C++ mode, zig would compile libc++ before linking; with -static it made a .dll that could not be loaded."""
    runs: list[tuple[list[str], float | None]] = []

    def noted(command: list[str], timeout_s: float | None = building.BUILD_TIMEOUT_S) -> str:
        runs.append((command, timeout_s))
        Path(command[-1]).touch()
        return ""

    monkeypatch.setattr(building, "_run", noted)
    made = building.build(tmp_path, building.SYSTEMS["windows-x86_64"])
    link = runs[-1][0]
    assert made.suffix == ".dll" and "-shared" in link and "-static" not in link and "c++" not in link
    assert {timeout_s for _, timeout_s in runs} == {None}
    # GCC's libraries are linked in
    assert "-static" in building.link_flags(["c++"], building.SYSTEMS["windows-x86_64"])


def test_the_best_instruction_set_is_chosen_and_any_other_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.ISA_VARIABLE, raising=False)
    library.choose_isa.cache_clear()
    best = library.choose_isa()
    assert library.ISAS[best] == library.load().roost_best_isa()
    monkeypatch.setenv(library.ISA_VARIABLE, "portable")
    library.choose_isa.cache_clear()
    assert library.choose_isa() == "portable"
    assert library.choose_isa(best) == best
    with pytest.raises(library.NativeUnavailable):
        library.choose_isa("mmx")
    library.choose_isa.cache_clear()


def test_an_instruction_set_that_fails_its_test_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def roost_self_test(self, isa: int) -> bytes | None:
            return None if isa == library.ISAS["portable"] else b"q8 products"

    monkeypatch.setattr(library, "load", Broken)
    monkeypatch.delenv(library.ISA_VARIABLE, raising=False)
    library.choose_isa.cache_clear()
    assert library.choose_isa() == "portable"
    library.choose_isa.cache_clear()


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_wheel_can_be_built_with_the_standard_library_alone() -> None:
    code = """
import sys

class OnlyStandard:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in (*sys.stdlib_module_names, "webapp"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, OnlyStandard())
from webapp.backends.native import building
print(building.SYSTEMS["linux-arm64"].tag)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "manylinux_2_17_aarch64", found.stderr

"""Templates are compiled only at the first start, whatever happens to the cached files."""

import os

import pytest
from flask import Flask
from jinja2 import Environment
from jinja2.ext import Extension

from webapp.web.app import KeptTemplates


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """() -> how many templates were compiled to show one, in a new app."""
    monkeypatch.setattr("webapp.web.app.cache_dir", lambda: tmp_path / "cache")
    (tmp_path / "page.html").write_text("Hello {{ 1 + 1 }}")
    times = []
    compile_one = Environment.compile

    def counted(env, *args, **kwargs):
        times.append(1)
        return compile_one(env, *args, **kwargs)

    monkeypatch.setattr(Environment, "compile", counted)

    def show(folder=tmp_path, shown="Hello 2", **options):
        times.clear()
        app = Flask(__name__, template_folder=str(folder))
        app.jinja_options = options
        app.jinja_env.bytecode_cache = KeptTemplates.in_cache_dir()
        assert app.jinja_env.get_template("page.html").render() == shown
        return len(times)

    return show


def test_the_next_start_compiles_nothing_until_a_template_changes(compiled, tmp_path):
    assert [compiled(), compiled()] == [1, 0]
    (tmp_path / "page.html").write_text("Hello {{ 2 }}")
    assert [compiled(), compiled()] == [1, 0]


class Louder(Extension):
    def preprocess(self, source, name, filename=None):
        return source.replace("Hello", "HELLO")


def test_an_update_that_reads_the_same_template_in_another_way_compiles_it_again(compiled):
    assert [compiled(), compiled(shown="HELLO 2", extensions=[Louder])] == [1, 1]
    assert [compiled(trim_blocks=True), compiled(trim_blocks=True)] == [1, 0]


def test_several_roosts_of_a_user_take_the_room_of_one(compiled, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "page.html").write_text("Hello {{ 1 + 1 }}")
        assert compiled(tmp_path / name) == 1
    assert len(list((tmp_path / "cache/templates").iterdir())) == 1


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
def test_code_from_a_folder_that_others_may_write_to_is_not_run(compiled, tmp_path):
    compiled()
    (tmp_path / "cache/templates").chmod(0o777)
    assert [compiled(), compiled()] == [1, 1]


@pytest.mark.parametrize("left", [0, 3, 20, 60], ids=lambda left: f"{left} bytes")
def test_a_torn_file_is_made_again(compiled, tmp_path, left):
    compiled()
    (kept,) = (tmp_path / "cache/templates").iterdir()
    kept.write_bytes(kept.read_bytes()[:left])
    assert [compiled(), compiled()] == [1, 0]


def test_without_a_folder_each_start_compiles(compiled, tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    assert [compiled(), compiled()] == [1, 1]


def test_a_file_that_cannot_be_written_is_no_error(compiled, tmp_path):
    app_cache = KeptTemplates.in_cache_dir()
    (tmp_path / "cache/templates").rmdir()
    assert app_cache is not None
    app = Flask(__name__, template_folder=str(tmp_path))
    app.jinja_env.bytecode_cache = app_cache
    assert app.jinja_env.get_template("page.html").render() == "Hello 2"
